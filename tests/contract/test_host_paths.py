"""The paths to the host that show only in its arguments: encoding, foreign layouts, the refiner."""

import sys
from contextlib import contextmanager
from copy import copy
from threading import Thread
from types import ModuleType

import pytest
import torch

import nag_core
from nag_core.webui.job import Job
from tests.live.client import largest_difference

ON = [{"enabled": True, "scale": 4}]
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1, "hr_second_pass_steps": 6}


@pytest.fixture
def encoded(host, job, monkeypatch):
    """Every call of the host's text encoder: the SdConditioning, the steps of both passes."""
    job()
    seen = []
    original = host.prompt_parser.get_learned_conditioning

    def record(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
        seen.append((prompts, steps, hires_steps))
        return original(model, prompts, steps, hires_steps, use_old_scheduling)

    monkeypatch.setattr(host.prompt_parser, "get_learned_conditioning", record)
    return seen


def ours(encoded, text):
    return [call for call in encoded if call[0] and call[0][0] == text]


def test_the_negative_is_encoded_as_a_negative_of_the_pictures_size(job, encoded):
    job([{"negative": "blue"}], width=96)
    ((prompts, steps, hires_steps),) = ours(encoded, "blue")
    assert prompts.is_negative_prompt is True
    assert (prompts.width, prompts.height) == (96, 128)
    assert (steps, hires_steps) == (4, None)


def test_the_hires_pass_encodes_its_own_negative_size_and_steps(job, encoded):
    job(ON, hr_negative_prompt="yellow", hr_prompt="a square", **HIRES)
    ((prompts, steps, hires_steps),) = ours(encoded, "yellow")
    assert (prompts.width, prompts.height) == (256, 256)
    assert (steps, hires_steps) == (4, 6)
    assert len(ours(encoded, "red")) == 1


@pytest.mark.parametrize(
    ("sampler", "steps", "calls"), [("Heun", 6, 12), ("Euler", 6, 6), (None, 6, 6), ("Heun", 0, 8)]
)
def test_the_negatives_schedule_in_hires_is_that_of_its_own_sampler(job, encoded, sampler, steps, calls):
    """Prompt editing counts model calls, of which Heun makes two a step; without steps it makes the first
    pass's.
    """
    job(ON, **HIRES | {"hr_second_pass_steps": steps}, hr_sampler_name=sampler, hr_negative_prompt="yellow")
    ((_, first, second),) = ours(encoded, "yellow")
    assert (first, second) == (4, calls)


def test_a_hires_pass_without_a_sampler_of_its_own_counts_as_the_first_one(job, encoded):
    job(ON, **HIRES, sampler_name="Heun", hr_negative_prompt="yellow")
    ((_, first, second),) = ours(encoded, "yellow")
    assert (first, second) == (8, 12)


@pytest.mark.parametrize("name", ["SdConditioning", "get_conds_with_caching"])
def test_a_function_of_the_host_that_changed_is_said_and_the_picture_is_the_hosts(
    host, job, monkeypatch, name
):
    """Forge Neo dropped a parameter, and the report was a TypeError's text."""
    _, off = job()
    kind = host.processing.StableDiffusionProcessing
    owner = host.prompt_parser if name == "SdConditioning" else kind
    original, setup = getattr(owner, name), kind.setup_conds

    def changed(*, prompts):
        raise AssertionError("called")

    def once_the_host_has_encoded(p):
        setup(p)
        monkeypatch.setattr(owner, name, changed if owner is not kind else staticmethod(changed))

    monkeypatch.setattr(kind, "setup_conds", once_the_host_has_encoded)
    p, on = job([{"negative": "blue"}])
    monkeypatch.setattr(owner, name, original)
    report = p.extra_generation_params["NAG report"]
    assert report == (
        "not applied: this version of the WebUI has another changed() than NAG knows "
        "(too many positional arguments); please report this line to the author of this extension "
        f"(WebUI sandbox, NAG {nag_core.__version__})"
    )
    assert [image.tobytes() for image in on.images] == [image.tobytes() for image in off.images]


def test_a_host_that_keeps_its_caches_itself(host, job, monkeypatch):
    """ersatzForge takes `is_negative` where the others take caches, and NAG applied to no job there."""
    kind, asked = host.processing.StableDiffusionProcessing, []
    theirs = {name: getattr(kind, name) for name in ("get_conds_with_caching", "setup_conds")}

    def keeping(
        self, function, required_prompts, steps, extra_network_data, hires_steps=None, is_negative=False
    ):
        asked.append((is_negative, hires_steps))
        more = () if hires_steps is None else (hires_steps,)
        return theirs["get_conds_with_caching"](
            self, function, required_prompts, steps, [[None, None]], extra_network_data, *more
        )

    def once_the_host_has_encoded(p):
        theirs["setup_conds"](p)
        p.get_conds_with_caching = keeping.__get__(p)

    nag = [{"negative": "[blue:red:0.5]"}]
    _, wanted = job(nag)
    monkeypatch.setattr(kind, "setup_conds", once_the_host_has_encoded)
    _, found = job(nag)
    assert asked == [(True, None)]
    assert "4/4 steps" in found.infotexts[0]
    assert found.images[0].tobytes() == wanted.images[0].tobytes()


def test_a_host_that_makes_the_pictures_texts_right_after_sampling(host, job, monkeypatch):
    """ersatzForge does, and its pictures had no report; nor had one that is saved before its hires pass."""
    kind, texts = host.processing.StableDiffusionProcessingTxt2Img, []
    sample = kind.sample

    def noting(p, *args, **kwargs):
        samples = sample(p, *args, **kwargs)
        texts.append(host.processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds))
        return samples

    monkeypatch.setattr(kind, "sample", noting)
    _, processed = job(ON, n_iter=2)
    assert "4/4 steps" in texts[0]
    for early, late in zip(texts, processed.infotexts, strict=True):
        assert early.partition("NAG report")[2] == late.partition("NAG report")[2]


