"""`nag_core.applied`: at which steps it acts, on whose calls, and what it says when a call goes wrong."""

from contextlib import suppress

import pytest
import torch

import nag_core
from nag_core.hosts.diffusers import guided
from nag_core.hosts.diffusers.families import family_of
from nag_core.hosts.diffusers.network import Network
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings.parse import parse
from tests import diffusers_pipelines as pipelines
from tests.diffusers_pipelines import draw
from tests.extras import needs_pipelines, often
from tests.unit.test_diffusers_pipelines import apart, on, touched

pytestmark = needs_pipelines

_made = {}


@pytest.fixture
def pipe(request):
    """Built once in this file: what a test leaves behind breaks the next one, and should."""
    if request.param not in _made:
        _made[request.param] = pipelines.pipeline(request.param)
    return _made[request.param]


# Steps of several model calls


@pytest.fixture
def guided_at(monkeypatch):
    """`guided_at(pipe, settings, **call)`: the step of every guided model call, and the report."""

    def run(pipe, settings, name="sd3", **call):
        seen, steps = [], []
        original = Network._opened

        def opened(network, *args):
            seen.append(len(steps))
            return original(network, *args)

        step = pipe.scheduler.step

        def counted(*args, **kwargs):
            steps.append(1)
            return step(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Network, "_opened", opened)
            patched.setitem(vars(pipe.scheduler), "step", counted)
            with nag_core.applied(pipe, "blue", scale=4, **settings) as nag:
                draw(name, pipe, **call)
        return seen, nag.report

    return run


SKIPPING = {
    "steps": 40, "cfg": True, "skip_guidance_layers": [0], "skip_layer_guidance_start": 0.01,
    "skip_layer_guidance_stop": 0.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "wanted"),
    often(
        [
            ({"end": 0.25}, range(10)), ({"start": 0.1, "end": 0.25}, range(4, 10)), ({}, range(40)),
            ({"start": 0.9}, range(36, 40)), ({"curve": "0:4 0.25:4 0.25:0"}, range(10)),
        ],
        ({"start": 0.1, "end": 0.25}, range(4, 10)),
    ),
    ids=str,
)  # fmt: skip
@on("sd3")
def test_the_window_counts_steps_where_layers_are_skipped(name, pipe, guided_at, settings, wanted):
    """SD3's pipeline then calls the model a second time over the prompt, in steps 1 to 7 of these 40."""
    seen, report = guided_at(pipe, settings, **SKIPPING)
    assert sorted(set(seen)) == list(wanted)
    assert len(seen) == len(wanted) + len(set(wanted) & set(range(1, 8)))
    assert f"× {len(wanted)}/40 steps" in report
    assert "of the call's" not in report


