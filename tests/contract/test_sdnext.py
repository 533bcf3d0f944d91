"""The script in SD.Next: its processing runs around a real diffusers pipeline of small random parts.

Twice: with a stand-in for SD.Next's processing that is ours, and, with `--sdnext-dir` at a checkout of
SD.Next, with its own source (script runner and pipeline call; everything beneath them replaced). A live one
is for tests/live.
"""

import ast
import builtins
import gc
import inspect
import itertools
import math
import re
import sys
import types
import weakref
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock, patch

import pytest
import torch

import nag_core
from nag_core.hosts import asked
from nag_core.hosts.diffusers.sdnext import AS_WORDS
from nag_core.method.negative import KeyValueCache
from tests import diffusers_pipelines as pipelines
from tests.extras import needs_pipelines
from tests.host_table import PIPELINES
from tests.lacking import lacking

pytestmark = needs_pipelines

ON = [{"enabled": True, "scale": 4}]
NAME = "modules.processing_diffusers"
PARSER = "modules.prompt_parser_diffusers"


def set_pipeline_args(p, model, prompts, negative_prompts, **_):
    """As SD.Next's: prompts by text, no negative at CFG 1."""
    generator = [torch.Generator().manual_seed(seed) for seed in p.seeds]
    texts = {"prompt": list(prompts)}
    if p.cfg_scale > 1:
        texts["negative_prompt"] = list(negative_prompts)
    if p.parser is not None:
        module = sys.modules[PARSER]
        texts = p.parser.arguments(module.PromptEmbedder(prompts, negative_prompts, p.steps, p.clip_skip, p))
    return {
        **texts, "num_inference_steps": p.steps, "height": 32, "width": 32,
        "guidance_scale": p.cfg_scale, "generator": generator, "output_type": "latent",
    }  # fmt: skip


class Parser:
    """As SD.Next's PromptEmbedder for SDXL at CFG 1, with two forms only: (red:1.2), [red:green:step]."""

    asked = []

    def __init__(self, prompts, negative_prompts, steps, clip_skip, p, prompt_attention=None):
        self.asked.append(list(prompts))
        self.steps, self.clip_skip, self.prompt_attention_value = steps, clip_skip, prompt_attention
        self.batchsize = len(prompts)
        parts = [self.over_steps(text, steps) for text in prompts]
        encoded = {text: self.encoded(text) for text in itertools.chain(*parts)}
        made = [[encoded[text] for text in image] for image in parts]
        self.prompt_embeds = [[context for context, _ in image] for image in made]
        self.pooled = [image[0][1] for image in made]

    def over_steps(self, text, steps):
        turns = re.fullmatch(r"\[(\w+)\|(\w+)\]", text)
        if turns is not None:
            return [turns[1 + number % 2] for number in range(steps)]
        found = re.search(r"\[(.*?):(.*?):(\d+)\]", text)
        if found is None:
            return [text]
        before, after, when = found.groups()
        first, second = (text.replace(found[0], one) for one in (before, after))
        return [first] * int(when) + [second] * (steps - int(when))

    def encoded(self, text):
        weights = [float(weight) for _, weight in re.findall(r"\((\w+):([\d.]+)\)", text)]
        plain = re.sub(r"\((\w+):[\d.]+\)", r"\1", text)
        context, _, pooled, _ = Job.sd_model.encode_prompt(plain, do_classifier_free_guidance=False)
        return context * math.prod(weights), pooled

    def __call__(self, key, step=0):
        assert key == "prompt_embeds"
        return torch.cat([image[step] if step < len(image) else image[0] for image in self.prompt_embeds])

    @staticmethod
    def arguments(used):
        """What the pipeline is given, and how the prompt changes over its steps."""

        def changed(pipe, step, timestep, tensors):
            return {"prompt_embeds": used("prompt_embeds", step + 1)}

        return {
            "prompt_embeds": used("prompt_embeds"), "pooled_prompt_embeds": torch.cat(used.pooled),
            "callback_on_step_end": changed, "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
        }  # fmt: skip


