"""Our hooks on a WebUI's own modules: `pytest tests/contract --webui-dir CHECKOUT` in its own environment.

A host update that breaks the extension fails here, without a server and a checkpoint.
"""

from importlib import import_module

import pytest
import torch

from nag_core.hosts import which
from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT
from tests.contract.checkout import Engine, Run, embedding, unet
from tests.contract.test_xyz import AXES
from tests.infotext_line import TEXTS, assert_survives
from tests.reference import attention, nag

PHI, TAU, ALPHA = 4.0, 1.2, 0.5
CALLS = ("backend.sampling.sampling_function", "ldm_patched.modules.samplers")
ON = [{"scale": PHI, "tau": TAU, "alpha": ALPHA}]


@pytest.fixture(scope="module")
def engine(checkout):
    return Engine(unet())


@pytest.fixture
def run(checkout, runner, engine):
    return lambda nag=(), **more: Run(checkout, runner, engine, nag, **more)


@pytest.fixture
def seen(engine):
    """What the attentions over text are given and hand on: {layer: [{"q", "context", "z"}]}, a dict each."""
    layers = cross_attention_layers(engine.original.model.diffusion_model)
    calls = {layer: [] for layer in layers}
    handles = []

    def watch(layer, module):
        def at_q(_, __, out):
            calls[layer].append({"q": out})

        def at_k(_, args):
            calls[layer][-1].setdefault("context", args[0])

        def at_out(_, args):
            calls[layer][-1]["z"] = args[0].clone()

        handles.append(module.to_q.register_forward_hook(at_q))
        handles.append(module.to_k.register_forward_pre_hook(at_k))
        handles.append(module.to_out.register_forward_pre_hook(at_out))

    for layer, module in layers.items():
        watch(layer, module)
    yield calls
    for handle in handles:
        handle.remove()


def expected(module, call, conds):
    """What the attention of one call should have handed on, in float64, by the paper's equations."""
    heads = module.heads
    q, context = call["q"].double(), call["context"]
    k, v = module.to_k(context).double(), module.to_v(context).double()
    wanted = attention(q, k, v, heads)
    neg = embedding("b")[None]
    k, v = (linear(neg).double().expand(len(conds), -1, -1) for linear in (module.to_k, module.to_v))
    wanted[conds], _ = nag(wanted[conds], attention(q[conds], k, v, heads), PHI, TAU, ALPHA)
    return wanted


# prompts of the batch, CFG, how many rows without and with guidance a call has at most
BATCHES = [(("a",), 1, 0, 1), (("a",), 7, 1, 1), (("a", "c"), 7, 2, 2), (("a AND c :0.5",), 7, 1, 2)]


@pytest.mark.parametrize(("prompts", "cfg", "unguided", "guided"), BATCHES, ids=str)
def test_every_attention_over_text_hands_on_what_the_paper_says(
    run, engine, seen, prompts, cfg, unguided, guided
):
    result = run(ON, prompts=prompts, cfg=cfg)
    assert f"{len(seen)} layers × 4/4 steps" in result.report
    layers = cross_attention_layers(engine.original.model.diffusion_model)
    with torch.inference_mode():
        for layer, module in layers.items():
            # Classic draws its first step at CFG 1; in the last one both kinds of rows are there.
            for call in (calls := seen[layer])[:1]:
                rows = len(call["q"])
                conds = list(range(rows))[-guided:]
                assert torch.allclose(call["z"].double(), expected(module, call, conds), atol=1e-5), layer
            assert max(len(call["q"]) for call in calls) == unguided + guided


def test_off_and_scale_0_are_the_hosts_own_picture(run):
    off = run(cfg=7).latent
    assert torch.equal(run([{"scale": 0}], cfg=7).latent, off)
    assert not torch.allclose(run(ON, cfg=7).latent, off, atol=1e-3)
    assert torch.equal(run(cfg=7).latent, off), "and nothing of it is left"


def test_the_same_job_twice_is_the_same_picture(run):
    assert torch.equal(run(ON, cfg=7).latent, run(ON, cfg=7).latent)


def test_a_picture_does_not_depend_on_what_else_is_in_the_batch(run):
    batch = run(ON, prompts=("a", "c")).latent
    alone = run(ON, prompts=("a",)).latent
    assert torch.allclose(batch[:1], alone, atol=1e-5)


