"""Settings that travel: infotext into the page, a picture to img2img, and a reload of the UI."""

import pytest

PLAIN = "a circle\nNegative prompt: red\nSteps: 2, Sampler: Euler, CFG scale: 1, Seed: 7, Size: 64x64"
CORE = f"{PLAIN}, NAG scale: 3.5, NAG tau: 3, NAG alpha: 0.5"
FULL = (
    f'{CORE}, NAG start: 0.1, NAG end: 0.75, NAG negative: "blue, square: x", NAG method: NASA, '
    "NAG hires: First pass, NAG hires scale: 2"
)
CORE_VALUES = {"enabled": True, "preset": "Custom", "scale": 3.5, "tau": 3.0, "alpha": 0.5}
DEFAULTS = {"start": 0.0, "end": 1.0, "negative": "", "method": "NAG", "hires": "Both", "hires_scale": 0.0}
FULL_VALUES = {
    "start": 0.1,
    "end": 0.75,
    "negative": "blue, square: x",
    "method": "NASA",
    "hires": "First pass",
    "hires_scale": 2.0,
}


def test_an_infotext_with_nag_fills_everything(page):
    page.paste(FULL)
    expected = CORE_VALUES | FULL_VALUES
    page.until(lambda: page.values(*expected), expected)
    page.until(lambda: page.summary, "Custom · φ 3.5 · 0.1–0.75 · NASA")


def test_an_infotext_without_nag_switches_it_off_and_omitted_keys_are_defaults_again(page):
    page.paste(FULL)
    page.until(lambda: page.values(*FULL_VALUES), FULL_VALUES)
    page.paste(PLAIN)
    page.until(lambda: page.get("enabled"), False)
    page.until(lambda: page.summary, "")
    page.paste(CORE)
    expected = CORE_VALUES | DEFAULTS
    page.until(lambda: page.values(*expected), expected)


def test_a_pasted_preset_is_that_preset(page):
    page.paste(f"{PLAIN}, NAG scale: 2, NAG tau: 2.5, NAG alpha: 0.5, NAG preset: SDXL")
    expected = {"enabled": True, "preset": "SDXL", "scale": 2.0, "alpha": 0.5}
    page.until(lambda: page.values(*expected), expected)


def test_send_to_img2img_carries_nag(page):
    page.paste(CORE)
    page.until(lambda: page.values(*CORE_VALUES), CORE_VALUES)
    page.generate(neg_prompt="red")
    page.raw.click("#txt2img_send_to_img2img")
    page.tab = "img2img"
    page.until(lambda: page.values(*CORE_VALUES), CORE_VALUES)
    page.until(lambda: page.summary, "Custom · φ 3.5")


def test_reload_ui_leaves_one_accordion_that_works(page):
    button = page.raw.locator("#settings_restart_gradio")
    if not button.count():
        pytest.skip("this WebUI has no Reload UI")
    page.restart(button)
    page.errors.clear()  # the page asks on while its server is away
    for tab in ("txt2img", "img2img"):
        assert page.raw.locator(f".input-accordion[id^=script_{tab}_nag]").count() == 1
    page.fill("txt2img_cfg_scale", 1)
    page.set("enabled", True)
    page.until(lambda: (page.editable("txt2img_neg_prompt"), page.summary), (True, "Auto"))
    assert "NAG scale" in page.generate(neg_prompt="red")