class ReadsWords(Parser):
    """As for Flux: the parser is asked, and hands the text on as it is."""

    def encoded(self, text):
        context, _, pooled, _ = Job.sd_model.encode_prompt(text, do_classifier_free_guidance=False)
        return context, pooled


class Fails(Parser):
    def encoded(self, text):
        if "blue" in text:
            raise RuntimeError("no such word")
        return super().encoded(text)


class Job:
    """What SD.Next's processing object has, as far as it is read here."""

    def __init__(self, **fields):
        self.prompts, self.negative_prompts, self.seeds = ["a red circle"], ["blue"], [3]
        self.steps, self.cfg_scale, self.is_hr_pass, self.is_refiner_pass = 2, 1.0, False, False
        self.styles, self.extra_generation_params, self.comments = [], {}, {}
        self.enable_hr = False
        self.cfg_rescale = self.cfg_true = self.scheduler_eta = self.network_data = None
        self.refiner_start, self.refiner_prompt, self.refiner_negative = 0, "", ""
        self.ops, self.task_args, self.clip_skip, self.prompt_attention = [], {}, 1, None
        self.per_script_args, self.parser, self.keep_incomplete = {}, None, False
        vars(self).update(fields)

    @property
    def batch_size(self):
        return len(self.prompts)

    def comment(self, text):
        self.comments[text] = 1


def stand_in(shared):
    """Its processing: an interrupt, which the callback raises, costs the picture, not the job."""
    module = types.ModuleType(NAME)

    def process_base(p):
        shared.sd_model = module.update_pipeline(shared.sd_model)
        args = module.set_pipeline_args(
            p=p, model=shared.sd_model, prompts=p.prompts, negative_prompts=p.negative_prompts
        )
        output = None
        try:
            output = shared.sd_model(**args)
        except (AssertionError, RuntimeError):
            shared.state.interrupted = True
        finally:
            module.process_post(p)
        return output

    module.set_pipeline_args, module.process_post = set_pipeline_args, lambda p: None
    module.update_pipeline, module.process_base = lambda pipe: pipe, process_base
    return module


def checkouts(request, name):
    folder = request.config.getoption("--sdnext-dir")
    path = Path(folder or ".", "modules", name)
    if not folder or not path.exists():
        pytest.skip("no --sdnext-dir with a checkout of SD.Next")
    return path


def from_source(path, world, name):
    """A module of the checkout as it is written, every other module of it replaced by attributes of
    `world`.
    """

    def imported(wanted, globals=None, locals=None, fromlist=(), level=0):
        parts = wanted.split(".")
        if parts[0] not in ("modules", "installer"):
            return builtins.__import__(wanted, globals, locals, fromlist, level)
        found = world
        for part in parts[1:] if fromlist else ():
            found = getattr(found, part)
        return found

    module = types.ModuleType(name)
    module.__builtins__ = {**vars(builtins), "__import__": imported}
    with patch.dict(sys.modules, {name: module}):  # dataclasses look there
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module


def their_processing(path, shared):
    world = MagicMock()
    world.shared.sd_model, world.shared.opts.scheduler_eta = shared.sd_model, None
    world.processing_args.set_pipeline_args = set_pipeline_args
    world.sd_models.apply_balanced_offload = lambda pipe, **_: pipe
    world.modular.is_compatible.return_value = world.modular.is_guider.return_value = False
    world.extra_networks.parse_prompts = lambda prompts, data=None: (prompts, data)
    module = from_source(path, world, NAME)
    module.shared.sd_model = shared.sd_model
    return module


