"""The accordion by hand: its tick, its controls, its presets, and the line behind its label."""

import pytest

from nag_core.settings.parse import FIELDS
from nag_core.settings.presets import TABLE_5

STRENGTH = ("scale", "tau", "alpha")


def row(name):
    return dict(zip(STRENGTH, (TABLE_5[name].phi, TABLE_5[name].tau, TABLE_5[name].alpha), strict=True))


def test_the_box_in_the_header_ticks_nag_without_opening(page):
    assert not page.get("enabled")
    page.set("enabled", True)
    page.until(lambda: page.summary, "Auto")
    assert not page.is_open
    assert "NAG scale" in page.generate()


def test_the_label_opens_and_enables(page):
    page.header.locator("span").last.click()
    page.until(lambda: (page.is_open, page.get("enabled")), (True, True))
    page.header.locator("span").last.click()
    page.until(lambda: (page.is_open, page.get("enabled")), (False, False))


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_every_control_is_there_once_with_its_default(page, tab):
    page.tab = tab
    for field in FIELDS:
        assert page.raw.locator(page.id(field.name)).count() == 1, field.name
        assert page.get(field.name) == field.default
        assert field.label in page.raw.locator(page.id(field.name)).text_content()


def test_a_picture_of_the_open_accordion(page, screenshots):
    name = "gradio4" if page.is_gradio_4 else "gradio3"
    page.open_accordion()
    page.raw.locator(page.id("enabled")).scroll_into_view_if_needed()
    page.raw.wait_for_timeout(500)
    page.raw.screenshot(path=screenshots / f"{name}-page.png")
    page.raw.locator(page.id("enabled")).screenshot(path=screenshots / f"{name}-auto.png")
    page.set("preset", "SD3.5")
    page.until(lambda: page.values(*STRENGTH), row("SD3.5"))
    page.set("scale", 3)
    page.set("end", 0.5)
    page.set("negative", "blurry, lowres")
    page.until(lambda: page.summary, "Custom · φ 3 · 0–0.5")
    page.raw.wait_for_timeout(300)
    page.raw.locator(page.id("enabled")).screenshot(path=screenshots / f"{name}-custom.png")
    page.raw.set_viewport_size({"width": 1000, "height": 1400})
    page.raw.wait_for_timeout(300)
    page.raw.locator(page.id("enabled")).screenshot(path=screenshots / f"{name}-narrow.png")


def test_a_named_preset_fills_the_sliders_and_generate_uses_it(page):
    page.open_accordion()
    page.set("preset", "SD3.5")
    page.until(lambda: page.values(*STRENGTH), row("SD3.5"))
    page.until(lambda: page.summary, "SD3.5 · φ 4")
    infotext = page.generate(neg_prompt="red", cfg_scale=1)
    assert "NAG preset: SD3.5" in infotext
    assert "NAG alpha: 0.125" in infotext
    assert page.get("preset") == "SD3.5"


def test_moving_a_slider_sets_custom_and_generate_uses_it(page):
    page.open_accordion()
    page.raw.focus(f"{page.id('tau')} input[type=range]")
    page.raw.keyboard.press("ArrowRight")
    page.until(lambda: page.values("preset", "tau"), {"preset": "Custom", "tau": 2.6})
    infotext = page.generate(neg_prompt="red", cfg_scale=1)
    assert "NAG tau: 2.6" in infotext
    assert "NAG preset" not in infotext


def test_the_report_stands_under_the_picture(page):
    page.set("enabled", True)
    page.generate(neg_prompt="red", cfg_scale=1)
    log = page.raw.locator("#html_log_txt2img").first
    page.until(lambda: "NAG: " in log.text_content(), True)
    assert "2/2 steps" in log.text_content()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "Auto"),
        ({"method": "NASA"}, "Auto · NASA"),
        ({"start": 0.25, "end": 0.75}, "Auto · 0.25–0.75"),
        ({"scale": 0}, "off: scale is 0"),
        ({"alpha": 0}, "off: alpha is 0"),
        ({"start": 0.5, "end": 0.5}, "off: the window 0.5–0.5 is empty"),
        ({"enabled": False}, ""),
    ],
    ids=str,
)
def test_the_line_behind_the_label_says_what_nag_is_set_to(page, values, line):
    page.open_accordion()
    page.until(lambda: page.summary, "Auto")
    for name, value in values.items():
        page.set(name, value)
    page.until(lambda: page.summary, line)


