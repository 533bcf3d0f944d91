"""What of a WebUI the extension builds on, one sentence each: `--webui-dir CHECKOUT`, as test_checkout.py.

A host that moved one of these fails here with what moved; what the extension then does by itself is to run
without NAG and say so.
"""

import importlib
import inspect

import pytest
import torch

from nag_core.hosts import which
from nag_core.hosts.ldm_unet import cross_attention_layers
from tests.contract.checkout import Engine, Run, unet

PROBES = {}


def probe(sentence):
    """Registers a check; it fails by returning what it found instead."""

    def register(check):
        PROBES[sentence] = check
        return check

    return register


@pytest.fixture(scope="module")
def watched(checkout, runner):
    """A job whose every hook of the host was watched: {name: what it was called with, call by call}."""
    engine, calls = Engine(unet()), {"modifier": [], "wrapper": [], "attn2": [], "cfg_denoiser": []}

    def modifier(*args):
        calls["modifier"].append(args)
        return args

    def wrapper(apply, arguments):
        calls["wrapper"].append(arguments)
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    def attn2(q, k, v, extra):
        calls["attn2"].append((q, k, v, dict(extra)))
        return which.detect().attention(q, k, v, extra)

    engine.original.add_conditioning_modifier(modifier)
    engine.original.set_model_unet_function_wrapper(wrapper)
    for key in cross_attention_layers(engine.original.model.diffusion_model):
        engine.original.set_model_attn2_replace(attn2, *key)
    checkout.script_callbacks.on_cfg_denoiser(calls["cfg_denoiser"].append)
    try:
        calls["run"] = Run(checkout, runner, engine, prompts=("a", "c"), cfg=7)
    finally:
        checkout.script_callbacks.remove_callbacks_for_function(calls["cfg_denoiser"].append)
    return calls


@pytest.mark.parametrize("sentence", PROBES)
def test_this_webui_still(sentence, checkout, runner, watched):
    found = PROBES[sentence](checkout, watched)
    assert found is None, f"this WebUI no longer {sentence}: {found}"


def missing(module, *names):
    absent = [name for name in names if not hasattr(module, name)]
    return f"{getattr(module, '__name__', module)} lacks {', '.join(absent)}" if absent else None


def parameters(function):
    return list(inspect.signature(function).parameters)


@probe("is told apart by what can be imported")
def _(modules, watched):
    host = which.detect()
    ldm = host.name == "ldm_patched"
    module = "ldm_patched.ldm.modules.attention" if ldm else "backend.attention"
    return None if importlib.util.find_spec(module) else f"{module} is gone"