@pytest.fixture(params=["stand-in", "checkout"])
def sdnext(request, host, monkeypatch):
    """The processing module, under its name, with a pipeline as the loaded model."""
    pipe = pipelines.pipeline("sdxl")
    pipe.is_sdxl, pipe.is_sd1 = False, True  # so says SD.Next of every model (modules/sd_models.py:875)
    monkeypatch.setattr(host.shared, "sd_model", pipe, raising=False)
    monkeypatch.setattr(host.shared.state, "interrupted", False)  # whatever a test makes of it
    if request.param == "stand-in":
        module = stand_in(host.shared)
    else:
        module = their_processing(checkouts(request, "processing_diffusers.py"), host.shared)
    module.__spec__ = ModuleSpec(NAME, None)
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setitem(sys.modules, PARSER, types.SimpleNamespace(PromptEmbedder=Parser))
    monkeypatch.setattr(Job, "sd_model", pipe, raising=False)
    return module


@pytest.fixture
def draw(sdnext, script):
    """`draw(args, **fields)`: a batch, in the order of SD.Next's processing.py; its job and the latents."""

    def run(args=(), passes=1, **fields):
        p = Job(**fields)
        sys.modules[PARSER].PromptEmbedder = p.parser
        script.process(p, *args)
        script.process_batch(p, *args, batch_number=0, prompts=p.prompts, seeds=p.seeds, subseeds=[])
        outputs = []
        for number in range(passes):
            p.is_hr_pass = number > 0
            outputs.append(sdnext.process_base(p))
        interrupted = any(output is None for output in outputs)
        if not interrupted or p.keep_incomplete:
            script.postprocess_batch(p, [], batch_number=0)
            script.postprocess(p, None, *args)
        return p, None if interrupted or not outputs else outputs[-1].images

    return run


def untouched(sdnext, pipe):
    plain = (sdnext.set_pipeline_args is set_pipeline_args, "encode_prompt" not in vars(pipe))
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.unet.modules())
    return all(plain) and hooks == 0


def report(p):
    return p.extra_generation_params["NAG report"]


def test_a_refine_pass_of_the_last_picture_is_guided(draw, sdnext, script):
    """It goes on with the processing object of the job before: nothing was guided, and the report asked for
    one to us.
    """
    first, plain = draw()
    sdnext.last_p = first

    def again(state):
        p = Job(state=state)
        script.process(p, *ON)
        script.process_batch(p, *ON, batch_number=0, prompts=p.prompts, seeds=p.seeds, subseeds=[])
        output = sdnext.process_base(first)
        script.postprocess_batch(p, [], batch_number=0)
        script.postprocess(p, None, *ON)
        return p, output.images

    p, refined = again("reprocess_refine")
    assert report(p).startswith("8 layers × 2/2 steps")
    assert not torch.equal(refined, plain)
    assert untouched(sdnext, Job.sd_model)
    p, other = again("")
    assert torch.equal(other, plain), "another job's call"


def test_a_job_that_others_draw_asks_for_no_bug_report(draw):
    """ "Detail" has the detailer draw parts of the last picture, in jobs within this one; a plot that is an
    always-on script hands over its grid.
    """
    p, _ = draw(ON, passes=0)
    assert report(p) == (
        "not applied: SD.Next sampled nothing of this job itself: "
        "a script or the detailer drew, or nobody did"
    )
    assert p.extra_generation_params["NAG applied"] == "no"


def test_a_job_is_guided_and_leaves_nothing_behind(draw, sdnext):
    _, plain = draw()
    p, blue = draw(ON)
    assert report(p).startswith("8 layers × 2/2 steps")
    assert list(p.comments) == [f"NAG: {report(p)}"]
    assert p.extra_generation_params["NAG scale"] == 4
    assert p.extra_generation_params["NAG alpha"] == 0.5, "SDXL's row of the paper"
    assert untouched(sdnext, Job.sd_model)
    _, dark = draw(ON, negative_prompts=["dark dog"])
    assert not torch.equal(blue, plain)
    assert not torch.equal(blue, dark)
    again, off = draw([False])
    assert torch.equal(off, plain)
    assert again.extra_generation_params == {}


