"""What people send, paste and press, on any WebUI through its API."""

import base64
import io

import pytest
from PIL import Image, PngImagePlugin

from tests.live import client
from tests.live.test_advanced import NOT_THERE

ON = client.ON[0]


def status(webui):
    return webui.http.get("/nag/v1/status").json()


# Arguments


NOT_UNDERSTOOD = "not understood, False used"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([[{"enabled": True}]], NOT_UNDERSTOOD),
        (["checked"], NOT_UNDERSTOOD),
        (["enable", "Auto", 4], NOT_UNDERSTOOD),
        (["{broken"], NOT_UNDERSTOOD),
        ([2], NOT_UNDERSTOOD),
        ([{"enabled": False, "a": 1}], "unknown setting 'a' ignored"),
    ],
    ids=str,
)
def test_a_job_that_ends_up_off_by_mistake_says_why(webui, args, said):
    result = webui.txt2img(args)
    assert status(webui)["report"] == result.report()
    assert result.report().startswith("off; ")
    assert said in result.report()
    assert result.pixels == webui.txt2img().pixels


@pytest.mark.parametrize("args", [[], [False], [0], ["off"], [""], [None], [{"enabled": "no"}]], ids=str)
def test_off_on_purpose_leaves_no_word(webui, args):
    result = webui.txt2img(args)
    assert result.pixels == webui.txt2img().pixels
    assert "NAG" not in result.infotexts[0]


@pytest.mark.parametrize(
    "args", [['{"scale": 6}'], [True, '{"phi": "6,0"}'], [{"scale": " ６ "}], [{"nag_scale": "7"}]], ids=str
)
def test_the_same_number_in_other_writing(webui, args):
    assert webui.txt2img(args).pixels == webui.txt2img([{"scale": 6}]).pixels


def test_an_unreadable_value_is_the_presets_and_the_message_names_it(webui):
    plain = webui.txt2img([{}])
    for args in ([{"scale": "high"}], [{"alpha": "half"}], [{"enabled": "enable"}]):
        result = webui.txt2img(args)
        assert result.pixels == plain.pixels
        name = next(iter(args[0]))
        used = {"enabled": "True"}.get(name) or f"{status(webui)['strength'][name]:g}"
        assert f"{args[0][name]!r} not understood, {used} used" in result.report()


# Parameters


def drawn_again(webui, result, index=0, **more):
    """The job of the settings that png-info reads in a picture of a result."""
    encoded = base64.b64encode(result.pngs[index]).decode()
    found = webui.post("png-info", {"image": encoded}).json()["parameters"]
    keys = {"NAG scale": "scale", "NAG tau": "tau", "NAG alpha": "alpha", "NAG negative": "negative",
            "NAG negatives": "negatives", "NAG curve": "curve"}  # fmt: skip
    nag = {field: found[key] for key, field in keys.items() if key in found}
    return webui.txt2img(
        [{"enabled": True, "preset": "Custom", **nag}], prompt=found["Prompt"],
        negative_prompt=found["Negative prompt"], seed=int(found["Seed"]),
        styles=found.get("Styles array", []), **more,  # the host takes a style's words out of the prompts
    )  # fmt: skip


@pytest.mark.parametrize(
    "nag",
    [
        {}, {"negative": "blue, square: x"}, {"negative": "NAG negative"}, {"negative": "[red:blue:0.5]"},
        {"negatives": "red :: 2\nblue square :: 0.5"}, {"curve": "0:8, 1:1"},
        {"negative": "red<lora:none:1>"},
    ],
    ids=str,
)  # fmt: skip
def test_a_picture_is_drawn_again_from_its_parameters(webui, nag):
    if "negative" in nag and webui.is_sdnext:
        pytest.skip("SD.Next reads no weights and schedules where its pipeline gets the prompt as it is")
    result = webui.txt2img([{**ON, "preset": "Custom", **nag}])
    assert drawn_again(webui, result).pixels == result.pixels


def test_so_is_one_with_a_style_in_its_negative(webui):
    answer = webui.http.get("/sdapi/v1/prompt-styles")
    listed = answer.json() if answer.status_code == 200 else []
    names = [one["name"] for one in listed if (one.get("negative_prompt") or "").strip()]
    if not names:
        pytest.skip("this WebUI has no style with a negative prompt: add one to its styles.csv")
    result = webui.txt2img([{**ON, "preset": "Custom", "negative": "blue"}], styles=names[:1])
    plain = webui.txt2img([{**ON, "preset": "Custom", "negative": "blue"}])
    assert result.infotexts[0] != plain.infotexts[0]
    assert drawn_again(webui, result).pixels == result.pixels