def test_the_header_tells_what_auto_takes_for_the_loaded_model_and_what_may_fit_better(page):
    page.fill("txt2img_cfg_scale", 1)
    page.set("enabled", True)
    page.until(lambda: page.auto != "", True)
    page.generate(steps=2)
    page.until(lambda: "φ" in page.auto and "τ" in page.auto, True)
    page.until(lambda: ("Few-step" in page.auto) or ("0–0." in page.auto), True)  # or the row's own End
    page.fill("txt2img_steps", 19)
    page.fill("txt2img_cfg_scale", 3)
    page.until(lambda: "CFG 1" not in page.auto, True)
    page.open_accordion()
    page.set("scale", 3)
    page.until(lambda: page.auto, "")


def test_without_the_route_the_header_is_as_it_was(page):
    """A server with --api-auth: nobody is asked for a password."""
    refused = {"status": 401, "headers": {"WWW-Authenticate": "Basic"}}
    page.raw.route("**/nag/v1/auto*", lambda route: route.fulfill(**refused))
    page.open()
    page.set("enabled", True)
    page.until(lambda: page.summary, "Auto")
    page.settles(lambda: page.auto, "")
    assert len([error for error in page.errors if "401" in error]) == 1, "and it is not asked again"
    page.errors.clear()


def test_one_answer_of_a_proxy_in_between_does_not_switch_the_header_off(page):
    """A restart behind a proxy is a 502: the line stayed away until the page was loaded again."""
    answers = []

    def in_between(route):
        answers.append(route)
        if len(answers) == 1:
            route.fulfill(status=502)
        else:
            route.continue_()

    page.raw.route("**/nag/v1/auto*", in_between)
    page.open()
    page.set("enabled", True)
    page.until(lambda: len(answers), 1)
    page.fill("txt2img_steps", 19)
    page.until(lambda: page.auto != "", True)
    assert len([error for error in page.errors if "502" in error]) == 1
    page.errors.clear()


def dimmed(page, name):
    parts = page.raw.locator(f"{page.id(name)} > *")
    return parts.evaluate_all("parts => parts.some((part) => Number(part.style.opacity || 1) < 1)")


def test_what_changes_nothing_is_dimmed(page):
    names = (*STRENGTH, "start", "end", "method", "hires_scale")
    page.open_accordion()
    page.until(lambda: [dimmed(page, name) for name in names], [True] * 7)
    page.set("scale", 3)
    page.until(lambda: [dimmed(page, name) for name in names], [False] * 3 + [True] * 4)
    page.set("end", 0.5)
    page.set("method", "NASA")
    # NASA reads neither tau nor alpha.
    page.until(lambda: [dimmed(page, name) for name in names], [False, *[True] * 3, False, False, True])


def test_without_the_javascript_everything_works(page):
    if not page.raw.locator('script[src*="/nag.js"]').count():
        pytest.skip("this page carries its scripts inside: they cannot be left out")
    page.raw.route("**/nag.js*", lambda route: route.fulfill(body=""))
    page.open()
    assert page.raw.locator(page.id("summary")).count() == 0
    page.open_accordion()
    page.set("preset", "SD3.5")
    page.until(lambda: page.values("enabled", *STRENGTH), {"enabled": True, **row("SD3.5")})


def test_vsf_has_an_offset_and_does_not_read_tau_and_alpha(page):
    page.open_accordion()
    offset, tau = (page.raw.locator(page.id(name)) for name in ("vsf_offset", "tau"))
    page.set("preset", "Custom")
    page.until(offset.is_visible, False)
    page.set("method", "VSF")
    page.until(offset.is_visible, True)
    page.until(lambda: tau.get_attribute("title"), "VSF does not read this")
    page.set("method", "NAG")
    page.until(offset.is_visible, False)
    page.until(lambda: tau.get_attribute("title"), "")