def page_of(script):
    import gradio as gr

    with gr.Blocks() as page:
        components = script.ui(False)
    shown = {one.label: one.visible for one in components if one.label}
    return shown, [one.value for one in page.blocks.values() if isinstance(one, gr.HTML)], len(components)


def test_the_page_says_that_it_is_on_and_hides_what_does_nothing_there(script, monkeypatch):
    """SD.Next's style sheet hides the tick of the header: opening the section is what turns NAG on."""
    elsewhere, _, places = page_of(script)
    module = types.ModuleType(NAME)
    module.__spec__ = ModuleSpec(NAME, None)
    with monkeypatch.context() as as_sdnext:
        as_sdnext.setitem(sys.modules, NAME, module)
        shown, notes, kept = page_of(script)
    page_of(script)  # which also makes the plot's axes those of this host again
    assert kept == places, "arguments go by their places"
    hidden = {"Mask", "Mask feather", "Mask image", "Heat map"}
    assert {label for label in shown if shown[label] != elsewhere[label]} == hidden
    assert not any(shown[label] for label in hidden)
    (note,) = [text for text in notes if "while this section is open" in str(text)]
    assert all(label in note for label in hidden)
    assert "Control and Video run no extensions" in note


@pytest.fixture(params=["sdxl", "flux", "chroma", "sd3", "pixart", "sana", "wan"])
def hijacked(request, monkeypatch):
    """A pipeline as SD.Next's own loaders make them: a function in front of its encoder, on the object."""
    name = request.param
    pipe = pipelines.pipeline(name)
    seen, original = {}, pipe.encode_prompt

    def encode(*args, **kwargs):
        """What modules/sd_hijack_te.py does: it remembers by the prompt, and answers an error with it."""
        prompt = kwargs.get("prompt", args[0] if args else None)
        result = prompt
        try:
            if str(prompt) not in seen:
                seen[str(prompt)] = original(*args, **kwargs)
            result = seen[str(prompt)]
        except Exception:
            failed.append(prompt)
        return result

    failed = []
    pipe.encode_prompt = encode
    yield name, pipe, failed
    assert pipe.encode_prompt is encode, "as it was before"


@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
def test_the_negative_is_encoded_behind_the_hosts_wrapper(hijacked, cfg):
    """The prompt itself was encoded as the negative, and the report claimed success (or an error of ours)."""
    name, pipe, failed = hijacked

    def drawn(negative):
        with nag_core.applied(pipe, negative, scale=4) as nag:
            return pipelines.draw(name, pipe, cfg=cfg), nag.report

    plain = pipelines.draw(name, pipe, cfg=cfg)
    (blue, said), (dark, _), (again, _) = (drawn(text) for text in ("blue", "dark dog", "blue"))
    assert "2/2 steps" in said
    assert not torch.equal(blue, plain)
    assert not torch.equal(blue, dark), "another negative is another picture"
    assert torch.equal(again, blue)
    assert torch.equal(pipelines.draw(name, pipe, cfg=cfg), plain)
    assert failed == []


def test_the_own_negative_wins_and_each_picture_has_its_main_one(draw):
    _, own = draw([{"negative": "dark dog", "scale": 4}], negative_prompts=["blue"])
    _, main = draw(ON, negative_prompts=["dark dog"])
    assert torch.equal(own, main)
    prompts = {"prompts": ["a red circle", "green dog"], "seeds": [3, 4]}
    p, one = draw(ON, **prompts, negative_prompts=["blue", "dark"])
    _, two = draw(ON, **prompts, negative_prompts=["blue", "low quality"])
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    assert "2/2 steps" in report(p)


