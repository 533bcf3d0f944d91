"""What an API user gets, on any WebUI: guided pictures, the report, and nothing left behind."""

import json
import time

import pytest

from tests.live.client import ON, largest_difference
from tests.live.fingerprint import fingerprint


@pytest.mark.parametrize("cfg", [1, 7])
@pytest.mark.parametrize("size", [(64, 64), (128, 64)], ids=str)
def test_a_batch_of_three_with_nag_differs_from_nag_off(webui, cfg, size):
    job = {"cfg_scale": cfg, "batch_size": 3, "width": size[0], "height": size[1]}
    off, on = webui.txt2img(**job), webui.txt2img(ON, **job)
    assert len(on.pngs) == len(off.pngs) >= 3
    for index in range(3):
        assert on.pixels[index] != off.pixels[index]
        assert "NAG scale: 4" in on.infotexts[index]
        assert "4/4 steps" in on.report(index)
    assert "NAG" not in off.infotexts[0]


def test_the_negative_prompt_works_at_cfg_1(webui):
    red, blue = (webui.txt2img(ON, negative_prompt=text) for text in ("red", "blue square"))
    plain = [webui.txt2img(negative_prompt=text).pixels[0] for text in ("red", "blue square")]
    assert not webui.same_but_for_main_negative(red.pixels[0], blue.pixels[0])
    assert webui.same_but_for_main_negative(*plain), "without NAG no negative works at CFG 1"


def test_the_own_negative_box_wins_over_the_main_one(webui):
    own = webui.txt2img([{"scale": 4, "negative": "blue square"}], negative_prompt="red")
    main = webui.txt2img([{"scale": 4}], negative_prompt="blue square")
    assert webui.same_but_for_main_negative(own.pixels[0], main.pixels[0])
    red = webui.txt2img([{"scale": 4}], negative_prompt="red")
    assert not webui.same_but_for_main_negative(own.pixels[0], red.pixels[0])
    assert "NAG negative: blue square" in own.infotexts[0]


def test_the_same_request_gives_the_same_picture_whatever_ran_before(webui):
    first = webui.txt2img(ON)
    webui.txt2img(), webui.txt2img([{"scale": 9}], cfg_scale=7)
    assert webui.txt2img(ON).pngs == first.pngs


def test_on_and_off_again_leaves_no_trace(webui):
    before = webui.txt2img(cfg_scale=7)
    assert webui.txt2img(ON, cfg_scale=7).pixels != before.pixels
    assert webui.txt2img(cfg_scale=7).pngs == before.pngs


@pytest.mark.parametrize(
    ("nag", "reason"),
    [
        ([{"scale": 0}], "scale φ is 0"),
        ([{"alpha": 0}], "alpha is 0"),
        ([{"start": 0.5, "end": 0.5}], "window 0.5–0.5 is empty"),
    ],
)
def test_standing_aside_is_bit_identical_to_off_and_says_why(webui, nag, reason):
    result = webui.txt2img(nag)
    assert result.pixels == webui.txt2img().pixels
    assert reason in result.report()


def test_an_empty_negative_stands_aside(webui):
    result = webui.txt2img(ON, negative_prompt="")
    assert result.pixels == webui.txt2img(negative_prompt="").pixels
    assert "the negative prompt is empty" in result.report()


def test_a_scheduled_negative_whose_halves_differ_in_chunks(webui):
    """77 tokens until half of the steps, 154 after: the hosts' own cond batching cannot do this."""
    long = ", ".join(["blue square"] * 50)
    text = f"[red:{long}:0.5]"
    scheduled = webui.txt2img([{"scale": 4, "negative": text}])
    assert "4/4 steps" in scheduled.report()
    only_red = webui.txt2img([{"scale": 4, "negative": "red"}])
    only_long = webui.txt2img([{"scale": 4, "negative": long}])
    assert len({scheduled.pixels[0], only_red.pixels[0], only_long.pixels[0]}) == 3


def test_a_schedule_takes_effect_at_its_step(webui):
    """Up to step 2 of 4 the text is the first half: stopping NAG there must give the picture of the first
    half.
    """
    scheduled = webui.txt2img([{"scale": 4, "negative": "[red:blue square:0.5]", "end": 0.5}])
    plain = webui.txt2img([{"scale": 4, "negative": "red", "end": 0.5}])
    assert scheduled.pixels == plain.pixels


