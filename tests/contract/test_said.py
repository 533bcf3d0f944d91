"""Where a job's messages go: parameters, log, comment and status, also of jobs that end up off.

And that a job within another one writes none of that one's.
"""

import base64
import inspect
import io
import logging
from contextlib import closing
from copy import copy

import pytest
from PIL import Image

ON = {"enabled": True, "scale": 4}


@pytest.fixture
def status(script):
    """The last answer of /nag/v1/status."""
    return lambda: inspect.unwrap(type(script).process).__globals__["STATUS"].last


@pytest.fixture
def told(job, status, caplog, monkeypatch):
    """`told(args)`: every place in which the job's report must be, and whether it drew what NAG off draws."""
    monkeypatch.setattr(logging.getLogger("nag"), "propagate", True)
    off = job()[1].images[0].tobytes()

    def run(args, **fields):
        caplog.clear()
        with caplog.at_level(logging.INFO, "nag"):
            p, processed = job(args, **fields)
        places = (
            p.extra_generation_params.get("NAG report", ""),
            *processed.infotexts,
            "\n".join(p.comments),
            caplog.text,
            str(status()["report"]),
        )
        return places, processed.images[0].tobytes() == off

    return run


# What could not be read


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([[{"enabled": True}]], "off; enabled of type list not understood, False used"),
        (["checked"], "off; enabled 'checked' not understood, False used"),
        (["{broken"], "off; enabled '{broken' not understood, False used"),
        ([False, "Auto", "high"], "off; scale 'high' not understood, 2 used"),
        ([{"enabled": False, "strenght": 4}], "off; unknown setting 'strenght' ignored"),
    ],
    ids=str,
)
def test_a_job_that_ends_up_off_says_what_it_did_not_understand(told, args, said):
    places, drew_off = told(args)
    assert drew_off
    assert all(said in place.replace("\\'", "'") for place in places), places


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([{"enabled": "enable", "scale": 4}], "enabled 'enable' not understood, True used"),
        ([{"scale": "high"}], "scale 'high' not understood, 2 used"),
        ([{"alpha": "x"}], "alpha 'x' not understood, 0.375 used"),
        ([True, "Flux", "high"], "scale 'high' not understood, 4 used"),
    ],
    ids=str,
)
def test_a_guided_job_says_what_is_used_in_place_of_what_it_did_not_understand(told, args, said):
    places, drew_off = told(args)
    assert not drew_off
    assert all(said in place for place in places), places


def test_json_text_draws_what_the_dict_draws(job):
    drawn = [job([args])[1].images[0].tobytes() for args in ('{"enabled": true, "scale": 6}', {"scale": 6})]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("args", [[], [False], [0], ["off"], [""], [None], [{"enabled": False}]], ids=str)
def test_a_job_that_is_off_on_purpose_says_nothing(told, args):
    places, drew_off = told(args)
    assert drew_off
    assert not any("NAG" in place for place in places[:-1])
    assert places[-1] == "off"


def test_a_picture_that_says_off_switches_nag_off_when_pasted(job):
    from nag_core.webui import infotext

    p, _ = job(["checked"])
    assert "NAG report" in p.extra_generation_params
    assert infotext.READERS["enabled"](p.extra_generation_params) is False


# Jobs within a job


@pytest.fixture
def within(host, script, monkeypatch):
    """`within(run)`: has `run(p)` called in the middle of every job, as extensions that redraw parts do."""

    def install(run, hook="postprocess_image"):
        runner = type(host.scripts.scripts_txt2img)
        original = getattr(runner, hook)
        busy = []

        def around(self, p, *args, **kwargs):
            result = original(self, p, *args, **kwargs)
            if not busy:
                busy.append(1)
                run(p)
                busy.clear()
            return result

        monkeypatch.setattr(runner, hook, around)

    return install