def test_cfg_on_and_weights_in_the_negative(draw):
    p, found = draw(ON, cfg_scale=3.0, negative_prompts=["(blue:1.2)"])
    _, plain = draw(cfg_scale=3.0, negative_prompts=["(blue:1.2)"])
    assert not torch.equal(found, plain)
    assert report(p).endswith(AS_WORDS)


def test_weights_are_read_by_the_hosts_parser_where_that_reads_the_prompt(draw):
    _, plain = draw(ON, parser=Parser)
    pictures = {}
    for text in ("(blue:1)", "(blue:1.5)", "(blue:2)"):
        p, pictures[text] = draw([{"scale": 4, "negative": text}], parser=Parser)
        assert report(p).startswith("8 layers × 2/2 steps")
        assert AS_WORDS not in report(p)
    assert sys.modules[PARSER].PromptEmbedder is Parser, "what stood in front of it has left"
    assert torch.equal(pictures["(blue:1)"], plain), "the main negative is blue"
    different = [plain, pictures["(blue:1.5)"], pictures["(blue:2)"], draw(parser=Parser)[1]]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(different, 2))


def test_each_picture_of_a_batch_has_its_main_negative_by_the_hosts_parser(draw):
    prompts = {"prompts": ["a red circle", "green dog"], "seeds": [3, 4], "parser": Parser}
    _, one = draw(ON, **prompts, negative_prompts=["(blue:1.5)", "dark"])
    _, two = draw(ON, **prompts, negative_prompts=["(blue:1.5)", "low quality"])
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    p, _ = draw(ON, **prompts, negative_prompts=["(blue:1.5)", "green dog"])
    assert "1 of 2 images (1 where prompt and negative gave the same conditioning)" in report(p)


def test_schedules_of_negative_and_prompt_by_the_hosts_parser(draw):
    def drawn(**values):
        return draw([{"scale": 4, **values}], parser=Parser, steps=4)

    p, scheduled = drawn(negative="[blue:dark dog:2]")
    assert "4/4 steps" in report(p)
    assert AS_WORDS not in report(p)
    for window, text in (({"end": 0.5}, "blue"), ({"start": 0.5}, "dark dog")):
        assert torch.equal(
            drawn(negative="[blue:dark dog:2]", **window)[1], drawn(negative=text, **window)[1]
        )
    assert not any(torch.equal(scheduled, drawn(negative=text)[1]) for text in ("blue", "dark dog"))
    p, _ = draw(ON, parser=Parser, steps=4, prompts=["[red:green:2] circle"])
    assert "4/4 steps" in report(p), "the text changes within the pass, and is the prompt all the same"


def test_words_that_take_turns_are_projected_once_each(draw, monkeypatch):
    made = []
    original = KeyValueCache.get

    def watched(self, layer, entries, like, weights, project):
        return original(self, layer, entries, like, weights, lambda text: made.append(layer) or project(text))

    monkeypatch.setattr(KeyValueCache, "get", watched)
    p, found = draw([{"scale": 4, "negative": "[blue|dark]"}], parser=Parser, steps=6)
    assert "6/6 steps" in report(p)
    assert len(made) == 2 * len(set(made)), "two texts, each layer's keys and values once"
    assert not torch.equal(found, draw([{"scale": 4, "negative": "blue"}], parser=Parser, steps=6)[1])


def test_the_hosts_parser_forgets_our_texts_and_is_not_asked_in_vain(draw, monkeypatch):
    class Remembers(Parser):
        asked = []

        def encoded(self, text):
            module = sys.modules[PARSER]
            module.cache[text] = text
            module.shared.sd_model.embedding_db.embeddings_used = [text]
            return super().encoded(text)

    module = sys.modules[PARSER]
    module.cache = {}
    module.shared = types.SimpleNamespace(
        sd_model=types.SimpleNamespace(embedding_db=types.SimpleNamespace(embeddings_used=[]))
    )
    p, _ = draw([{"scale": 4, "negative": "(blue:1.2)"}], parser=Remembers)
    assert "2/2 steps" in report(p)
    assert Remembers.asked == [["a red circle"], ["(blue:1.2)"]]
    assert list(module.cache) == ["a red circle"]
    assert module.shared.sd_model.embedding_db.embeddings_used == ["a red circle"]
    for args in ([{"scale": 0, "negative": "(blue:1.2)"}], [{"scale": 4, "blocks": "double.7"}]):
        Remembers.asked.clear()
        p, _ = draw(args, parser=Remembers, negative_prompts=["(blue:1.2)"])
        assert report(p).startswith("not applied: ")
        assert AS_WORDS not in report(p)
        assert Remembers.asked == [["a red circle"]]


