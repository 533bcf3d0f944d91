"""Every line of the table of messages is produced here, in the situation that the table names."""

import re
from contextlib import contextmanager

import pytest
import torch
from fastapi.testclient import TestClient

import nag_core
from nag_core.hosts.diffusers.sdnext import SDNext
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings.parse import parse
from nag_core.webui.job import Job
from nag_core.webui.passes import Passes
from tests import diffusers_pipelines as pipelines
from tests.diffusers_pipelines import draw
from tests.extras import needs_pipelines
from tests.readme import WEBUI

ON = {"enabled": True, "scale": 4}
FLUX = {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}
TABLE = WEBUI.partition("## When something seems wrong\n")[2].partition("\n## ")[0]
SEEN = [row.split(" | ")[0].removeprefix("| ") for row in TABLE.splitlines() if row.startswith("| ")][1:]
# What a user sees without a message of ours, or where there is nothing to run here.
WITHOUT_A_MESSAGE = {
    "Washed-out or broken pictures", "NAG missing from ADetailer's inner pass",
    "Images of a distributed worker come without NAG",
}  # fmt: skip


def pattern(seen):
    """What is quoted in the row: `…` stands for any text, a number for any number."""
    quoted = re.search(r'`([^`]+)`|"([^"]+)"', seen)
    text = re.sub(r"\d+", "0", (quoted[1] or quoted[2]).lstrip("… "))
    return re.escape(text).replace("…", ".*").replace("0", r"\d+").replace("'x'", "'.*'")


@pytest.fixture
def report(job):
    """`report(nag, **fields)`: the report in the parameters of a job."""
    return lambda nag=ON, **fields: job([nag], **fields)[0].extra_generation_params["NAG report"]


def empty(report, **_):
    return report(negative_prompt="")


def no_attention(report, monkeypatch, **_):
    from nag_core.hosts import model

    monkeypatch.setattr(model, "cross_attention_layers", lambda network: {})
    return report()


def compiled(report, host, monkeypatch, **_):
    report()
    model = host.shared.sd_model.forge_objects.unet.model
    network = torch.compile(model.diffusion_model, backend="eager")
    monkeypatch.setitem(model._modules, "diffusion_model", network)
    return report()


def too_old(report, host, monkeypatch, **_):
    monkeypatch.delattr(torch.compiler, "set_stance")
    return compiled(report, host, monkeypatch)


def clipped(report, **_):
    return report({"scale": 20, "tau": 1, "alpha": 0.5})


def off_by_mistake(report, **_):
    return report("checked")


def scale_0(report, **_):
    return report({**ON, "scale": 0})


def hires_only(report, **_):
    return report({**ON, "hires": "Hires only"})


def no_mask(report, **_):
    return report({**ON, "mask": "Inside"})


def no_use_for_a_mask(report, **_):
    return report({**ON, "mask_image": "data:,"})


def lora(report, **_):
    return report({**ON, "negative": "red<lora:none:1>"})


def beside_several(report, **_):
    return report({**ON, "negative": "red", "negatives": "blue"})


def points(report, **_):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1}
    return report({**ON, "hires_scale": 9, "curve": "0:8, 1:1"}, **hires)


def cfg_0(report, **_):
    return report(cfg_scale=0)


@contextmanager
def wrapper_without_options(host, monkeypatch):
    patcher = type(host.shared.sd_model.forge_objects.unet)
    original = patcher.clone

    def wrapper(apply_model, args):
        c = {name: value for name, value in args["c"].items() if name != "transformer_options"}
        return apply_model(args["input"], args["timestep"], **c)

    def clone(self):
        made = original(self)
        made.set_model_unet_function_wrapper(wrapper)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(patcher, "clone", clone)
        yield


def taken_over(report, host, monkeypatch, **_):
    report()
    with wrapper_without_options(host, monkeypatch):
        return report()


def options_dropped(report, host, monkeypatch, **_):
    report(**FLUX)
    with wrapper_without_options(host, monkeypatch):
        return report(**FLUX)


