"""`nag_core.applied` on whole diffusers pipelines of small random parts: encoders, scheduler, model, VAE."""

import logging

import pytest
import torch

import nag_core
from nag_core.hosts import padding
from nag_core.hosts.diffusers.families import family_of, models_of
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings.blocks import listing
from tests import diffusers_pipelines as pipelines
from tests.diffusers_pipelines import draw
from tests.extras import needs_pipelines, often
from tests.readme import snippet

pytestmark = needs_pipelines

NAMES = list(pipelines.BUILD)
TWO = ["a red circle", "green dog on the dark"]
# Nothing is left to the model's row, which may have an End and is named where the paper has none.
GIVEN = {"scale": 4, "tau": 2.5, "alpha": 0.5, "end": 1}
_made = {}


@pytest.fixture
def pipe(request):
    """Built once: a test that leaves something behind breaks the next one, and should."""
    name = request.param
    if name not in _made:
        _made[name] = pipelines.pipeline(name)
    return _made[name]


def on(*names):
    """On each of these, or on all, of which SDXL (like SD1.5) and Chroma (like Flux) are in the slow tier."""
    cases = [(name, name) for name in names or NAMES]
    rare = [] if names else [("sdxl", "sdxl"), ("chroma", "chroma")]
    kept = [case for case in cases if case not in rare]
    return pytest.mark.parametrize(("name", "pipe"), often(cases, *kept), indirect=["pipe"])


def apart(one, other):
    return float((one - other).norm() / other.norm())


def touched(pipe):
    model = getattr(pipe, "unet", None) or pipe.transformer
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    kinds = [type(m.processor) for m in model.modules() if hasattr(m, "processor")]
    return hooks, kinds, sorted(vars(pipe)), sorted(vars(model))


@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
@on()
def test_the_picture_changes_with_the_negative_and_only_inside(name, pipe, cfg):
    plain, before = draw(name, pipe, cfg=cfg), touched(pipe)
    with nag_core.applied(pipe, "blue", **GIVEN) as nag:
        blue = draw(name, pipe, cfg=cfg)
    assert "2/2 steps" in nag.report
    assert nag.reports[0].problems == ()
    with nag_core.applied(pipe, "dark dog", **GIVEN):
        dark = draw(name, pipe, cfg=cfg)
    assert touched(pipe) == before
    assert torch.equal(draw(name, pipe, cfg=cfg), plain)
    for one, other in ((blue, plain), (dark, plain), (blue, dark)):
        assert torch.isfinite(one).all()
        assert apart(one, other) > 3e-4


METHODS = {"VSF": {"scale": 2, "vsf_offset": 0.5}, "Orthogonal": {"scale": 1}}


@pytest.mark.parametrize("method", METHODS)
@on()
def test_each_rule_draws_another_picture_and_is_named(name, pipe, method):
    plain = draw(name, pipe)
    with nag_core.applied(pipe, "blue", scale=METHODS[method]["scale"]):
        by_nag = draw(name, pipe)
    with nag_core.applied(pipe, "blue", method=method, end=1, **METHODS[method]) as nag:
        drawn = draw(name, pipe)
    assert f"2/2 steps, {method}" in nag.report
    assert (nag.complete, nag.reports[0].problems) == (True, ())
    assert torch.isfinite(drawn).all()
    assert min(apart(drawn, one) for one in (plain, by_nag)) > 1e-5
    with nag_core.applied(pipe, "blue", method=method, scale=0) as nag:
        assert torch.equal(draw(name, pipe), plain)
    assert nag.report == "not applied: scale φ is 0"


@pytest.mark.parametrize(
    ("name", "pipe", "families"),
    [
        ("sd15", "sd15", "SD1.5"),
        ("flux", "flux", "Flux"),
        ("sd3", "sd3", "SD3.5"),
        ("wan", "wan", "Wan2.1"),
        ("klein", "klein", "Flux.2 Klein"),
    ],
    indirect=["pipe"],
)
def test_the_negatives_padding_takes_no_part_in_vsf(name, pipe, families, monkeypatch):
    """Of "blue dog": the words and what each encoder puts around them."""
    seen, plain = [], padding.without

    def watched(*given):
        found = plain(*given)
        seen.append((given[1], len(found)))
        return found

    monkeypatch.setattr(padding, "without", watched)
    with nag_core.applied(pipe, "blue dog", method="VSF", scale=2, vsf_offset=0.5, end=1) as nag:
        draw(name, pipe)
    assert seen[0][1] == {"SD3.5": 8, "Flux.2 Klein": 6}.get(families, 4)
    assert nag.reports[0].problems == ()