def test_several_negatives_of_which_nothing_is_left_leave_the_main_one_as_the_single_box_does(draw):
    p, found = draw([{"scale": 4, "negatives": "<lora:x:1>"}])
    assert report(p).startswith("8 layers × 2/2 steps")
    assert torch.equal(found, draw([{"scale": 4}])[1])
    assert torch.equal(found, draw([{"scale": 4, "negative": "<lora:x:1>"}])[1])


@pytest.mark.parametrize(
    ("parser", "said"),
    [(ReadsWords, AS_WORDS), (Fails, "prompt parser failed on the negative (no such word)")],
)
def test_a_parser_that_does_not_read_the_negative_is_said(draw, parser, said):
    p, found = draw([{"scale": 4, "negative": "(blue:1.5)"}], parser=parser)
    assert report(p).startswith("8 layers × 2/2 steps")
    assert said in report(p)
    assert not torch.equal(found, draw(parser=parser)[1])


def test_what_is_to_be_said_of_the_values_is_said_once(draw):
    """By the page's own notes and by the pipeline's report, it stood there twice."""
    p, _ = draw([{"negative": "blue", "method": "VSF", "tau": 3}])
    for sentence in ("Auto has no VSF values for this model", "VSF does not read tau"):
        assert report(p).count(sentence) == 1


@pytest.mark.parametrize("parser", [None, Parser], ids=["plain", "parsed"])
def test_several_negatives_and_blocks(draw, parser):
    def drawn(**values):
        return draw([{"scale": 4, **values}], parser=parser)

    _, blue = drawn(negative="blue")
    p, both = drawn(negatives="blue :: 1\ndark dog :: 2", negative="red")
    assert "2 negatives of 154 tokens together; the NAG negative is not used beside several" in report(p)
    assert torch.allclose(drawn(negatives="blue\nblue")[1], blue, atol=1e-4)
    assert not torch.allclose(both, blue, atol=1e-3)
    p, part = drawn(negative="blue", blocks="middle")
    assert report(p).startswith("2 layers × 2/2 steps")
    assert not torch.equal(part, blue)
    p, _ = drawn(negative="blue", blocks="double.3")
    assert report(p).startswith("not applied: no blocks double.3 here; this model has input.")


@pytest.mark.parametrize(
    ("hires", "wanted"),
    [("Both", ("2/2 steps", "2/2 steps")), ("First pass", ("2/2", "hires is set to")),
     ("Hires only", ("hires is set to", "2/2"))],
)  # fmt: skip
def test_the_hires_pass_is_one_of_its_own(draw, hires, wanted):
    p, _ = draw([{"scale": 4, "hires": hires, "hires_scale": 6}], passes=2)
    first, second = report(p).split("; hires pass: ")
    assert wanted[0] in first
    assert wanted[1] in second
    assert ("φ 6" in second) == (hires != "First pass")


class JobImg2Img(Job):
    """It has `enable_hr` there, too."""


@pytest.mark.parametrize("enabled", [False, True])
def test_img2img_reads_hires_only_where_it_has_a_hires_pass(draw, monkeypatch, enabled):
    monkeypatch.setitem(globals(), "Job", JobImg2Img)
    p, _ = draw([{"scale": 4, "hires": "Hires only"}], passes=1 + enabled, enable_hr=enabled)
    assert ("hires is set to" in report(p)) is enabled
    assert "2/2 steps" in report(p)