def forward_replaced(monkeypatch, **_):
    from tests.unit import test_a1111 as a1111

    denoiser, network, used, *_ = a1111.prepared([a1111.entry(5, 5)], (1,))
    for attention in network.attentions():
        attention.forward = lambda x, context: x
    texts = (a1111.normal(1, 7, a1111.CONTEXT, seed=seed) for seed in (2, 3))
    denoiser(a1111.normal(1, 6, a1111.WIDTH, seed=1), *texts)
    return used.report().sentence()


def doubled(report, host, monkeypatch, **_):
    def nag_output_patch(out, options):
        return out

    patcher = type(host.shared.sd_model.forge_objects.unet)
    original = patcher.clone

    def clone(self):
        made = original(self)
        options = made.model_options.setdefault("transformer_options", {})
        options["patches"] = {"attn1_output_patch": [nag_output_patch]}
        return made

    monkeypatch.setattr(patcher, "clone", clone)
    found = report()
    assert "4/4 steps" in found
    return found


def guarded(host, prepared, **_):
    class NAGSampleGuard:
        def __init__(self, sample):
            self.sample = sample

        def __call__(self, *args, **kwargs):
            assert not p.sd_model.forge_objects.unet.model_options.get("conditioning_modifiers")
            return self.sample(*args, **kwargs)

    with prepared([ON]) as p:
        p.sample = NAGSampleGuard(p.sample)
        assert len(host.processing.process_images(p).images) == 1
        return p.extra_generation_params["NAG report"]


def some_layers(report, monkeypatch, **_):
    from nag_core.method import cross

    original, calls = cross.guide, []

    def short_of_memory(*args, **kwargs):
        calls.append(1)
        if len(calls) % 5 == 0:
            raise torch.cuda.OutOfMemoryError
        return original(*args, **kwargs)

    monkeypatch.setattr(cross, "guide", short_of_memory)
    return report()


def off_from_a_call_on(report, monkeypatch, **_):
    from nag_core.hosts.patcher import joint

    original, calls = joint._prepared, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("no such layout")
        return original(*args, **kwargs)

    monkeypatch.setattr(joint, "_prepared", fails)
    found = report(**FLUX)
    assert "2/4 steps" in found
    return found


def alike(report, **_):
    return report({**ON, "negative": "a  circle"})


def host_changed(report, host, monkeypatch, **_):
    kind = host.processing.StableDiffusionProcessing
    setup = kind.setup_conds

    def once_the_host_has_encoded(p):
        setup(p)
        monkeypatch.setattr(host.prompt_parser, "SdConditioning", lambda *, prompts: prompts)

    monkeypatch.setattr(kind, "setup_conds", once_the_host_has_encoded)
    return report({**ON, "negative": "blue"})


def files_of_their_own(report, host, monkeypatch, job, prepared, **_):
    runner = host.scripts.scripts_txt2img
    kind = type("Script", (host.scripts.Script,), {"__module__": "sd_upscale.py"})
    monkeypatch.setattr(runner, "selectable_scripts", [*runner.selectable_scripts, kind()])
    with prepared([{**ON, "heat_map": True}]) as p:
        p.script_args = (len(runner.selectable_scripts), *p.script_args[1:])
        host.processing.process_images(p)
        assert any("heat maps are saved in" in comment for comment in p.comments)
        return p.extra_generation_params["NAG report"]


def of_another(host, job, monkeypatch, **_):
    class Adding(host.scripts.Script):
        args_from = args_to = 0

        def postprocess_batch_list(self, p, pp, *args, **kwargs):
            for every in (pp.images, p.prompts, p.negative_prompts, p.seeds, p.subseeds):
                every.append(every[0])

    runner = host.scripts.scripts_txt2img
    monkeypatch.setattr(runner, "alwayson_scripts", [*runner.alwayson_scripts, Adding()])
    own, added = job([ON])[1].infotexts
    assert "unknown" not in own
    return added


def not_found(app, **_):
    job = {"prompt": "a circle", "alwayson_scripts": {"NAG": {"args": []}, "NAGG": {"args": []}}}
    answer = TestClient(app).post("/sdapi/v1/txt2img", json=job)
    assert answer.status_code == 422
    return answer.json()["detail"].replace("NAGG", "NAG")