# Pasting, which png-info does for an API client


def png_info(webui, line):
    text = PngImagePlugin.PngInfo()
    asked = f"Steps: 4, Sampler: Euler, CFG scale: 1, {line}"
    text.add_text("parameters", f"a circle\nNegative prompt: red\n{asked}")
    with io.BytesIO() as buffer:
        Image.new("RGB", (8, 8)).save(buffer, format="PNG", pnginfo=text)
        encoded = base64.b64encode(buffer.getvalue()).decode()
    response = webui.post("png-info", {"image": encoded})
    assert response.status_code == 200, response.text[:500]
    return response.json()["parameters"]


PR_44 = "nag_enabled: True, nag_negative: red, nag_scale: 4, nag_tau: 2.5, nag_alpha: 0.5"


def test_another_methods_picture_is_left_alone(webui):
    found = png_info(webui, "nag_enabled: True, nag_scale: 3.0, nag_norm_type: L2, nag_block: middle")
    assert not [key for key in found if key.startswith("NAG ")]


def test_what_an_import_takes_and_what_it_names(webui):
    found = png_info(
        webui,
        f"{PR_44}, nag_hr_override: True, nag_hr_scale: 8, nag_hr_tau: 3, nag_hr_alpha: 0.5, "
        "nag_block_list: d2, nag_sigma_start: 14, nag_sigma_end: 3",
    )
    assert [float(found[key]) for key in ("NAG scale", "NAG hires scale", "NAG hires tau")] == [4, 8, 3]
    assert "NAG negative" not in found, "it is the main one"
    assert found["NAG import"].endswith("not taken: nag_block_list d2, nag_sigma_start 14, nag_sigma_end 3")


@pytest.mark.parametrize("skipped", [["NAG negative"], ["NAG scale", "NAG tau", "NAG alpha"]], ids=str)
def test_what_the_webui_is_told_to_disregard(webui, skipped):
    webui.unless_sdnext("disregards fields by another setting")
    webui.http.post("/sdapi/v1/options", json={"infotext_skip_pasting": skipped}).raise_for_status()
    try:
        found = png_info(webui, "NAG scale: 3, NAG tau: 2.5, NAG alpha: 0.5, NAG negative: blue")
    finally:
        webui.http.post("/sdapi/v1/options", json={"infotext_skip_pasting": []}).raise_for_status()
    assert not [key for key in skipped if key in found]
    assert found["NAG enabled"] == "True", "NAG was on, and pasting must not switch it off"


# Pictures


def test_a_mask_whose_shape_is_in_its_alpha_channel(webui):
    webui.unless_sdnext(NOT_THERE)
    shape = Image.new("L", (64, 64), 0)
    shape.paste(255, (0, 0, 32, 64))
    alpha = Image.new("RGBA", (64, 64), "black")
    alpha.putalpha(shape)
    drawn = []
    for picture in (shape, alpha):
        with io.BytesIO() as buffer:
            picture.save(buffer, format="PNG")
            mask = base64.b64encode(buffer.getvalue()).decode()
        drawn.append(webui.txt2img([{**ON, "mask": "Inside", "mask_image": f"data:image/png;base64,{mask}"}]))
    assert "4/4 steps" in drawn[1].report()
    assert drawn[0].pixels == drawn[1].pixels


def test_heat_maps_are_none_of_a_scripts_results(webui):
    webui.unless_sdnext(NOT_THERE)
    listed = webui.http.get("/sdapi/v1/scripts").json()["txt2img"]
    if "prompt matrix" not in listed:
        pytest.skip("this WebUI has no prompt matrix, the script that is tried")
    job = {
        "prompt": "a circle|on gray", "script_name": "prompt matrix",
        "script_args": [False, False, "positive", "comma", 0],
    }  # fmt: skip
    plain, heated = webui.txt2img([ON], **job), webui.txt2img([{**ON, "heat_map": True}], **job)
    results = len(plain.pngs)
    assert heated.pixels[:results] == plain.pixels
    assert all("NAG heat map of: " in text for text in heated.infotexts[results:])