def test_a_job_that_was_interrupted_is_let_go(draw, script):
    """What waits for its calls held it."""
    draw([{"scale": 4, "negative": "blue"}])
    p = Job()  # another one, as what stands in for a checkout's modules keeps what it was called with
    job = weakref.ref(p)
    script.process(p, {"scale": 4, "negative": "blue"})
    script.process_batch(p, batch_number=0, prompts=p.prompts, seeds=p.seeds, subseeds=[])
    del p
    gc.collect()
    assert job() is None


def test_another_pipeline_object_over_the_same_model_is_followed(draw, sdnext, monkeypatch):
    """SD.Next makes a new one for img2img, inpaint and hires, after the scripts were told of the batch."""
    from diffusers import StableDiffusionXLPipeline

    _, wanted = draw(ON)
    monkeypatch.setattr(
        sdnext, "update_pipeline", lambda pipe, *_: StableDiffusionXLPipeline(**pipe.components)
    )
    p, found = draw(ON)
    assert "2/2 steps" in report(p)
    assert torch.equal(found, wanted)


def test_standing_aside_says_why(draw, sdnext, monkeypatch):
    for args, fields, reason in (
        (ON, {"negative_prompts": [""]}, "the negative prompt is empty"),
        ([{"scale": 0}], {}, "scale φ is 0"),
    ):
        p, found = draw(args, **fields)
        assert report(p) == f"not applied: {reason}"
        assert torch.equal(found, draw(**fields)[1])
    from diffusers.models.attention_processor import SlicedAttnProcessor

    model = Job.sd_model.unet
    before = model.attn_processors
    model.set_attn_processor(SlicedAttnProcessor(1))
    p, found = draw(ON)
    assert (
        report(p)
        == "not applied: the attention processor SlicedAttnProcessor is none that NAG can reach into"
    )
    assert torch.equal(found, draw()[1])
    model.set_attn_processor(before)


def test_its_functions_look_like_themselves_while_nag_stands_in_front_of_them(draw, sdnext):
    """Other extensions ask them for their names and for what they take."""
    names = ("set_pipeline_args", "process_post")
    looks = lambda: [(f.__name__, inspect.signature(f)) for f in map(vars(sdnext).get, names)]  # noqa: E731
    before, functions, seen = looks(), [vars(sdnext)[name] for name in names], []

    def look(*_):
        seen.append((looks(), [vars(sdnext)[name] for name in names]))

    handle = Job.sd_model.unet.register_forward_hook(look)
    draw(ON)
    handle.remove()
    assert seen[0][0] == before
    assert not set(functions) & set(seen[0][1])


@pytest.mark.parametrize("name", ["set_pipeline_args", "process_post"])
def test_a_function_of_its_processing_that_is_gone_is_said_with_the_version(draw, sdnext, name):
    with lacking(next(entry for entry in PIPELINES if entry.name == name)) as places:
        p, found = draw(ON)
    assert places == 1
    assert report(p).startswith("not applied: AttributeError: ")
    assert report(p).endswith(asked.to_report())
    assert torch.equal(found, draw()[1])


def test_an_interrupt_and_a_failed_encoding_leave_nothing_behind(draw, sdnext, script):
    pipe = Job.sd_model
    _, plain = draw()

    def interrupt(*_):
        raise AssertionError("Interrupted...")

    handle = pipe.unet.conv_in.register_forward_hook(interrupt)
    draw(ON)  # SD.Next tells no script how this ended
    handle.remove()
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.unet.modules())
    assert hooks == 0
    assert "encode_prompt" not in vars(pipe)
    other = Job()
    assert torch.equal(sdnext.process_base(other).images, plain), "another job is not guided"
    p, _ = draw(ON)
    assert "2/2 steps" in report(p)
    assert untouched(sdnext, pipe)