@on()
def test_scale_zero_and_an_empty_negative_hook_nothing_and_say_so(name, pipe, caplog):
    plain, before = draw(name, pipe), touched(pipe)
    for negative, settings, reason in (
        ("blue", {"scale": 0}, "scale φ is 0"),
        ("blue", {"alpha": 0}, "alpha is 0"),
        (" ", {}, "the negative prompt is empty"),
        (["", ""], {}, "the negative prompt is empty"),
        ("blue", {"start": 0.5, "end": 0.5}, "the window 0.5–0.5 is empty"),
    ):
        with caplog.at_level(logging.WARNING, "nag"), nag_core.applied(pipe, negative, **settings) as nag:
            assert touched(pipe) == before
            assert torch.equal(draw(name, pipe), plain)
        assert nag.report == f"not applied: {reason}"
        assert nag.report in caplog.text


SAME = "prompt and negative gave the same conditioning"


@on(*(name for name in NAMES if name != "qwen-image-2.1"))  # whose texts have no longest length
def test_a_negative_that_is_cut_off_to_the_prompts_tokens_is_said(name, pipe):
    """Encoders end a text at their longest length, and an instruction or a template may fill it."""
    # The words of `TWO`, often enough for every tokenizer here.
    same = " ".join(["a red circle"] * 200)
    plain = draw(name, pipe, prompt=same)
    with nag_core.applied(pipe, f"{same} green dog", scale=4) as nag:
        drawn = draw(name, pipe, prompt=same)
    assert nag.report == f"not applied: {SAME}"
    assert torch.equal(drawn, plain)


@on("sd15", "flux")
def test_of_two_images_only_the_one_with_another_negative_is_guided(name, pipe):
    plain = draw(name, pipe, prompt=TWO)
    with nag_core.applied(pipe, [TWO[0], "blue"], scale=4) as nag:
        drawn = draw(name, pipe, prompt=TWO)
    assert f"1 of 2 images (1 where {SAME})" in nag.report
    assert torch.equal(drawn[0], plain[0])
    assert apart(drawn[1], plain[1]) > 3e-4


@on()
def test_several_negatives_with_weights_are_taken_together(name, pipe):
    def drawn(negative, **settings):
        with nag_core.applied(pipe, negative, **GIVEN, **settings) as nag:
            return draw(name, pipe, TWO), nag.report

    blue, _ = drawn("blue")
    (both, report), (twice, _) = drawn("", negatives="blue\ndark dog :: 3"), drawn("", negatives="blue\nblue")
    assert "2/2 steps" in report
    assert "2 negatives of " in report
    assert apart(twice, blue) < 1e-4, "but for rounding"
    for other in (blue, drawn("dark dog")[0], drawn("", negatives="blue :: 3\ndark dog")[0]):
        assert apart(both, other) > 1e-4
    assert apart(drawn("", negatives="blue :: 2\ndark dog :: 0\n")[0], blue) < 1e-4
    assert torch.equal(drawn(" ", negatives="blue\ndark dog :: 3")[0], both)
    none, report = drawn("", negatives="blue :: 0")
    assert report == "not applied: the weights of the negatives sum to 0"
    assert torch.equal(none, draw(name, pipe, TWO))