def test_a_report_that_fails_is_said_in_its_place(job, monkeypatch):
    """What was to be read before the batch's end stood there, and failed once more in the host's hands."""

    def fail(*_):
        raise RuntimeError("no counters")

    monkeypatch.setattr(Job, "so_far", fail)
    p, processed = job(ON)
    said = [one for one in p.comments if one.startswith("NAG: ")]
    assert said == ["NAG: the report is not complete: RuntimeError: no counters"], "once"
    assert 'NAG report: "the report is not complete: RuntimeError: no counters"' in processed.infotexts[0]
    assert "NAG applied" not in processed.infotexts[0]


def test_a_host_that_ends_no_batch_of_an_interrupted_job(host, job, monkeypatch, caplog):
    """ersatzForge leaves postprocess_batch out then, and nobody was told what the steps before had."""
    monkeypatch.setattr(host.scripts.ScriptRunner, "postprocess_batch", lambda *args, **kwargs: None)
    with caplog.at_level("INFO", "nag"):
        job(ON)
    assert len([one for one in caplog.records if "× 4/4 steps" in one.message]) == 1


def test_a_schedule_whose_parts_the_host_cannot_encode_together(host, job, monkeypatch):
    """Forge main stacks them, which raises on Chroma: its texts are not padded to one length."""
    negative = {"negative": "[blue:red framed:0.5]"}
    _, wanted = job([negative])
    original, lengths = host.prompt_parser.get_learned_conditioning, []

    def stacking(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
        parse = host.prompt_parser.get_learned_conditioning_prompt_schedules
        lengths.append(max(len(one) for one in parse(list(prompts), steps, hires_steps, use_old_scheduling)))
        if lengths[-1] > 1:
            raise RuntimeError("stack expects each tensor to be equal size")
        return original(model, prompts, steps, hires_steps, use_old_scheduling)

    monkeypatch.setattr(host.prompt_parser, "get_learned_conditioning", stacking)
    _, found = job([negative])
    assert 2 in lengths
    assert "4/4 steps" in found.infotexts[0]
    assert found.images[0].tobytes() == wanted.images[0].tobytes()


def test_an_encoder_that_fails_on_a_plain_negative_is_said(host, job, monkeypatch):
    def fail(*args):
        raise RuntimeError("no such encoder")

    job()
    monkeypatch.setattr(host.prompt_parser, "get_learned_conditioning", fail)
    _, processed = job([{"negative": "blue"}])
    assert "not applied: RuntimeError: no such encoder" in processed.infotexts[0]


def test_the_hosts_own_cache_of_negatives_is_left_alone(host, job):
    p, _ = job([{"negative": "blue"}])
    assert p.cached_uc[0] is None or "blue" not in str(p.cached_uc[0][0])


def test_styles_apply_to_the_own_box(host, job, encoded, monkeypatch):
    def apply(text, styles):
        return f"{text}, {' '.join(styles)}" if styles else text

    monkeypatch.setattr(host.shared.prompt_styles, "apply_negative_styles_to_prompt", apply, raising=False)
    job([{"negative": "blue"}], styles=["framed"])
    assert len(ours(encoded, "blue, framed")) == 1


def test_network_tags_are_taken_out_of_the_own_box_and_said(job, encoded):
    _, processed = job([{"negative": "blue<lora:some:1>"}])
    assert len(ours(encoded, "blue")) == 1
    assert "LoRA tags in the NAG negative are ignored" in processed.infotexts[0]


@pytest.mark.parametrize("stripped", [True, False])
def test_comments_are_taken_out_where_the_host_does(host, job, encoded, monkeypatch, stripped):
    module = ModuleType("modules.processing_scripts.comments")
    module.strip_comments = lambda text: text.partition("#")[0]
    monkeypatch.setitem(sys.modules, "modules.processing_scripts", ModuleType("modules.processing_scripts"))
    monkeypatch.setitem(sys.modules, "modules.processing_scripts.comments", module)
    monkeypatch.setitem(host.shared.opts.data, "enable_prompt_comments", stripped)
    job([{"negative": "blue# note"}])
    assert len(ours(encoded, "blue" if stripped else "blue# note")) == 1


def test_an_own_box_with_nothing_left_falls_back_to_the_main_negative(job):
    _, own = job([{"negative": "<lora:some:1>"}])
    _, main = job([{}])
    assert own.images[0].tobytes() == main.images[0].tobytes()


def test_a_schedule_guides_only_while_it_has_a_text(job):
    """Hosts end an entry with the step that carries its number: the first one lasts for calls 0, 1 and 2."""
    _, processed = job([{"negative": "[red::0.5]"}])
    assert "× 3/4 steps" in processed.infotexts[0]
    _, processed = job([{"negative": "[::0.5]"}])
    assert "the negative prompt is empty" in processed.infotexts[0]


def test_the_hires_scale_is_used_and_said(job):
    _, plain = job(ON, **HIRES)
    _, other = job([{"scale": 4, "hires_scale": 9}], **HIRES)
    assert other.images[0].tobytes() != plain.images[0].tobytes()
    assert "hires pass: 7 layers" in other.infotexts[0]
    assert "φ 9 τ 2.5 α 0.375" in other.infotexts[0]
    assert "NAG hires scale: 9" in other.infotexts[0]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"hires_tau": 1.5}, "φ 4 τ 1.5 α 0.375"),
        ({"hires_alpha": 0.75}, "φ 4 τ 2.5 α 0.75"),
        ({"hires_scale": 9, "hires_tau": 5, "hires_alpha": 0.9}, "φ 9 τ 5 α 0.9"),
    ],
    ids=str,
)
def test_the_hires_pass_has_a_tau_and_an_alpha_of_its_own(job, own, said):
    """What is not set is the first pass's; the first pass is drawn as ever."""
    _, plain = job(ON, **HIRES)
    _, other = job([{"scale": 4, **own}], **HIRES)
    assert other.images[0].tobytes() != plain.images[0].tobytes()
    first, _, hires = other.infotexts[0].partition("hires pass: 7 layers")
    assert said in hires
    assert "φ" not in first
    for name, value in own.items():
        assert f"NAG {name.replace('_', ' ')}: {value}" in first
    _, without = job([{"scale": 4, **own}])
    _, same = job(ON)
    assert without.images[0].tobytes() == same.images[0].tobytes()


