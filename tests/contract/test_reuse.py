"""K+ and V+ are made once for each text of a pass, and never reused for another one."""

from contextlib import contextmanager

import pytest
import torch

from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.hosts.patcher import reuse

ON = [{"enabled": True, "scale": 4, "negative": "blue"}]
LAYERS = 7


@pytest.fixture
def network(host, job):
    job()
    return host.shared.sd_model.forge_objects.unet.model.diffusion_model


@pytest.fixture
def computed(network):
    """Rows of every computation of a `to_k`, whoever asked for it."""
    rows = []

    class Counting(torch.nn.Linear):
        def forward(self, x):
            rows.append(x.shape[0])
            return super().forward(x)

    modules = [layer.to_k for layer in cross_attention_layers(network).values()]
    for module in modules:
        module.__class__ = Counting
    yield rows
    for module in modules:
        module.__class__ = torch.nn.Linear


@pytest.fixture
def without_reuse(monkeypatch):
    """Inside it nothing is reused: what the pictures must be."""

    @contextmanager
    def switched():
        with monkeypatch.context() as patched:
            patched.setattr("nag_core.hosts.patcher.unet.may_change", lambda options: True)
            yield

    return switched


def pixels(processed):
    return [image.tobytes() for image in processed.images]


def test_the_prompts_keys_are_computed_once_per_layer_and_pass(job, computed):
    job(ON, batch_size=2)
    assert computed.count(2) == LAYERS, "the prompt's: every layer once, not once per step"
    assert computed.count(1) == LAYERS, "the negative's, shared by both images"


def test_with_nag_off_the_host_computes_them_in_every_step(job, computed):
    job(batch_size=2)
    assert computed.count(2) == LAYERS * 4


JOBS = {
    "cfg 1": {},
    "cfg 7, a batch": {"cfg_scale": 7, "batch_size": 2},
    "a prompt that changes": {"prompt": "[a circle:a square:0.5]"},
    "a prompt that alternates": {"prompt": "[a circle|a square]", "steps": 6},
    "a prompt of three texts": {"prompt": "[a circle|a square|a cross]", "steps": 6},
    "a negative that changes": {"cfg_scale": 7, "negative_prompt": "[red:blue:0.5]"},
    "and": {"cfg_scale": 7, "prompt": "a circle AND a square :0.6", "batch_size": 2},
    "another length": {"cfg_scale": 7, "prompt": "a circle " * 60},
    "hires": {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6, "hr_cfg": 1},
}


@pytest.mark.parametrize("fields", JOBS.values(), ids=JOBS)
def test_reuse_changes_no_bit(job, without_reuse, computed, fields):
    _, found = job(ON, **fields)
    reused = len(computed)
    with without_reuse():
        _, wanted = job(ON, **fields)
    assert pixels(found) == pixels(wanted)
    if "three" not in fields.get("prompt", "") and "cross" not in fields.get("prompt", ""):
        assert reused < len(computed) - reused


@pytest.fixture
def noisy_texts(host):
    """As the CADS extension: new conditions in every step, from a cfg_denoiser callback."""

    def change(params):
        params.text_cond = params.text_cond * (1 + 0.2 * params.sampling_step)

    host.script_callbacks.on_cfg_denoiser(change)
    yield
    host.script_callbacks.remove_callbacks_for_function(change)


def test_texts_that_another_extension_changes_on_the_way_are_not_reused(job, noisy_texts, without_reuse):
    _, found = job(ON)
    with without_reuse():
        _, wanted = job(ON)
    assert pixels(found) == pixels(wanted)


def test_reforges_clip_skip_ramp_is_obeyed_in_every_step(host, prepared, computed):
    """It swaps the conditions inside its CFG denoiser, where no hook tells."""
    with prepared(ON) as p:
        p.dynamic_clip_skip_sets = [1, 2]
        host.processing.process_images(p)
    assert len(computed) == LAYERS * 5


def test_other_weights_of_the_same_layers_are_other_keys(job, host, monkeypatch, without_reuse):
    """A LoRA that changes in the middle of a pass: the host's patch identity is part of the name."""
    from nag_core.hosts.patcher.forge import Forge

    seen = []

    def weights(self, model):
        seen.append(1)
        layer = next(iter(cross_attention_layers(model.diffusion_model).values()))
        layer.to_k.weight.data.mul_(1.1)
        return str(len(seen))

    network = host.shared.sd_model.forge_objects.unet.model.diffusion_model
    original = next(iter(cross_attention_layers(network).values())).to_k.weight.data.clone()
    monkeypatch.setattr(Forge, "weights", weights)
    try:
        _, found = job(ON)
        next(iter(cross_attention_layers(network).values())).to_k.weight.data.copy_(original)
        with without_reuse():
            _, wanted = job(ON)
    finally:
        next(iter(cross_attention_layers(network).values())).to_k.weight.data.copy_(original)
    assert pixels(found) == pixels(wanted)