@on()
def test_blocks_by_the_names_that_webuis_have(name, pipe):
    def drawn(blocks):
        with nag_core.applied(pipe, "blue", **GIVEN, blocks=blocks) as nag:
            return draw(name, pipe), nag

    model = models_of(pipe)[0]
    available = list(dict.fromkeys(family_of(model).blocks(model).values()))
    everything, _ = drawn(listing(available))
    with nag_core.applied(pipe, "blue", **GIVEN):
        assert torch.equal(everything, draw(name, pipe))
    first, nag = drawn(f"{listing(available[:1])}, single.99")
    assert sum(count for _, count in nag.reports[0].layers) < len(family_of(model).layers(model))
    assert nag.report.endswith(f"no blocks single.99 here; this model has {listing(available)}")
    assert apart(first, everything) > 1e-4
    none, nag = drawn("double.99")
    assert nag.report == f"not applied: no blocks double.99 here; this model has {listing(available)}"
    assert torch.equal(none, draw(name, pipe))
    assert apart(first, none) > 1e-5


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
@on()
def test_a_batch_is_its_pictures_each_with_its_own_negative(name, pipe, cfg):
    with nag_core.applied(pipe, ["blue", "low quality photo"], scale=4):
        both = draw(name, pipe, TWO, cfg=cfg, generator=generators(1, 2))
    # Without NAG, too, its image stands behind the batch's longest text.
    for place, negative in enumerate(["blue", "low quality photo"] if name != "qwen-image-2.1" else []):
        with nag_core.applied(pipe, negative, scale=4):
            alone = draw(name, pipe, TWO[place], cfg=cfg, generator=generators(1 + place))
        assert apart(both[place : place + 1], alone) < 2e-4
    # As many words, so that nothing rounds in another way.
    with nag_core.applied(pipe, ["blue", "one large dog"], scale=4):
        other = draw(name, pipe, TWO, cfg=cfg, generator=generators(1, 2))
    assert torch.equal(other[0], both[0])
    assert apart(other[1], both[1]) > 3e-4


@on()
def test_several_pictures_of_a_prompt_share_its_negative(name, pipe):
    with nag_core.applied(pipe, ["blue", "low quality photo"], scale=4) as nag:
        four = draw(name, pipe, TWO, images=2, generator=generators(1, 2, 3, 4))
    assert nag.reports[0].images == (4, 4)
    # As many words, so that nothing rounds in another way.
    with nag_core.applied(pipe, ["blue", "one large dog"], scale=4):
        other = draw(name, pipe, TWO, images=2, generator=generators(1, 2, 3, 4))
    assert torch.equal(four[:2], other[:2])
    assert min(apart(four[2], other[2]), apart(four[3], other[3])) > 3e-4
    if name in ("sd3", "sana", "qwen-image"):
        return  # without NAG, too: these repeat pooled vectors and masks in another order
    with nag_core.applied(pipe, "low quality photo", scale=4):
        second = draw(name, pipe, TWO[1], images=2, generator=generators(3, 4))
    assert apart(four[2:], second) < 2e-4


@on()
def test_an_image_without_a_negative_is_left_alone(name, pipe):
    plain = draw(name, pipe, TWO, generator=generators(1, 2))
    with nag_core.applied(pipe, ["", "blue"], scale=4) as nag:
        found = draw(name, pipe, TWO, generator=generators(1, 2))
    assert apart(found[0], plain[0]) < 1e-5
    assert apart(found[1], plain[1]) > 3e-4
    assert "1 of 2 images" in nag.report


@pytest.mark.parametrize(
    "own", ["dark", "a red circle", ""], ids=["another text", "the prompt", "both empty"]
)
@on()
def test_rows_of_cfgs_own_negative_are_never_guided(name, pipe, own):
    """The first step's model calls, on the same latents with NAG on and off: the same answer for those
    rows. Where CFG's negative was the prompt they were guided, too, and CFG did nothing.
    """
    model = getattr(pipe, "unet", None) or pipe.transformer

    # Klein's pipeline takes no negative: it is empty.
    prompt, more = own and "a red circle", {} if name == "klein" else {"negative_prompt": own}

    def first_step(negative):
        answers = []

        def answered(_module, _args, out):
            answer = out[0] if isinstance(out, tuple) else out.sample
            answers.append(torch.stack(answer) if isinstance(answer, list) else answer)

        handle = model.register_forward_hook(answered)
        with nag_core.applied(pipe, negative, scale=4):
            draw(name, pipe, prompt, cfg=True, steps=1, **more)
        handle.remove()
        return answers

    # Some call the model twice, prompt first (before that NAG may, for the negative's keys); the others once,
    # prompt behind, but for Z-Image.
    off, on_ = (first_step(negative)[-2:] for negative in ("", "blue"))
    order = -1 if name != "z-image" else 1
    off, on_ = (a if len(a) == 2 else list(a[0].chunk(2))[::order] for a in (off, on_))
    assert apart(on_[0], off[0]) > 1e-4
    assert torch.allclose(on_[1], off[1], rtol=0, atol=1e-5 * float(off[1].abs().max()))