def test_a_hires_alpha_that_equals_the_first_pass_changes_nothing(job):
    _, plain = job(ON, **HIRES)
    _, same = job([{"scale": 4, "hires_alpha": 0.375, "hires_tau": 2.5, "hires_scale": 4}], **HIRES)
    assert same.images[0].tobytes() == plain.images[0].tobytes()


def tile(host, monkeypatch, marked):
    """A wrapper that draws everything twice as MultiDiffusion draws tiles, and keeps the first."""
    patcher = type(host.shared.sd_model.forge_objects.unet)
    original = patcher.clone

    def wrapper(apply_model, args):
        twice = {
            name: torch.cat([value, value]) if isinstance(value, torch.Tensor) else value
            for name, value in args["c"].items()
        }
        x, t = (torch.cat([args[name]] * 2) for name in ("input", "timestep"))
        return apply_model(x, t, **twice)[: len(args["input"])]

    def clone(self):
        made = original(self)
        made.set_model_unet_function_wrapper(wrapper)
        if marked:
            made.model_options["tiled_diffusion"] = True
        return made

    monkeypatch.setattr(patcher, "clone", clone)


@pytest.mark.parametrize("cfg", [1, 4])
def test_multidiffusion_tiles_are_guided_like_the_untiled_picture(host, job, monkeypatch, cfg):
    _, plain = job(ON, cfg_scale=cfg)
    tile(host, monkeypatch, marked=True)
    _, tiled = job(ON, cfg_scale=cfg)
    assert "7 layers × 4/4 steps" in tiled.infotexts[0]
    assert difference(plain, tiled) <= 2