@pytest.mark.parametrize(
    "text", ["(red:1.5), circle", "red BREAK blue", "[red]", "red \\(thing\\)", "rød 円 🔴"]
)
def test_prompt_syntax_in_the_negative(webui, text):
    own, main = webui.txt2img([{"negative": text}]), webui.txt2img([{}], negative_prompt=text)
    assert webui.same_but_for_main_negative(own.pixels[0], main.pixels[0])
    assert "4/4 steps" in own.report()


def test_every_cond_of_an_and_prompt(webui):
    job = {"prompt": "a circle AND a square :0.6", "cfg_scale": 7, "batch_size": 2}
    off, on = webui.txt2img(**job), webui.txt2img(ON, **job)
    assert all(a != b for a, b in zip(on.pixels, off.pixels, strict=True))
    assert "4/4 steps" in on.report()


def test_a_picture_of_a_batch_equals_the_single_picture_of_its_seed(webui):
    """Equal up to the host's own rounding between batch sizes, which is measured beside it."""
    apart, own = [], []
    for nag, differences in ((None, own), (ON, apart)):
        batch = webui.txt2img(nag, batch_size=3)
        for index in range(3):
            single = webui.txt2img(nag, seed=1 + index)
            differences.append(largest_difference(batch.pixels[-3:][index], single.pixels[0]))
    assert max(apart) <= max(own) + 4


def steps_of(report):
    """(4, 7) of a report "16 layers × 4/7 steps, ..."."""
    return tuple(int(number) for number in report.partition("× ")[2].partition(" ")[0].split("/"))


def test_start_and_end_count_the_calls_of_the_pass(webui):
    assert "1/4 steps" in webui.txt2img([{"end": 0.25}]).report()
    assert "2/4 steps" in webui.txt2img([{"start": 0.5}]).report()


def test_start_and_end_with_a_sampler_of_two_calls_a_step(webui):
    webui.unless_sdnext("draws with Euler where Heun is asked for")
    report = webui.txt2img([{"end": 0.5}], sampler_name=webui.sampler("Heun"), steps=4).report()
    assert steps_of(report) == (4, 7)


def test_start_and_end_in_img2img_count_the_steps_that_are_sampled(webui):
    import base64

    webui.unless_sdnext("samples every step in img2img")
    image = base64.b64encode(webui.txt2img(width=128, height=128).pngs[0]).decode()
    job = {"init_images": [image], "denoising_strength": 0.5, "steps": 8, "route": "img2img",
           "width": 128, "height": 128}  # fmt: skip
    off, half = webui.txt2img(**job), webui.txt2img([{"end": 0.5}], **job)
    assert half.pixels != off.pixels
    guided, total = steps_of(half.report())
    assert total < 8
    assert guided == (total + 1) // 2


def test_cond_and_uncond_in_model_calls_of_their_own(webui):
    """As where memory is short: here their lengths are too far apart for one batch."""
    job = {"cfg_scale": 7, "prompt": "a circle, " * 190, "negative_prompt": "blue"}
    off = webui.txt2img(**job)
    on, other = (webui.txt2img([{"scale": 4, "negative": text}], **job) for text in ("red", "blue square"))
    assert "4/4 steps" in on.report()
    assert len({off.pixels[0], on.pixels[0], other.pixels[0]}) == 3
    assert webui.txt2img(**job).pixels == off.pixels


def test_a_negative_of_three_chunks_against_a_prompt_of_one(webui):
    long = ", ".join(["red circle framed"] * 60)
    assert webui.txt2img(ON, negative_prompt=long).pixels != webui.txt2img(negative_prompt=long).pixels


MALFORMED = [
    [], [None], ["yes"], [True], [{}], [[]], [True, True], [{"scale": "4"}], [{"scale": "many"}],
    [{"scale": None}], [{"scale": [1, 2]}], [{"enabled": "true", "tau": {}}], [{"negative": 7}],
    [{"negative": ["a"]}], [{"method": "x"}], [{"": 1, "bogus": 2}], [True] * 40,
    [True, "No such preset", "a", "b", "c", "d", "e", 3, 4, 5, 6, "{broken"],
    [True, "Auto", 1e308, -1e308, 5], [{"end": -1}, None, None], [{"negative": "x" * 5000}],
]  # fmt: skip


@pytest.mark.parametrize("args", MALFORMED, ids=lambda args: json.dumps(args)[:60])
def test_no_argument_list_is_a_server_error(webui, args):
    response = webui.post("txt2img", webui.payload(args, steps=1))
    assert response.status_code == 200, response.text[:500]


def test_what_was_clamped_or_not_understood_is_in_the_report(webui):
    report = webui.txt2img([{"scale": 99, "strenght": 1}]).report()
    assert "scale 99 is outside 0–20, 20 used" in report
    assert "strenght" in report