def test_another_negative_is_another_picture_also_at_cfg_1(run):
    assert not torch.allclose(run(ON, negative="b").latent, run(ON, negative="c").latent, atol=1e-3)
    assert torch.equal(run(negative="b").latent, run(negative="c").latent)


def test_a_negative_that_changes_at_half_time(run):
    """The host's own schedules, resolved by us: its own way to batch them raises on unequal lengths."""
    first, second, both = (run(ON, negative=text).latent for text in ("b", "c", "[b:c:0.5]"))
    assert not any(torch.allclose(both, other, atol=1e-3) for other in (first, second))
    stopped = [{**ON[0], "end": 0.5}]
    early = [run(stopped, negative=text).latent for text in ("b", "[b:c:0.5]")]
    assert torch.equal(*early)


def test_the_window_counts_the_calls_of_the_hosts_denoiser(run):
    assert "× 1/4 steps" in run([{**ON[0], "end": 0.25}]).report
    assert "× 2/4 steps" in run([{**ON[0], "start": 0.5}]).report


def test_another_attention_replacer_cancels_out_of_the_difference(checkout, runner, engine):
    """As IP-Adapter: its term is in z+ and in z-; while prompt and negative are alike, there is nothing left.

    They differ in the last step, where NAG is off: texts that are alike throughout are not guided at all.
    """

    def install(unet):
        def replace(q, k, v, extra):
            return attention(q, k, v, extra["n_heads"]) + 0.1

        for key in cross_attention_layers(unet.model.diffusion_model):
            unet.set_model_attn2_replace(replace, *key)

    patched = Engine(engine.original.model.diffusion_model)
    install(patched.original)
    texts = {"prompts": ("b",), "negative": "[b:c:0.75]"}
    early = [{**ON[0], "end": 0.5}]
    same, plain = (Run(checkout, runner, patched, nag, **texts) for nag in (early, ()))
    assert "× 2/4 steps" in same.report
    assert torch.allclose(same.latent, plain.latent, atol=1e-5)


def test_the_uncond_computed_in_the_prompts_place_is_not_guided(checkout, runner, engine):
    """As self-attention guidance does behind each step, by the host's own function."""
    calc, found = import_module(CALLS[which.detect().name == "ldm_patched"]).calc_cond_uncond_batch, []

    def again(args):
        for given in (args["cond"], args["uncond"]):
            call = (args["model"], given, None, args["input"], args["sigma"])
            found.append(torch.equal(calc(*call, args["model_options"])[0], calc(*call, {})[0]))
        return args["denoised"]

    patched = Engine(engine.original.model.diffusion_model)
    patched.original.set_model_sampler_post_cfg_function(again)
    assert "4/4 steps" in Run(checkout, runner, patched, ON, cfg=7).report
    assert found == [False, True] * 4


def test_the_unet_the_host_keeps_carries_nothing_of_ours(run, engine):
    run(ON)
    assert not engine.original.model_options.get("conditioning_modifiers")
    network = engine.original.model.diffusion_model
    assert not [name for name, module in network.named_modules() if "forward" in module.__dict__]


# The host around the job


def test_the_script_has_its_controls_in_the_order_of_the_api(runner):
    (script,) = [s for s in runner.alwayson_scripts if s.title() == "NAG"]
    labels = [control.label for control in runner.inputs[script.args_from : script.args_to]]
    wanted = [field.label for field in FIELDS]
    wanted.insert(OVERRIDES_SLOT, "Overrides")
    assert labels == wanted
    assert [arg.label for arg in script.api_info.args] == labels


@pytest.mark.parametrize("text", TEXTS)
def test_every_negative_comes_back_from_the_hosts_parameter_line(checkout, runner, text):
    assert_survives(checkout.infotext_utils, text)


def test_the_plot_has_our_axes_once_and_they_reach_the_arguments(checkout, runner, run):
    modules = [d.module for d in checkout.scripts.scripts_data if "xyz_grid" in d.script_class.__module__]
    assert modules, "the X/Y/Z plot has moved: no script's module is named xyz_grid"
    options = [option for option in modules[0].axis_options if option.label.startswith("[NAG] ")]
    assert len(options) == len({option.label for option in options}) == len(AXES)
    (scale,) = [option for option in options if option.label == "[NAG] Scale"]
    p = run(ON).p
    scale.apply(p, 7.0, [7.0])
    p.extra_generation_params = {}
    runner.process(p)
    assert p.extra_generation_params["NAG scale"] == 7