def test_rows_multiplied_by_an_unknown_wrapper_run_plain_and_are_said(host, job, monkeypatch):
    _, off = job(cfg_scale=4)
    tile(host, monkeypatch, marked=False)
    _, tiled = job(ON, cfg_scale=4)
    assert "a batch layout nobody knows" in tiled.infotexts[0]
    assert difference(off, tiled) <= 2


def difference(one, two):
    return largest_difference(*(processed.images[0].convert("RGB").tobytes() for processed in (one, two)))


@contextmanager
def swapped_model(host, also=lambda p: None):
    """Inside, what apply_refiner does: other forge_objects at step 2, and only on_cfg_denoiser fires. Gives a
    list that tells whether it happened. also: done in the same moment.
    """
    swapped = []

    def swap(params):
        if params.denoiser.step == 2 and not swapped:
            swapped.append(1)
            model = params.denoiser.inner_model.inner_model
            model.forge_objects = model.forge_objects_original.shallow_copy()
            also(params.denoiser.p)

    callbacks = host.script_callbacks
    callbacks.on_cfg_denoiser(swap)
    entries = callbacks.callback_map["callbacks_cfg_denoiser"]
    entries.insert(0, entries.pop())  # the host swaps before any callback runs
    try:
        yield swapped
    finally:
        callbacks.remove_callbacks_for_function(swap)


@pytest.mark.parametrize(
    "nag", [ON, [{"scale": 4, "negative": "blue"}]], ids=["main negative", "own negative"]
)
@pytest.mark.parametrize("cfg", [1, 4])
def test_a_model_swapped_in_the_middle_of_a_pass_keeps_nag(host, job, encoded, monkeypatch, nag, cfg):
    """The conds are made anew."""
    _, whole = job(nag, cfg_scale=cfg)
    prepared = []
    monkeypatch.setattr(
        "backend.sampling.sampling_function.sampling_prepare", lambda unet, x: prepared.append(unet)
    )
    encoded.clear()
    with swapped_model(host) as swapped:
        _, processed = job(nag, cfg_scale=cfg)
    assert swapped
    assert "7 layers × 4/4 steps" in processed.infotexts[0]
    assert processed.images[0].tobytes() == whole.images[0].tobytes(), "the same weights, so the same picture"
    own = "negative" in nag[0]
    assert len(ours(encoded, "blue" if own else "red")) == (2 if own or cfg == 1 else 0)
    assert len(prepared) == (own or cfg == 1), "an encode may have moved the unet away"


def test_a_second_models_encoder_that_makes_the_prompt_of_the_negative_is_said(host, job, monkeypatch):
    """The first steps are guided, the others not: the second text encoder gives the same for both."""
    job()

    def encoder_of_the_prompt_alone(p):
        row, encode = p.c.batch[0][0].schedules, host.prompt_parser.get_learned_conditioning
        monkeypatch.setattr(
            host.prompt_parser, "get_learned_conditioning",
            lambda *args: [row] if args[1][0] == "blue" else encode(*args),
        )  # fmt: skip

    with swapped_model(host, encoder_of_the_prompt_alone) as swapped:
        p, _ = job([{"scale": 4, "negative": "blue"}])
    assert swapped
    assert p.extra_generation_params["NAG report"].endswith(
        "off after the refiner switch (prompt and negative gave the same conditioning)"
    )
    assert "7 layers × 2/4 steps" in p.extra_generation_params["NAG report"]