@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
@pytest.mark.parametrize("own", ["dark", "a red circle"], ids=["another text", "the prompt"])
@on("sd15")
def test_rows_that_cannot_be_told_from_cfgs_are_said(name, pipe, own, cfg):
    """PAG takes the prompt's rows a second time, so that with CFG there are three kinds of them."""
    from diffusers import StableDiffusionPAGPipeline

    parts = {key: part for key, part in pipe.components.items() if key != "image_encoder"}
    other = StableDiffusionPAGPipeline(**parts, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    before = dict(pipe.unet.attn_processors)
    try:
        with nag_core.applied(other, "blue", scale=4) as nag:
            draw(name, other, cfg=cfg, negative_prompt=own, pag_scale=3.0)
    finally:
        pipe.unet.set_attn_processor(before)
    assert "2/2 steps" in nag.report
    said = "all rows have the prompt, and which of them are CFG's is not known: all are guided"
    assert nag.reports[0].problems == ((said,) if cfg and own == "a red circle" else ())


@on("flux")
def test_and_so_are_those_of_one_tensor_given_as_both(name, pipe):
    prompt, pooled, _ = pipe.encode_prompt("a red circle", None, "cpu")
    both = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}
    both |= {f"negative_{key}": value for key, value in both.items()}
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, None, true_cfg_scale=3.0, **both)
    assert nag.report.endswith("which of them are CFG's is not known: all are guided")


@on()
def test_the_window_counts_the_pipelines_steps(name, pipe):
    for cfg in (False, True):
        with nag_core.applied(pipe, "blue", scale=4, end=0.5) as nag:
            draw(name, pipe, cfg=cfg, steps=4)
        assert "2/4 steps" in nag.report


@on("sd15", "flux", "wan")
def test_every_call_inside_is_a_pass_of_its_own(name, pipe):
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        assert nag.report == "not applied: the pipeline was not called"
        first = draw(name, pipe)
        again = draw(name, pipe)
        draw(name, pipe, "green dog", cfg=True)
    assert torch.equal(first, again)
    assert [report.guided_calls for report in nag.reports] == [2, 2, 2]


@on("sd15", "sd3", "flux", "pixart")
def test_the_papers_values_are_taken_for_the_model(name, pipe):
    with nag_core.applied(pipe, "blue") as nag:
        draw(name, pipe)
    strength = nag.reports[0].strength
    wanted = {
        "sd15": (2, 2.5, 0.375),
        "sd3": (4, 2.5, 0.125),
        "flux": (4, 2.5, 0.25),
        "pixart": (4, 2.5, 0.375),
    }
    assert (strength.phi, strength.tau, strength.alpha) == wanted[name]


@pytest.mark.parametrize(
    ("settings", "values", "steps", "said"),
    [
        ({}, (1, 2.5, 0.25), 5, "Auto took the values of Z-Image Turbo (community)"),
        ({"scale": 4}, (4, 2.5, 0.25), 5, "Auto took the values of Z-Image Turbo (community)"),
        ({"end": 1}, (1, 2.5, 0.25), 10, "Auto took the values of Z-Image Turbo (community)"),
        ({"start": 0}, (1, 2.5, 0.25), 10, "Auto took the values of Z-Image Turbo (community)"),
        ({"preset": "Few-step"}, (1, 2.5, 0.25), 3, "Few-step took the values of Z-Image Turbo (community)"),
        ({"preset": "Z-Image Turbo (community)"}, (1, 2.5, 0.25), 5, ""),
        ({"preset": "Few-step", "scale": 4, "tau": 2.5, "alpha": 0.5}, (4, 2.5, 0.5), 3, ""),  # its own End
        (GIVEN, (4, 2.5, 0.5), 10, ""),
    ],
    ids=str,
)
@on("z-image")
def test_the_end_of_autos_row_is_taken_and_the_row_named(name, pipe, settings, values, steps, said):
    """The library took phi, tau and alpha alone, acted in all steps, and did not say whose they were."""
    with nag_core.applied(pipe, "blue", **settings) as nag:
        draw(name, pipe, steps=10)
    (report,) = nag.reports
    assert (report.strength.phi, report.strength.tau, report.strength.alpha) == values
    assert f"× {steps}/10 steps" in nag.report
    assert (nag.complete, report.problems) == (True, (said,) if said else ())