def library(**settings):
    pipe = pipelines.pipeline("sd15")
    call = settings.pop("call", {})
    with nag_core.applied(pipe, "blue", scale=4, **settings) as nag:
        draw("sd15", pipe, steps=3, **call)
    return nag.report


def processor(**_):
    pipe = pipelines.pipeline("sd15")
    pipe.unet.set_attention_slice(1)
    with pytest.raises(UnsupportedHost) as said, nag_core.applied(pipe, "blue"):
        pass
    return str(said.value)


def ended_early(**_):
    def interrupt(pipe, _step, _time, kwargs):
        pipe._interrupt = True
        return kwargs

    return library(call={"callback_on_step_end": interrupt})


def prompt_changed(**_):
    def change(_pipe, _step, _time, kwargs):
        return {"prompt_embeds": kwargs["prompt_embeds"] + 1}

    names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    return library(call={"callback_on_step_end": change, **names})


def unknown_arrangement(**_):
    pipe = pipelines.pipeline("flux")
    pipe.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: ((), {**kwargs, "img_ids": kwargs["img_ids"] + 1}), with_kwargs=True
    )
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw("flux", pipe)
    return nag.report


def drawn_by_others(**_):
    return Job(Passes(parse([ON]).settings, [], SDNext())).end_batch(None)


MADE_BY = {
    "`not applied: the negative prompt is empty`": empty,
    "`not applied: … has no attention over text that NAG knows`": no_attention,
    "`the compiled model runs uncompiled while NAG is applied`": compiled,
    "`not applied: the model is compiled, and this PyTorch cannot run it uncompiled for a while`": too_old,
    'More scale changes nothing, "100 % of tokens clipped"': clipped,
    "`off; enabled 'x' not understood, False used`": off_by_mistake,
    "`not applied: scale φ is 0`": scale_0,
    "`not applied: hires is set to …`": hires_only,
    "`not applied: there is no mask`": no_mask,
    "`mask image ignored: …`": no_use_for_a_mask,
    "`LoRA tags in the NAG negative are ignored`": lora,
    "`the NAG negative is not used beside several negatives`": beside_several,
    "`hires scale has no effect: the curve's points are used`": points,
    "`not applied: CFG is 0`": cfg_0,
    "`not applied: another extension took the attention or the model call over`": taken_over,
    "`another extension's wrapper around the model call drops its transformer_options`": options_dropped,
    "`… replaced the forward of some attention layers; those are unguided`": forward_replaced,
    "`… guides with a NAG of its own as well: the guidance is doubled`": doubled,
    "`… guides this job with a NAG of its own, which takes nothing beside it`": guarded,
    "`… in some layers, which ran unguided`": some_layers,
    "`off from call 3 on: …`": off_from_a_call_on,
    "`prompt and negative gave the same conditioning`": alike,
    "`… please report this line to the author of this extension (WebUI …, NAG …)`": host_changed,
    "`the heat maps are files of their own`": files_of_their_own,
    "`unknown: another WebUI drew this picture, or a script added it`": of_another,
    "422 `Script 'NAG' not found`": not_found,
}
MADE_BY_PIPELINES = {
    "`not applied: SD.Next sampled nothing of this job itself`": drawn_by_others,
    "`… the attention processor … is none that NAG can reach into`": processor,
    "`ended early, after 3 of 99 steps`": ended_early,
    "`only 1 of the call's 3 steps were over this prompt`": prompt_changed,
    "`… the image tokens are arranged in a way that NAG does not know`": unknown_arrangement,
}


def test_every_line_of_the_table_has_its_situation_here():
    assert {*MADE_BY, *MADE_BY_PIPELINES, *WITHOUT_A_MESSAGE} == {*SEEN}


@pytest.mark.parametrize("seen", MADE_BY)
def test_the_line_is_what_a_user_sees_there(app, host, job, prepared, report, monkeypatch, seen):
    given = {"host": host, "job": job, "prepared": prepared, "report": report, "app": app}
    assert re.search(pattern(seen), MADE_BY[seen](monkeypatch=monkeypatch, **given))


@needs_pipelines
@pytest.mark.parametrize("seen", MADE_BY_PIPELINES)
def test_and_in_the_library(seen):
    assert re.search(pattern(seen), MADE_BY_PIPELINES[seen]())