def test_a_model_that_cannot_be_guided_after_the_swap_is_tried_once(host, job, monkeypatch):
    from nag_core.hosts import model as loaded
    from nag_core.hosts.patcher import modifier
    from nag_core.hosts.unsupported import UnsupportedHost

    tried = []

    def fail(*args):
        tried.append(1)
        raise UnsupportedHost("no such text encoder")

    monkeypatch.setattr(modifier, "installed", lambda *args: False)
    job()
    original = loaded.check_model
    monkeypatch.setattr(
        loaded, "check_model", lambda *args: original(*args) if not tried_before() else fail()
    )
    started = []

    def tried_before():
        started.append(1)
        return len(started) > 1

    _, processed = job(ON)
    assert len(tried) == 1
    assert "off after the refiner switch" in processed.infotexts[0]


@pytest.mark.parametrize("in_a_thread", [False, True], ids=["here", "in a thread"])
def test_adetailers_inner_jobs_leave_the_outer_pictures_report_alone(
    host, job, script, monkeypatch, in_a_thread
):
    """It calls process and postprocess on copies of p before the outer infotexts are written."""
    runner = type(host.scripts.scripts_txt2img)
    original = runner.postprocess_image

    def draw_again(p):
        inner = copy(p)
        script.process(inner, {"enabled": True, "scale": 9})
        script.postprocess_batch(inner)
        script.postprocess(inner, None)

    def postprocess_image(self, p, *args, **kwargs):
        if in_a_thread:
            thread = Thread(target=draw_again, args=(p,))
            thread.start()
            thread.join()
        else:
            draw_again(p)
        return original(self, p, *args, **kwargs)

    monkeypatch.setattr(runner, "postprocess_image", postprocess_image)
    _, processed = job(ON)
    assert "NAG scale: 4" in processed.infotexts[0]
    assert 'NAG report: "7 layers × 4/4 steps' in processed.infotexts[0]


def test_installing_twice_leaves_one_modifier(host, job, script):
    from nag_core.hosts.patcher import modifier
    from nag_core.hosts.patcher.forge import Forge
    from tests import sessions as sessions_of

    p, _ = job(ON)
    model = host.shared.sd_model
    model.forge_objects = model.forge_objects_original.shallow_copy()
    sessions = [sessions_of.made((4, 2.5, 0.5)) for _ in range(2)]
    for session in sessions:
        modifier.install(model, Forge(), session)
    assert not modifier.installed(model, sessions[0])
    assert modifier.installed(model, sessions[1])
    assert len(model.forge_objects.unet.model_options["conditioning_modifiers"]) == 1
    model.forge_objects = model.forge_objects_original.shallow_copy()


def test_each_image_of_a_batch_has_its_own_negative(job):
    """Wildcards and dynamic prompts give every image another text; here batch count 2 times batch size 2."""
    negatives = ["red", "blue", "on gray", "framed, " * 60]
    _, batch = job(
        ON, prompt=["a circle"] * 4, negative_prompt=negatives, batch_size=2, n_iter=2, seed=[1, 2, 3, 4]
    )
    for index, negative in enumerate(negatives):
        _, single = job(ON, negative_prompt=negative, seed=1 + index)
        got, alone = batch.images[index].convert("RGB").tobytes(), single.images[0].convert("RGB").tobytes()
        assert max(abs(a - b) for a, b in zip(got, alone, strict=True)) <= 2


def test_an_empty_negative_in_a_batch_leaves_its_image_alone(job):
    _, batch = job(ON, prompt=["a circle"] * 2, negative_prompt=["red", ""], batch_size=2, seed=[1, 2])
    _, plain = job(negative_prompt="", seed=2)
    assert batch.images[1].convert("RGB").tobytes() == plain.images[0].convert("RGB").tobytes()
    assert "1 of 2 images" in batch.infotexts[0]