@probe("attends to heads that are not split, by a function found at call time")
def _(modules, watched):
    q, k, v, extra = watched["attn2"][0]
    found = which.detect().attention(q, k, v, extra)
    heads = [x.double().unflatten(-1, (extra["n_heads"], -1)).transpose(1, 2) for x in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return None if torch.allclose(found.double(), wanted, atol=1e-4) else "its attention gives other numbers"


@probe("has the blocks of an LDM UNet with attn2.to_q, to_k, to_v, to_out and heads")
def _(modules, watched):
    layers = cross_attention_layers(watched["run"].engine.original.model.diffusion_model)
    names = ("to_q", "to_k", "to_v", "to_out", "heads")
    return missing(next(iter(layers.values())), *names) if len(layers) == 7 else f"found {len(layers)} layers"


@probe("calls conditioning modifiers once a denoiser call with eight arguments")
def _(modules, watched):
    calls = watched["modifier"]
    if [len(args) for args in calls] != [8] * 4:
        return f"called {len(calls)} times in 4 steps with {[len(args) for args in calls]} arguments"
    model, x, sigma, uncond, cond, scale, options, _ = calls[0]
    kinds = (hasattr(model, "diffusion_model"), x.shape[0] == 2, len(sigma) == 2, isinstance(options, dict))
    conds = isinstance(cond, list) and isinstance(uncond, list) and "cross_attn" in cond[0]
    return None if all(kinds) and conds and scale in (1, 7) else "their order or kind has changed"


@probe("takes its conditions from model_conds['c_crossattn']")
def _(modules, watched):
    cond = watched["modifier"][0][4][0]
    return None if hasattr(cond["model_conds"]["c_crossattn"], "cond") else f"a cond has {list(cond)}"


@probe("keeps conditioning modifiers in model_options['conditioning_modifiers']")
def _(modules, watched):
    unet = watched["run"].engine.original
    return (
        None
        if len(unet.model_options.get("conditioning_modifiers", ())) == 1
        else f"{list(unet.model_options)}"
    )


@probe("copies closures on the patcher by reference when it clones")
def _(modules, watched):
    unet = watched["run"].engine.original
    pairs = zip(
        *(patcher.model_options["conditioning_modifiers"] for patcher in (unet, unet.clone())), strict=True
    )
    return None if all(one is other for one, other in pairs) else "a clone has another function"


@probe("hands projected q, k, v with n_heads and cond_or_uncond to an attn2 replace")
def _(modules, watched):
    q, k, _, extra = watched["attn2"][-1]
    if not {"n_heads", "cond_or_uncond"} <= set(extra):
        return f"there are only {sorted(extra)}"
    marks = extra["cond_or_uncond"]
    return None if q.dim() == k.dim() == 3 and len(marks) * 2 == len(q) else f"{q.shape}, {k.shape}, {marks}"


@probe("marks rows by 0 for cond and 1 for uncond, chunk by chunk")
def _(modules, watched):
    marks = watched["attn2"][-1][3]["cond_or_uncond"]
    return None if sorted(marks) == [0, 1] else f"a call at CFG 7 is marked {marks}"


@probe("calls the model function wrapper with input, timestep and c")
def _(modules, watched):
    calls = watched["wrapper"]
    c = calls[0].get("c", {}) if calls else {}
    expected = {"c_crossattn", "transformer_options"} <= set(c)
    return None if expected and {"input", "timestep"} <= set(calls[0]) else f"got {list(c)}"


@probe("counts the calls of a pass in denoiser.step, of total_steps")
def _(modules, watched):
    denoiser = watched["run"].p.sampler.model_wrap_cfg
    counted = (getattr(denoiser, "step", None), getattr(denoiser, "total_steps", None))
    return None if counted == (4, 4) else f"after 4 calls of 4 they are {counted}"


@probe("announces every denoiser call with denoiser and x")
def _(modules, watched):
    calls = watched["cfg_denoiser"]
    if len(calls) != 4:
        return f"{len(calls)} announcements in 4 steps"
    return missing(calls[0], "denoiser", "x") or missing(calls[0].denoiser, "p", "inner_model")


@probe("lists who listens to denoiser calls, by script")
def _(modules, watched):
    listeners = modules.script_callbacks.callback_map.get("callbacks_cfg_denoiser")
    if not listeners:
        return "callback_map has no callbacks_cfg_denoiser, or ours is not among them"
    names = [str(listener.script) for listener in listeners]
    return None if any(name.endswith("nag_guidance.py") for name in names) else f"they are named {names}"


@probe("has the callbacks that extensions register with")
def _(modules, watched):
    names = ("cfg_denoiser", "before_ui", "infotext_pasted", "ui_settings", "app_started")
    return missing(modules.script_callbacks, *(f"on_{name}" for name in names))


@probe("asks scripts before every sampling with x, noise, c and uc")
def _(modules, watched):
    runner = watched["run"].p.scripts
    return missing(
        runner, "process", "process_before_every_sampling", "postprocess_batch", "alwayson_scripts"
    )


@probe("encodes texts through prompt_parser with SdConditioning and schedules")
def _(modules, watched):
    parser = modules.prompt_parser
    names = ("SdConditioning", "get_learned_conditioning", "get_learned_conditioning_prompt_schedules")
    if missing(parser, *names):
        return missing(parser, *names)
    wanted = {"is_negative_prompt", "width", "height"}
    lacking = wanted - set(parameters(parser.SdConditioning.__init__))
    schedule = parser.get_learned_conditioning_prompt_schedules(["[b:c:0.5]"], 4)
    if lacking or schedule != [[[2, "b"], [4, "c"]]]:
        return f"SdConditioning without {lacking or 'nothing'}, [b:c:0.5] over 4 steps is {schedule}"
    return None


@probe("describes a scheduled condition by end_at_step and cond, a prompt's by batch and schedules")
def _(modules, watched):
    parser, engine = modules.prompt_parser, watched["run"].engine
    part = parser.get_learned_conditioning(engine, parser.SdConditioning(["b"]), 4)[0][0]
    prompt = parser.get_multicond_learned_conditioning(engine, parser.SdConditioning(["a AND b"]), 4)
    lacking = missing(part, "end_at_step", "cond") or missing(prompt, "batch")
    return lacking or missing(prompt.batch[0][1], "schedules")


@probe("caches conditions in get_conds_with_caching(function, prompts, steps, caches, networks, hires_steps)")
def _(modules, watched):
    function = modules.processing.StableDiffusionProcessing.get_conds_with_caching
    found = parameters(function)
    wanted = ["self", "function", "required_prompts", "steps", "caches", "extra_network_data", "hires_steps"]
    return None if found == wanted else f"it takes {found}"


@probe("has the fields of a job that NAG reads")
def _(modules, watched):
    names = "negative_prompts extra_generation_params comment styles is_hr_pass script_args get_conds steps"
    return missing(watched["run"].p, *names.split())


@probe("prepares a model for sampling by sampling_prepare(unet, x)")
def _(modules, watched):
    name = (
        "backend.sampling.sampling_function"
        if which.detect().name != "ldm_patched"
        else "modules_forge.forge_sampler"
    )
    found = parameters(importlib.import_module(name).sampling_prepare)
    return None if found == ["unet", "x"] else f"it takes {found}"


@probe("takes LoRA tags out of texts and applies styles to negatives")
def _(modules, watched):
    texts, networks = modules.extra_networks.parse_prompts(["b <lora:x:1>"])
    if texts != ["b "] or not networks:
        return f"parse_prompts gave {texts}, {networks}"
    return missing(modules.shared.prompt_styles, "apply_negative_styles_to_prompt")


@probe("builds settings from OptionInfo with section, info and needs_reload_ui")
def _(modules, watched):
    info = modules.shared.OptionInfo(False, "label", section=("nag", "NAG"))
    return missing(info, "info", "needs_reload_ui")


@probe("has InputAccordion, and PasteField's grammar in infotext_utils")
def _(modules, watched):
    from modules import ui_components

    return missing(ui_components, "InputAccordion") or missing(
        modules.infotext_utils, "quote", "parse_generation_parameters"
    )