@pytest.fixture
def by_self_attention(pipe):
    """A pipeline on the same parts, which calls the model a second time in each step, with CFG over CFG's own
    text.
    """
    from diffusers import StableDiffusionSAGPipeline

    parts = {key: part for key, part in pipe.components.items() if key != "image_encoder"}
    other = StableDiffusionSAGPipeline(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    before = dict(pipe.unet.attn_processors)
    yield other
    pipe.unet.set_attn_processor(before)


@pytest.mark.parametrize("negative", ["dark", "a red circle"], ids=["another text", "the prompt"])
@on("sd15")
def test_a_second_call_over_cfgs_own_text_is_not_guided(name, pipe, guided_at, by_self_attention, negative):
    """It was where that text is the prompt."""
    call = {"steps": 4, "cfg": True, "negative_prompt": negative, "sag_scale": 0.75}
    seen, report = guided_at(by_self_attention, {}, "sd15", **call)
    assert seen == [0, 1, 2, 3]
    assert "4 layers × 4/4 steps" in report


@pytest.mark.parametrize(("settings", "wanted"), [({"end": 0.25}, 2), ({"start": 0.5}, 4), ({}, 8)], ids=str)
@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
@on("sd15")
def test_and_where_a_second_call_guides_by_self_attention(
    name, pipe, guided_at, by_self_attention, settings, wanted, cfg
):
    call = {"steps": 8, "cfg": cfg, "sag_scale": 0.75}
    seen, report = guided_at(by_self_attention, settings, "sd15", **call)
    first = 8 - wanted if settings.get("start") else 0
    assert sorted(set(seen)) == list(range(first, first + wanted))
    assert f"× {wanted}/8 steps" in report


@pytest.mark.parametrize("steps", often([2, 5], 2))
@on()
def test_the_scheduler_is_left_as_it_was(name, pipe, steps):
    before = dict(vars(pipe.scheduler))
    with nag_core.applied(pipe, "blue", scale=4, end=0.5) as nag:
        draw(name, pipe, steps=steps)
        draw(name, pipe, steps=steps)
    assert "step" not in vars(pipe.scheduler)
    assert vars(pipe.scheduler).keys() >= before.keys()
    assert nag.report.count(f"× {-(-steps // 2)}/{steps} steps") == 2


@on("sd15")
def test_a_pipeline_without_a_scheduler_is_counted_by_its_model_calls(name, pipe, monkeypatch):
    from nag_core.hosts.diffusers import calling

    monkeypatch.setattr(calling.Steps, "begin", lambda *_: None)
    with nag_core.applied(pipe, "blue", scale=4, end=0.5) as nag:
        draw(name, pipe, steps=4)
    assert "× 2/4 steps" in nag.report


def test_both_experts_of_a_pipeline_with_two_are_guided(guided_at):
    """Wan 2.2: one network above a share of the noise, another below."""
    from diffusers import WanPipeline

    one, other = pipelines.pipeline("wan"), pipelines.pipeline("wan")
    for parameter in other.transformer.parameters():
        parameter.data.mul_(1.1)
    pipe = WanPipeline(**{**one.components, "transformer_2": other.transformer}, boundary_ratio=0.9)
    pipe.set_progress_bar_config(disable=True)
    plain = draw("wan", pipe, steps=6)
    before = touched(pipe), touched(other)
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        found = draw("wan", pipe, steps=6)
    layers = len(family_of(one.transformer).layers(one.transformer))
    assert nag.report.startswith(f"{2 * layers} layers × 6/6 steps")
    assert apart(found, plain) > 3e-4
    seen, report = guided_at(pipe, {"start": 0.5}, "wan", steps=6)
    assert seen == [3, 4, 5]
    assert report.startswith(f"{layers} layers × 3/6 steps"), "the second expert alone is left by then"
    assert (touched(pipe), touched(other)) == before


# Pipelines that share a network


@pytest.fixture
def two():
    """Two pipelines on one UNet, as `from_pipe` makes them."""
    from diffusers import StableDiffusionPipeline

    one = pipelines.pipeline("sd15")
    other = StableDiffusionPipeline(**one.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return one, other


def test_a_network_serves_one_applied_at_a_time(two):
    a, b = two
    with nag_core.applied(b, "green dog", scale=4):
        own = draw("sd15", b)
    with nag_core.applied(a, "blue", scale=4) as outer:
        with (
            pytest.raises(UnsupportedHost, match="applied to this model already"),
            nag_core.applied(b, "green dog", scale=4),
        ):
            pass
        draw("sd15", a)
    assert "2/2 steps" in outer.report
    with nag_core.applied(b, "green dog", scale=4):
        assert torch.equal(draw("sd15", b), own), "free again"


def test_one_that_has_nothing_to_do_is_no_second_one(two):
    a, b = two
    with nag_core.applied(a, "blue", scale=4), nag_core.applied(b, "", scale=4) as nag:
        draw("sd15", b)
    assert nag.report == "not applied: the negative prompt is empty"


@pytest.mark.parametrize(
    ("name", "pipe", "gone"),
    [("qwen-image", "qwen-image", "pos_embed"), ("z-image", "z-image", "patchify_and_embed")],
    indirect=["pipe"],
)
def test_a_model_that_lacks_what_is_hooked_is_left_untouched_and_named_every_time(
    name, pipe, gone, monkeypatch
):
    """As a release would that renames it: hooks stayed, and from then on "NAG is applied to this model
    already" was all that was said.
    """
    before, kind = touched(pipe), type(pipe.transformer).__name__
    has = torch.nn.Module.__getattr__ if gone == "pos_embed" else object.__getattribute__
    method = "__getattr__" if gone == "pos_embed" else "__getattribute__"

    def lacking(self, wanted):
        if wanted == gone:
            raise AttributeError(wanted)
        return has(self, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(type(pipe.transformer), method, lacking, raising=False)
        for _ in range(2):
            with (
                pytest.raises(UnsupportedHost, match=rf"this version of diffusers has no {kind}\.{gone}, "),
                nag_core.applied(pipe, "blue"),
            ):
                pass
    assert touched(pipe) == before
    with nag_core.applied(pipe, "blue") as nag:
        draw(name, pipe)
    assert nag.reports[0].applied


@pytest.mark.parametrize("order", ["before", "after", "between", "within"])
def test_a_pipeline_without_applied_is_left_alone_beside_one_with(two, order):
    a, b = two
    plain = draw("sd15", b)
    with nag_core.applied(a, "blue", scale=4):
        wanted = draw("sd15", a)
    drawn = []

    def inside(_pipe, step, _time, kwargs):
        if order == "within" and step == 0:
            drawn.append(draw("sd15", b, steps=2))
        return kwargs

    with nag_core.applied(a, "blue", scale=4) as nag:
        if order in ("before", "between"):
            drawn.append(draw("sd15", b))
        found = draw("sd15", a, callback_on_step_end=inside)
        if order in ("after", "between"):
            drawn.append(draw("sd15", b))
        if order == "between":
            assert torch.equal(draw("sd15", a), wanted)
    assert torch.equal(found, wanted)
    assert drawn
    for one in drawn:
        assert torch.equal(one, plain)
    assert nag.report.count("2/2 steps") == (2 if order == "between" else 1)


# The real reason


class SomeError(RuntimeError):
    pass


@pytest.mark.parametrize("steps", [1, 4])
@on("sd15", "flux", "wan")
def test_an_error_in_the_model_is_named(name, pipe, steps):
    """It read "another extension took the attention or the model call over"."""
    model = getattr(pipe, "unet", None) or pipe.transformer

    def fail(*_):
        raise SomeError("no room")

    draw(name, pipe)  # a call leaves marks of its own
    before = touched(pipe)
    handle = next(model.children()).register_forward_hook(fail)
    applied = nag_core.applied(pipe, "blue", scale=4)
    try:
        with pytest.raises(SomeError), applied as nag:
            draw(name, pipe, steps=steps)
    finally:
        handle.remove()
    wanted = "the call ended with SomeError: no room" if steps == 1 else "ended early, after 1 of 4 steps"
    assert nag.report.startswith(f"not applied: {wanted}")
    assert "SomeError: no room" in nag.report
    assert touched(pipe) == before


@pytest.mark.parametrize("where", ["prepare_latents", "check_inputs"])
@on("sd15", "flux")
def test_an_error_before_the_first_step_is_named(name, pipe, monkeypatch, where):
    def fail(*_, **__):
        raise SomeError("no latents")

    monkeypatch.setattr(pipe, where, fail)
    applied = nag_core.applied(pipe, "blue", scale=4)
    with pytest.raises(SomeError), applied as nag:
        draw(name, pipe)
    before = {"check_inputs": "SomeError: no latents, before a prompt was encoded"}
    assert nag.report == f"not applied: {before.get(where, 'the call ended with SomeError: no latents')}"


@on("sdxl")
def test_a_call_without_a_step_is_said_to_be_one(name, pipe):
    """It read "the text reached the model other than encode_prompt had made it"."""
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, denoising_end=0.0001)
    assert nag.report == "not applied: no step was sampled"


@on("sd15")
def test_a_text_that_was_changed_on_the_way_still_is_said(name, pipe, monkeypatch):
    forward = type(pipe.unet).forward

    def other(self, sample, timestep, encoder_hidden_states, **kwargs):
        return forward(self, sample, timestep, encoder_hidden_states, **kwargs)

    def changed(model, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"] + 1}

    monkeypatch.setattr(type(pipe.unet), "forward", other)
    handle = pipe.unet.register_forward_pre_hook(changed, with_kwargs=True)
    try:
        with nag_core.applied(pipe, "blue", scale=4) as nag:
            draw(name, pipe)
    finally:
        handle.remove()
    assert nag.report == "not applied: the text reached the model other than encode_prompt had made it"


@on("sd15")
def test_a_call_whose_text_was_changed_is_reported_before_one_whose_was_not(name, pipe):
    """The report had the second call only, and was complete."""

    def changed(model, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": kwargs["encoder_hidden_states"] + 1}

    with nag_core.applied(pipe, "blue", scale=4) as nag:
        handle = pipe.unet.register_forward_pre_hook(changed, with_kwargs=True, prepend=True)
        try:
            draw(name, pipe)
        finally:
            handle.remove()
        draw(name, pipe)
    assert [one.applied for one in nag.reports] == [False, True]
    assert "other than encode_prompt had made it; 4 layers" in nag.report
    assert not nag.complete


@on("z-image")
def test_a_call_with_an_encoded_prompt_is_a_call_of_its_own(name, pipe):
    """It ran as part of the first one's pass: unguided, in one report that was complete."""
    device = torch.device("cpu")
    first, second = (
        pipe.encode_prompt(text, do_classifier_free_guidance=False, device=device)[0]
        for text in ("a red circle", "green dog")
    )
    plain = draw(name, pipe, prompt=None, prompt_embeds=second)
    with nag_core.applied(pipe, "blue", scale=4, end=1) as nag:
        drawn = draw(name, pipe, steps=3)
        found = draw(name, pipe, prompt=None, prompt_embeds=second)
        draw(name, pipe, prompt=None, prompt_embeds=second)
    assert torch.equal(found, plain)
    assert "× 3/3 steps" in nag.reports[0].sentence()
    encoded = "the prompt came encoded, and the pipeline encoded none; give it the text"
    assert [one.reason for one in nag.reports] == ["", encoded, encoded]
    assert [one.complete for one in nag.reports] == [True, False, False]
    with nag_core.applied(pipe, "blue", scale=4, end=1) as nag:
        draw(name, pipe, steps=3)
        again = draw(name, pipe, prompt=None, prompt_embeds=first, steps=3)
    assert torch.equal(again, drawn), "guided, as the text is the first call's"
    assert (len(nag.reports), nag.complete) == (2, True)


@on("sd15", "flux")
def test_an_interrupted_call_is_said_to_be_one_when_another_follows(name, pipe):
    """The second call takes the pipeline's mark away; it read "only 2 of the call's 4 steps were over this
    prompt".
    """

    def stop(pipe, step, _time, tensors):
        pipe._interrupt = step == 1
        return tensors

    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, steps=4, callback_on_step_end=stop)
        draw(name, pipe, steps=4)
    first, second = nag.reports
    assert "ended early, after 2 of 4 steps" in first.problems
    assert (second.complete, second.problems) == (True, ())


@pytest.mark.parametrize("where", ["behind the call", "in the call", "of the call's"])
@on("sd15", "qwen-image")
def test_an_error_is_only_that_calls_in_which_it_was_raised(name, pipe, where):
    """One of the user's own behind a call that had returned made its report incomplete."""

    def fail(_pipe, step, _time, tensors):
        if step == 1 and where != "behind the call":
            raise SomeError("mine")
        return tensors

    def draw_and_fail():
        try:
            draw(name, pipe, callback_on_step_end=fail)
        except SomeError as error:
            if where == "of the call's":
                raise KeyError("mine, too") from error
            raise
        raise SomeError("mine")

    applied = nag_core.applied(pipe, "blue", scale=4)
    with pytest.raises((SomeError, KeyError)), applied as nag:
        draw_and_fail()
    named = {"in the call": "SomeError", "of the call's": "KeyError"}.get(where)
    assert nag.complete is (named is None)
    assert (f"the call ended with {named}: " in nag.report) is (named is not None)


@on("sd15", "qwen-image")
def test_a_call_that_failed_before_its_first_step_leaves_nothing_to_the_next(name, pipe, monkeypatch):
    """After one that ran out of memory, a call with another number of prompts ran unguided: "the text reached
    the model other than encode_prompt had made it".
    """

    def fail(*_, **__):
        raise SomeError("no room")

    def draw_twice():
        with monkeypatch.context() as patched, suppress(SomeError):
            patched.setattr(pipe, "prepare_latents", fail)
            draw(name, pipe, ["a red circle", "green dog"])
        draw(name, pipe, ["a red circle", "green dog", "blue cat"])

    applied = nag_core.applied(pipe, ["blue", "green"], scale=4)
    with pytest.raises(ValueError, match="2 negatives for 3 prompts"), applied as nag:
        draw_twice()
    assert nag.report == "not applied: no step was sampled"


@on("flux", "qwen-image")
def test_why_the_negative_was_not_encoded_is_the_last_word_on_that_call(name, pipe, monkeypatch):
    """These encode the prompt first and their own negative behind it. With no room beside the one and room
    beside the other, the reason gave way to "only 0 of the call's 2 steps were over this prompt".
    """
    cfg = {"cfg": True, "negative_prompt": "dark"}
    plain, tried, encode = draw(name, pipe, **cfg), [], guided.encoded

    def once_full(*args):
        tried.append(1)
        if len(tried) == 1:
            raise SomeError("no room")
        return encode(*args)

    monkeypatch.setattr(guided, "encoded", once_full)
    guiding = guided.Guiding(pipe, "blue", parse([{"scale": 4}]).settings, strict=False)
    with guided.guided(guiding):
        found = draw(name, pipe, **cfg)
        draw(name, pipe, **cfg)
    first, second = guiding.reports
    assert first.sentence() == "not applied: the negative could not be encoded (SomeError: no room)"
    assert torch.equal(found, plain)
    assert second.complete


def test_a_pipeline_without_a_prompt_of_its_own_is_named_before_its_call(pipe_without_prompt):
    """VisualCloze's: the call ended with a TypeError about a missing argument."""
    with (
        pytest.raises(UnsupportedHost, match="the text encoding of Cloze takes no plain prompt"),
        nag_core.applied(pipe_without_prompt, "blue"),
    ):
        pass
    assert "encode_prompt" not in vars(pipe_without_prompt)


@pytest.fixture
def pipe_without_prompt():
    from diffusers import FluxPipeline

    class Cloze(FluxPipeline):
        def encode_prompt(self, layout_prompt, task_prompt, content_prompt, device=None):
            return super().encode_prompt(content_prompt, None)

    return Cloze(**pipelines.pipeline("flux").components)


@pytest.mark.parametrize("negative", ["blue", ["blue", "green"]], ids=["one", "one each"])
@on("flux", "qwen-image")
def test_a_pipelines_own_negative_may_be_one_text_for_several_prompts(name, pipe, negative):
    """One negative each ended the call ("2 negatives for 1 prompts"); one for all was "a batch layout nobody
    knows", and not complete.
    """
    prompts = ["a red circle", "green dog"]
    with nag_core.applied(pipe, negative, scale=4, tau=2.5, alpha=0.5, end=1) as nag:
        found = draw(name, pipe, prompts, cfg=True, negative_prompt="dark")
    assert (nag.complete, nag.reports[0].problems, nag.reports[0].images) == (True, (), (2, 2))
    with nag_core.applied(pipe, negative, scale=4, tau=2.5, alpha=0.5, end=1):
        each = draw(name, pipe, prompts, cfg=True, negative_prompt=["dark", "dark"])
    assert apart(found, each) < 1e-5
    applied = nag_core.applied(pipe, ["blue"] * 3, scale=4)
    with pytest.raises(ValueError, match="3 negatives for 2 prompts"), applied:
        draw(name, pipe, prompts, cfg=True, negative_prompt="dark")


@pytest.mark.parametrize("negative", [None, 3, ["blue", None], [], b"blue", {"a": 1}, {"blue"}, [["blue"]]])
@on("sd15")
def test_a_negative_that_is_no_text_is_named(name, pipe, negative):
    before = touched(pipe)
    with (
        pytest.raises(ValueError, match="the negative is a text, or a list with one for each prompt; not"),
        nag_core.applied(pipe, negative),
    ):
        pass
    assert touched(pipe) == before


@on("sd15")
def test_a_tuple_of_negatives_is_a_list(name, pipe):
    with nag_core.applied(pipe, ("blue",), scale=4) as nag:
        found = draw(name, pipe)
    with nag_core.applied(pipe, ["blue"], scale=4):
        assert apart(found, draw(name, pipe)) == 0
    assert "2/2 steps" in nag.report