def test_the_schema_hosts_publish_has_our_labels(webui):
    listed = webui.http.get("/sdapi/v1/script-info").json()
    (script,) = [s for s in listed if s["name"] == "nag" and not s["is_img2img"]]
    assert [arg["label"] for arg in script["args"]][:3] == ["NAG", "Preset", "Scale (φ)"]
    assert script["args"][0]["value"] is False


def test_infotext_reads_back(webui):
    result = webui.txt2img([{"scale": 3.5, "negative": "blue, red: x", "end": 0.75}])
    import base64

    response = webui.post("png-info", {"image": base64.b64encode(result.pngs[0]).decode()})
    parameters = response.json()["parameters"]
    assert str(parameters["NAG scale"]) == "3.5"
    assert parameters["NAG negative"] == "blue, red: x"
    assert str(parameters["NAG end"]) == "0.75"


def test_hires_runs_nag_in_the_passes_asked_for(webui):
    job = {
        "enable_hr": True, "hr_scale": 2, "hr_upscaler": webui.upscaler, "denoising_strength": 0.6,
        "hr_cfg": 1, "width": 128, "height": 128, "hr_additional_modules": ["Use same choices"],
        "hr_force": True,  # else SD.Next enlarges the picture and samples no second time
    }  # fmt: skip
    off = webui.txt2img(**job)
    both, first, only = (
        webui.txt2img([{"hires": mode}], **job) for mode in ("Both", "First pass", "Hires only")
    )
    assert len({result.pixels[0] for result in (off, both, first, only)}) == 4
    assert "first pass: " in both.report()
    assert "hires pass: " in both.report()
    assert "not applied" not in both.report()
    assert "hires pass: not applied: hires is set to First pass" in first.report()
    assert "first pass: not applied: hires is set to Hires only" in only.report()


@pytest.mark.parametrize("cfg", [1, 7])
@pytest.mark.parametrize("negative", ["", "blue square"], ids=["main negative", "own negative"])
def test_the_refiner_switch_keeps_nag_on(webui, request, cfg, negative):
    """The host loads another model in the middle of sampling, and no script hook tells."""
    refiner = request.config.getoption("--refiner")
    if not refiner:
        pytest.skip("needs --refiner, a second checkpoint of the WebUI")
    job = {"refiner_checkpoint": refiner, "refiner_switch_at": 0.5, "steps": 6, "cfg_scale": cfg}
    off, on = webui.txt2img(**job), webui.txt2img([{"negative": negative}], **job)
    late = webui.txt2img([{"negative": negative, "start": 0.5}], **job)
    assert "6/6 steps" in on.report()
    assert "3/6 steps" in late.report()
    assert len({off.pixels[0], on.pixels[0], late.pixels[0]}) == 3
    assert webui.txt2img(**job).pixels == off.pixels


def test_an_interrupt_leaves_the_model_answering_as_before(webui):
    before = webui.txt2img()
    # SD.Next drops the picture so far unless told.
    more = {"override_settings": {"keep_incomplete": True}} if webui.is_sdnext else {}
    thread, results = webui.in_background(ON, steps=150, width=512, height=512, **more)
    while webui.http.get("/sdapi/v1/progress?skip_current_image=true").json()["state"]["sampling_step"] < 2:
        assert thread.is_alive(), "the job ended before it could be interrupted"
        time.sleep(0.05)
    webui.http.post("/sdapi/v1/interrupt")
    thread.join(300)
    assert results, "the interrupted job must still answer"
    guided, total = steps_of(results[0].report())
    assert 0 < guided == total < 150
    assert webui.txt2img().pngs == before.pngs


def test_an_error_in_the_middle_of_a_step_leaves_the_model_answering_as_before(webui):
    before = webui.txt2img()
    faulty = webui.payload(ON)
    faulty["alwayson_scripts"]["NAG test faults"] = {"args": [2]}
    status = webui.post("txt2img", faulty).status_code
    if status == 422:
        pytest.skip("this WebUI has no fault script: copy tests/live/extension into its extensions")
    # SD.Next marks an error as an interrupt, and answers with the pictures so far.
    assert status == (200 if webui.is_sdnext else 500)
    assert webui.txt2img().pngs == before.pngs
    assert "4/4 steps" in webui.txt2img(ON).report()


def test_with_nag_off_every_byte_is_that_of_a_webui_without_the_extension(webui, without_extension):
    assert fingerprint(webui) == without_extension