@pytest.fixture
def inner(host, script):
    """`inner(outer, nag=None, **fields)`: an img2img job of its own, as ADetailer makes them."""
    from modules.processing import StableDiffusionProcessingImg2Img, process_images

    drawn = []

    def run(outer, nag=None, **fields):
        fields = {
            "init_images": [Image.new("RGB", (64, 64), "gray")], "prompt": "a circle", "negative_prompt": "",
            "seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 1, "sampler_name": "Euler",
            **fields,
        }  # fmt: skip
        with closing(StableDiffusionProcessingImg2Img(**fields)) as p:
            p.scripts = outer.scripts
            args = list(outer.script_args)
            if nag is not None:
                args[script.args_from] = nag
            p.script_args = tuple(args)
            drawn.append(process_images(p))
        return p

    run.drawn = drawn
    return run


INNER = [
    {},
    {"nag": False},
    {"nag": "junk"},
    {"nag": {"scale": 9}, "negative_prompt": "blue"},
    {"nag": {"scale": "x"}, "negative_prompt": "blue"},
]


@pytest.mark.parametrize("kind", INNER, ids=str)
@pytest.mark.parametrize("hook", ["postprocess_image", "process_batch", "postprocess_batch"])
def test_a_job_within_a_job_writes_none_of_its_state(job, status, within, inner, kind, hook):
    p, plain = job([ON])
    before, comments = {**status(), "time": 0}, list(p.comments)
    within(lambda p: inner(p, **kind), hook)
    p, processed = job([ON])
    assert inner.drawn
    assert {**status(), "time": 0} == before
    assert list(p.comments) == comments
    assert [text.replace("Seed: 1", "") for text in processed.infotexts] == [
        text.replace("Seed: 1", "") for text in plain.infotexts
    ]


def test_a_job_within_a_job_that_is_off_leaves_it_off(job, status, within, inner):
    within(lambda p: inner(p, {"scale": 9}, negative_prompt="blue"))
    p, processed = job([False])
    assert inner.drawn
    assert (status()["report"], status()["settings"]["enabled"]) == ("off", False)
    assert "NAG" not in processed.infotexts[0]
    assert "NAG" not in str(p.comments)


def test_a_copy_of_the_job_within_it_adds_no_comment(job, within, script):
    def on_a_copy(p):
        made = copy(p)
        script.process(made, {"enabled": "junk", "scale": 9})
        script.postprocess_batch(made)
        script.postprocess(made, None)

    before, _ = job([ON])
    within(on_a_copy)
    after, processed = job([ON])
    assert list(after.comments) == list(before.comments)
    assert "junk" not in processed.infotexts[0]


def test_a_job_within_a_job_draws_no_heat_map(job, within, inner):
    within(lambda p: inner(p, {"heat_map": True}, negative_prompt="blue"))
    _, processed = job([{**ON, "heat_map": True}])
    assert len(inner.drawn[0].images) == 1
    assert len(processed.images) + len(processed.extra_images) == 2


def test_the_job_after_one_that_died_is_nobodys_inner_job(host, job, status, monkeypatch):
    kept = []

    def die(self, p, *args, **kwargs):
        kept.append(p)  # somebody holds on to the job, a traceback for instance
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(type(host.scripts.scripts_txt2img), "postprocess_image", die)
        with pytest.raises(RuntimeError):
            job([ON])
    job([{"scale": 7}])
    assert status()["settings"]["scale"] == 7
    assert "7 layers" in status()["report"]


# What the report claims


def test_at_cfg_0_it_claims_nothing_that_no_picture_can_show(job):
    """There the host draws the negative alone."""
    _, off = job(cfg_scale=0)
    p, on = job([ON], cfg_scale=0)
    assert on.images[0].tobytes() == off.images[0].tobytes()
    assert p.extra_generation_params["NAG report"].startswith("not applied: CFG is 0")
    for scale in (0.5, 1, 1e-3):
        assert "7 layers" in job([ON], cfg_scale=scale)[0].extra_generation_params["NAG report"]