def patched(host, prepared, change, **fields):
    """The pixels of a job in whose passes `change(unet)` has patched the unet before NAG."""
    with prepared(ON, **fields) as p:
        first = host.scripts.scripts_txt2img.alwayson_scripts[0]
        own = type(first).process_before_every_sampling

        def hook(self, p, *args, **kwargs):
            unet = p.sd_model.forge_objects.unet.clone()
            change(unet)
            p.sd_model.forge_objects.unet = unet
            return own(self, p, *args, **kwargs)

        first.process_before_every_sampling = hook.__get__(first)
        try:
            return pixels(host.processing.process_images(p))
        finally:
            del first.process_before_every_sampling


def test_a_foreign_attn2_patch_that_changes_the_text_is_obeyed_in_every_step(host, prepared, without_reuse):
    def change(unet):
        calls = []

        def patch(n, context, value, extra):
            calls.append(1)
            return n, context * (1 + 0.01 * len(calls)), value * (1 + 0.01 * len(calls))

        unet.set_model_attn2_patch(patch)

    found = patched(host, prepared, change)
    with without_reuse():
        assert patched(host, prepared, change) == found


@pytest.mark.parametrize("kind", ["conditioning modifier", "pre cfg function"])
def test_foreign_hands_on_the_conditions_are_obeyed_in_every_step(host, prepared, without_reuse, kind):
    def change(unet):
        calls = []

        def louder(conds):
            calls.append(1)
            conds[0]["model_conds"]["c_crossattn"].cond = conds[0]["model_conds"]["c_crossattn"].cond * (
                1 + 0.1 * len(calls)
            )

        def modifier(model, x, timestep, uncond, cond, scale, options, seed):
            louder(cond)
            return model, x, timestep, uncond, cond, scale, options, seed

        def pre_cfg(model, cond, uncond, x, timestep, options):
            louder(cond)
            return model, cond, uncond, x, timestep, options

        if kind == "conditioning modifier":
            unet.add_conditioning_modifier(modifier)
        else:
            unet.add_sampler_pre_cfg_function(pre_cfg)

    found = patched(host, prepared, change)
    with without_reuse():
        assert patched(host, prepared, change) == found


def leftovers(network):
    layers = cross_attention_layers(network).values()
    replaced = [m for layer in layers for m in (layer.to_k, layer.to_v) if "forward" in m.__dict__]
    return replaced, dict(network._forward_pre_hooks)


def test_nothing_stays_on_the_network_after_a_job_or_an_error(host, job, prepared, network):
    job(ON)
    assert leftovers(network) == ([], {})

    def change(unet):
        def patch(n, context, value, extra):
            raise RuntimeError("thrown in the middle of a call")

        unet.set_model_attn2_patch(patch)

    with pytest.raises(RuntimeError, match="in the middle"):
        patched(host, prepared, change)
    assert leftovers(network) == ([], {})


def test_a_long_schedule_keeps_no_more_than_two_texts(job, monkeypatch, network):
    most = []
    original = reuse.KeyValueReuse._kept

    def watched(self, texts, context):
        made = original(self, texts, context)
        most.append(len(self.kept))
        return made

    monkeypatch.setattr(reuse.KeyValueReuse, "_kept", watched)
    job(ON, prompt="[a circle|a square|a cross|a triangle]", steps=8)
    assert max(most) == reuse.MOST_TEXTS


def test_a_projection_that_someone_else_replaced_is_theirs(job, network, computed, without_reuse):
    layer = next(iter(cross_attention_layers(network).values()))
    own = layer.to_k.forward
    calls = []

    def theirs(x):
        calls.append(1)
        return own(x) * (1 + 0.1 * len(calls))

    layer.to_k.forward = theirs
    try:
        _, found = job(ON)
        calls.clear()
        with without_reuse():
            _, wanted = job(ON)
        assert layer.to_k.forward is theirs
    finally:
        del layer.to_k.forward
    assert pixels(found) == pixels(wanted)


def test_a_host_whose_conditions_look_different_loses_only_the_speed(job, computed, monkeypatch):
    _, wanted = job(ON)
    computed.clear()

    def fail(*args):
        raise KeyError("model_conds")

    monkeypatch.setattr("nag_core.hosts.patcher.provenance.traced", fail)
    _, found = job(ON)
    assert pixels(found) == pixels(wanted)
    assert "7 layers × 4/4 steps" in found.infotexts[0]
    assert len(computed) == LAYERS * 5