@pytest.mark.parametrize(
    ("name", "pipe", "steps", "said"),
    [
        ("klein", "klein", 8, "Auto took the values of Flux.2 Klein (community)"),
        ("qwen-image", "qwen-image", 10, "Auto has no values for this model (Qwen-Image) and took Flux's"),
        ("sd15", "sd15", 10, ""),
    ],
    indirect=["pipe"],
)
def test_and_so_of_other_models(name, pipe, steps, said):
    with nag_core.applied(pipe, "blue") as nag:
        draw(name, pipe, steps=10)
    assert f"× {steps}/10 steps" in nag.report
    assert nag.reports[0].problems == ((said,) if said else ())


@on("sd15", "flux")
def test_a_call_that_broke_off_does_not_spoil_the_next_one(name, pipe):
    with nag_core.applied(pipe, "blue", scale=4):
        wanted = draw(name, pipe, cfg=True)

    def stop(*_):
        raise KeyboardInterrupt

    model = getattr(pipe, "unet", None) or pipe.transformer
    before = touched(pipe)
    with nag_core.applied(pipe, "blue", scale=4):
        encoding = model.register_forward_pre_hook(stop, prepend=True)  # before NAG sees a model call
        with pytest.raises(KeyboardInterrupt):
            draw(name, pipe, "green dog", cfg=True)
        encoding.remove()
        sampling = next(model.children()).register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            draw(name, pipe, cfg=True)
        sampling.remove()
        assert torch.equal(draw(name, pipe, cfg=True), wanted)
    assert touched(pipe) == before


@on("sd15", "flux", "wan")
def test_how_far_a_call_came_that_was_ended_early_is_said(name, pipe):
    """By the pipelines' own mark, and by an exception; not as a prompt that NAG did not recognise."""

    def interrupt(pipe, _step, _time, kwargs):
        pipe._interrupt = True
        return kwargs

    def give_up(*_):
        raise KeyboardInterrupt

    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, steps=5, callback_on_step_end=interrupt)
    assert "× 1/1 steps" in nag.report
    assert nag.report.endswith(", ended early, after 1 of 5 steps")
    pipe._interrupt = False
    broken = nag_core.applied(pipe, "blue", scale=4)
    with pytest.raises(KeyboardInterrupt), broken as nag:
        draw(name, pipe, steps=5, callback_on_step_end=give_up)
    assert nag.report.endswith(", ended early, after 1 of 5 steps")
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, steps=5)
    assert "of 5 steps" not in nag.report


@on("sd15")
def test_a_prompt_that_changes_on_the_way_is_not_passed_over_in_silence(name, pipe):
    """By a callback, as prompt schedules do it: what the text means for NAG then is unknown."""

    def change(_pipe, _step, _time, kwargs):
        return {"prompt_embeds": kwargs["prompt_embeds"] + 1}

    more = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, steps=3, **more)
    assert "4 layers × 1/1 steps" in nag.report
    assert nag.report.endswith("only 1 of the call's 3 steps were over this prompt")