@pytest.mark.parametrize(("cfg", "hr_cfg"), [(1, 0), (0, 1), (0, 0), (4, 0)])
def test_each_pass_has_a_cfg_of_its_own(job, cfg, hr_cfg):
    fields = {
        "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "cfg_scale": cfg, "hr_cfg": hr_cfg,
        "width": 64, "height": 64,
    }  # fmt: skip
    report = job([ON], **fields)[0].extra_generation_params["NAG report"]
    first, hires = report.removeprefix("first pass: ").split("; hires pass: ")
    for scale, said in ((cfg, first), (hr_cfg, hires)):
        assert said.startswith("7 layers" if scale else "not applied: CFG is 0")


# An extension in the place of the model call


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("checkpoint", ["tiny-shapes", "tiny-shapes-flux"])
def test_a_wrapper_that_drops_the_models_options_is_named(host, job, monkeypatch, checkpoint, emptied):
    """It read "KeyError: 'transformer_options'"."""
    fields = {"override_settings": {"sd_model_checkpoint": checkpoint}}
    job(**fields)
    patcher = type(host.shared.sd_model.forge_objects.unet)
    original = patcher.clone

    def wrapper(apply_model, args):
        c = {name: value for name, value in args["c"].items() if name != "transformer_options"}
        more = {"transformer_options": {}} if emptied else {}
        return apply_model(args["input"], args["timestep"], **c, **more)

    def clone(self):
        made = original(self)
        made.set_model_unet_function_wrapper(wrapper)
        return made

    monkeypatch.setattr(patcher, "clone", clone)
    p, _ = job([ON], **fields)
    report = p.extra_generation_params["NAG report"]
    flux = "another extension's wrapper around the model call drops its transformer_options"
    unet = "another extension took the attention or the model call over, and NAG never ran"
    wanted = f"off from call 1 on: {flux}" if checkpoint == "tiny-shapes-flux" else unet
    assert report.startswith(f"not applied: {wanted}")


@pytest.mark.parametrize("mask", ["Off", "Inside"])
def test_the_pages_mask_picture_is_nothing_to_speak_of_while_nag_is_off(job, mask):
    """It stays in the page when the box is unticked, and every picture had a report of it."""
    with io.BytesIO() as buffer:
        Image.new("L", (8, 8), 255).save(buffer, format="PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
    p, processed = job([{"enabled": False, "mask": mask, "mask_image": picture}])
    _, without = job()
    assert processed.infotexts == without.infotexts
    assert not any("NAG" in comment for comment in p.comments)


def test_the_status_does_not_tell_of_the_job_before_one_that_failed(job, status, script, monkeypatch):
    job([ON])
    assert status()["applied"] == "fully"

    def fails(*args):
        raise ValueError("a WebUI of tomorrow")

    names = inspect.unwrap(type(script).process).__globals__
    monkeypatch.setattr(names["asked_for"], "request", fails)
    _, processed = job([ON])
    assert "a WebUI of tomorrow" in processed.infotexts[0]
    assert (status()["report"], status()["applied"], status()["settings"]) == (None, None, None)


def test_img2img_does_not_read_hires_only(job, inner):
    """Its page shows no control for it, and "Send to img2img" brings it along: no job there was guided."""
    p, _ = job()
    drawn = inner(p, {**ON, "hires": "Hires only", "negative": "blue"})
    assert "× 2/2 steps" in drawn.extra_generation_params["NAG report"]
    plain = inner(p, {**ON, "negative": "blue"})
    assert inner.drawn[0].images[0].tobytes() == inner.drawn[1].images[0].tobytes()
    assert plain.extra_generation_params["NAG applied"] == "fully"
    p, _ = job([{**ON, "hires": "Hires only"}])
    assert "not applied: hires is set to Hires only" in p.extra_generation_params["NAG report"]