@pytest.mark.parametrize("kept", [False, True])
def test_an_interrupted_picture_says_how_far_it_came(draw, host, caplog, kept):
    """SD.Next's callback sets the mark at a step's end and raises; the picture so far can be kept."""
    unet, calls = Job.sd_model.unet, []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 3:
            host.shared.state.interrupted = True
            raise AssertionError("Interrupted...")

    handle = unet.register_forward_hook(interrupt)
    with caplog.at_level("INFO", "nag"):
        p, _ = draw(ON, steps=5, keep_incomplete=kept)
    handle.remove()
    said = report(p) if kept else caplog.messages[-1].removeprefix("NAG: ")
    assert said.startswith("8 layers × 3/3 steps")
    assert said.endswith(", ended early, after 3 of 5 steps")


def test_a_negative_that_cannot_be_encoded_costs_the_guidance_not_the_picture(draw, sdnext, monkeypatch):
    _, plain = draw()
    original = type(Job.sd_model).encode_prompt

    def encode_prompt(self, prompt, *args, **kwargs):
        if "blue" in str(prompt):
            raise RuntimeError("no such word")
        return original(self, prompt, *args, **kwargs)

    monkeypatch.setattr(type(Job.sd_model), "encode_prompt", encode_prompt)
    p, found = draw(ON)
    assert torch.equal(found, plain)
    assert report(p) == "not applied: the negative could not be encoded (RuntimeError: no such word)"


def test_sdnexts_own_script_runner_hands_the_hooks_what_they_take(request, host, script, monkeypatch):
    """Its source as it is; arguments from the API arrive as short as they were sent."""
    world = MagicMock()
    world.script_path = world.paths.script_path = "/sd"
    module = from_source(checkouts(request, "scripts_manager.py"), world, "modules.scripts_manager")
    runner = module.ScriptRunner("txt2img")
    runner.alwayson_scripts = [script]
    monkeypatch.setattr(script, "args_from", 1)
    monkeypatch.setattr(script, "args_to", 13)
    seen = []
    for hook in ("process", "process_batch", "postprocess_batch", "postprocess"):
        monkeypatch.setattr(
            script, hook, lambda p, *args, hook=hook, **more: seen.append((hook, args, set(more)))
        )
    p = Job(per_script_args={"NAG": ON}, script_args=[None] * 20)
    runner.process(p)
    runner.process_batch(p, batch_number=0, prompts=[], seeds=[], subseeds=[])
    runner.postprocess_batch(p, ["images"], batch_number=0)
    runner.postprocess(p, "processed")
    words = {"batch_number", "prompts", "seeds", "subseeds"}
    assert [(hook, args[-1:], more) for hook, args, more in seen[:2]] == [
        ("process", tuple(ON), set()), ("process_batch", tuple(ON), words)
    ]  # fmt: skip
    assert [hook for hook, *_ in seen[2:]] == ["postprocess_batch", "postprocess"]
    assert world.errors.display.call_count == 0


def test_sdnexts_processing_calls_what_we_stand_in_front_of(request):
    tree = ast.parse(checkouts(request, "processing_diffusers.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for name in ("process_base", "process_hires"):
        called = [node.func.id for node in ast.walk(functions[name])
                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
        assert "set_pipeline_args" in called
        tidied = [ast.unparse(part) for node in ast.walk(functions[name]) if isinstance(node, ast.Try)
                  for part in node.finalbody]  # fmt: skip
        assert "process_post(p)" in tidied
    args = ast.parse(checkouts(request, "processing_args.py").read_text(encoding="utf-8"))
    (prepare,) = [node for node in ast.walk(args) if getattr(node, "name", "") == "set_pipeline_args"]
    assert {"p", "model", "negative_prompts"} <= {arg.arg for arg in prepare.args.args}