@on("sd15", "flux", "wan")
def test_a_prompt_may_come_encoded(name, pipe):
    with nag_core.applied(pipe, "blue", scale=4):
        wanted = draw(name, pipe)
        arguments = {"prompt": "a red circle", "device": "cpu"}
        if name == "sd15":
            arguments |= {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        if name == "flux":
            arguments["prompt_2"] = None
    encoded = pipe.encode_prompt(**arguments)
    more = {"prompt_embeds": encoded[0]}
    if name == "flux":
        more["pooled_prompt_embeds"] = encoded[1]
    if name == "wan":
        pytest.skip("the pipeline repeats embeddings of 226 tokens only, here they are made with others")
    with nag_core.applied(pipe, "blue", scale=4):
        found = draw(name, pipe, None, **more)
    assert apart(found, wanted) < 1e-5, "but for rounding, as without NAG"


@on("z-image")
def test_a_prompt_that_comes_encoded_to_a_pipeline_that_encodes_nothing_then_is_said(name, pipe):
    prompt, _ = pipe.encode_prompt("a red circle", do_classifier_free_guidance=False)
    plain = draw(name, pipe, None, prompt_embeds=prompt)
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        assert torch.equal(draw(name, pipe, None, prompt_embeds=prompt), plain)
    said = "the prompt came encoded, and the pipeline encoded none; give it the text"
    assert nag.report == f"not applied: {said}"


@on("sd15")
def test_bad_arguments_are_named(name, pipe):
    for settings, message in (
        ({"scal": 4}, "unexpected keyword argument 'scal'"),
        ({"scale": 99}, "scale 99 is outside 0–20"),
        ({"hires": "Both"}, "unexpected keyword argument 'hires'"),
        ({"mask": "Inside"}, "unexpected keyword argument 'mask'"),
        ({"blocks": "input.x"}, "'input.x' is no block"),
        ({"negatives": "red :: x"}, "the weight 'x' is no number"),
        ({"negatives": "red"}, "leave that empty"),
    ):
        with (
            pytest.raises((ValueError, TypeError), match=message),
            nag_core.applied(pipe, "blue", **settings),
        ):
            pass
    with (
        nag_core.applied(pipe, ["blue", "dark", "dog"]),
        pytest.raises(ValueError, match="3 negatives for 2 prompts"),
    ):
        draw(name, pipe, TWO)
    with (
        nag_core.applied(pipe, "blue"),
        pytest.raises(UnsupportedHost, match="already"),
        nag_core.applied(pipe, "red"),
    ):
        pass
    with pytest.raises(UnsupportedHost, match="object has no text model"), nag_core.applied(object(), "blue"):
        pass


@on("flux")
def test_a_block_cache_is_refused(name, pipe):
    """It would answer for guided blocks with what unguided ones gave."""
    from diffusers import FirstBlockCacheConfig

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    try:
        with pytest.raises(UnsupportedHost, match="block outputs"), nag_core.applied(pipe, "blue"):
            pass
    finally:
        pipe.transformer.disable_cache()


@pytest.mark.parametrize("marked", ["transformer", "pipeline"])
@on("flux")
def test_the_caches_of_cache_dit_and_paraattention_are_refused(name, pipe, marked):
    """The report claimed all steps where a third of the block runs took place. Their marks on the pipeline's
    class say nothing of this pipeline.
    """
    owner = pipe.transformer if marked == "transformer" else pipe
    owner._is_cached = True
    try:
        with pytest.raises(UnsupportedHost, match="block outputs"), nag_core.applied(pipe, "blue"):
            pass
    finally:
        del owner._is_cached
    type(pipe)._is_cached = True
    try:
        with nag_core.applied(pipe, "blue", scale=4) as nag:
            draw(name, pipe)
        assert nag.complete
    finally:
        del type(pipe)._is_cached


@pytest.mark.slow
@on("sana", "flux")
def test_a_compiled_model_runs_as_it_was_written(name, pipe):
    plain = draw(name, pipe)
    with nag_core.applied(pipe, "blue", scale=4):
        wanted = draw(name, pipe)
    original = pipe.transformer
    pipe.transformer = torch.compile(original, backend="eager")
    try:
        assert torch.allclose(draw(name, pipe), plain, atol=1e-5)
        with nag_core.applied(pipe, "blue", scale=4) as nag:
            found = draw(name, pipe)
        assert "2/2 steps" in nag.report
        assert torch.allclose(found, wanted, atol=1e-5)
        assert torch.allclose(draw(name, pipe), plain, atol=1e-5)
    finally:
        pipe.transformer = original


@pytest.mark.parametrize("whole", [True, False], ids=["the model", "its blocks"])
@on("pixart")
def test_compiled_code_does_not_run_under_nag_but_afterwards(name, pipe, whole, caplog, monkeypatch):
    """It would have the plain attention baked in."""
    with nag_core.applied(pipe, "blue", scale=4):
        wanted = draw(name, pipe)
    ran, original = [], pipe.transformer

    def backend(graph, inputs):
        return lambda *args: ran.append(1) or graph.forward(*args)

    if whole:
        pipe.transformer = torch.compile(original, backend=backend)
    else:
        original.transformer_blocks[0].compile(backend=backend)
    try:
        with caplog.at_level("INFO", "nag"), nag_core.applied(pipe, "blue", scale=4) as nag:
            found = draw(name, pipe)
        assert ran == []
        assert "2/2 steps" in nag.report
        assert torch.equal(found, wanted)
        assert "NAG: the compiled model runs uncompiled while NAG is applied" in caplog.messages
        draw(name, pipe)
        assert ran
        monkeypatch.delattr(torch.compiler, "set_stance")
        with pytest.raises(UnsupportedHost, match="is compiled, and this PyTorch cannot run it uncompiled"):
            nag_core.applied(pipe, "blue").__enter__()
    finally:
        pipe.transformer = original
        original.transformer_blocks[0]._compiled_call_impl = None


@pytest.mark.parametrize("how", ["its forward", "a block in its list", "an attention"])
@on("sd15")
def test_a_model_compiled_in_place_runs_as_it_was_written(name, pipe, how):
    """It read "another extension took the attention or the model call over"; of a single attention module,
    which stayed unguided, nothing was said.
    """
    with nag_core.applied(pipe, "blue", scale=4):
        wanted = draw(name, pipe)
    ran, unet = [], pipe.unet
    block, inner = unet.down_blocks[0], unet.mid_block.attentions[0].transformer_blocks[0]
    attention = inner.attn2

    def backend(graph, inputs):
        return lambda *args: ran.append(1) or graph.forward(*args)

    torch._dynamo.reset()
    try:
        if how == "its forward":
            unet.forward = torch.compile(unet.forward, backend=backend)
        elif how == "an attention":
            inner.attn2 = torch.compile(attention, backend=backend)
        else:
            unet.down_blocks[0] = torch.compile(block, backend=backend)
        draw(name, pipe)
        assert ran
        ran.clear()
        with nag_core.applied(pipe, "blue", scale=4) as nag:
            found = draw(name, pipe)
    finally:
        vars(unet).pop("forward", None)
        unet.down_blocks[0], inner.attn2 = block, attention
        torch._dynamo.reset()
    assert (ran, nag.complete) == ([], True)
    assert torch.equal(found, wanted)


@on("pixart")
def test_a_model_that_is_not_compiled_needs_nothing_of_the_kind(name, pipe, caplog, monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    with caplog.at_level("INFO", "nag"), nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe)
    assert "2/2 steps" in nag.report
    assert not any("compiled" in one for one in caplog.messages)


@pytest.mark.parametrize("negative", ["blue", "dark dog"])
@on("sdxl", "flux", "sd3", "pixart", "sana", "wan")
def test_it_reaches_the_decoded_picture_or_video(name, pipe, negative):
    """Through the VAE; a video has its frames."""
    plain = draw(name, pipe, output_type="np")
    with nag_core.applied(pipe, negative, scale=4):
        found = draw(name, pipe, output_type="np")
    assert found.shape == plain.shape == ((1, 5, 16, 16, 3) if name == "wan" else (1, *found.shape[1:3], 3))
    assert abs(found - plain).max() > 0


@on("sdxl")
def test_the_library_example_draws_and_reports(name, pipe, capsys, monkeypatch):
    """With a small pipeline that takes few steps."""
    original = type(pipe).__call__

    def quick(self, *args, **kwargs):
        return original(self, *args, num_inference_steps=2, height=32, width=32, **kwargs)

    monkeypatch.setattr(type(pipe), "__call__", quick)
    found = {"pipe": pipe}
    exec(snippet("library-example"), found)
    assert found["image"].size == (32, 32)
    assert capsys.readouterr().out == f"{found['nag'].report}\n"
    assert "8 layers × 2/2 steps" in found["nag"].report


def test_sana_sprint_which_knows_no_cfg_and_no_negative():
    from diffusers import SanaSprintPipeline, SCMScheduler

    made = pipelines.pipeline("sana").components
    torch.manual_seed(0)
    config = {name: value for name, value in made["transformer"].config.items() if name[0] != "_"}
    config |= {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    transformer = type(made["transformer"])(**config)
    for parameter in transformer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    pipe = SanaSprintPipeline(**{**made, "transformer": transformer.eval(), "scheduler": SCMScheduler()})
    pipe.set_progress_bar_config(disable=True)
    plain = draw("sana", pipe, intermediate_timesteps=1.3)
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        blue = draw("sana", pipe, intermediate_timesteps=1.3)
    with nag_core.applied(pipe, "dark dog", scale=4):
        dark = draw("sana", pipe, intermediate_timesteps=1.3)
    assert nag.report.startswith("2 layers × 2/2 steps")
    assert min(apart(blue, plain), apart(dark, plain), apart(blue, dark)) > 3e-4
    assert torch.equal(draw("sana", pipe, intermediate_timesteps=1.3), plain)
