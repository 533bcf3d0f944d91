"""What changes between two jobs, and what runs out within one: the next picture knows nothing of it."""

import gc
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.method.rule import Rule
from tests.contract.test_odd_jobs import hooks

ON = [{"enabled": True, "scale": 4}]
JOBS, SETTLED, GROWTH = 200, 10, 20


@pytest.fixture
def network(host, job):
    job()
    return host.shared.sd_model.forge_objects.unet.model.diffusion_model


def draw(job, nag=(), **fields):
    _, processed = job(nag, **fields)
    return processed.images[0].convert("RGB").tobytes()


@contextmanager
def changed(layers, factor):
    """Other weights in the attention over text: what a LoRA, or another checkpoint, leaves in place."""
    weights = [linear.weight for layer in layers for linear in (layer.to_k, layer.to_v)]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)


@pytest.mark.parametrize("cfg", [1, 7])
def test_weights_changed_between_two_jobs_reach_the_negatives_keys(job, network, cfg):
    """Keys kept from the job before are a known bug elsewhere."""
    layers = list(cross_attention_layers(network).values())
    before = draw(job, ON, cfg_scale=cfg)
    with changed(layers, 1.5):
        after_on = draw(job, ON, cfg_scale=cfg)
        draw(job, cfg_scale=cfg)
        assert draw(job, ON, cfg_scale=cfg) == after_on != before
    assert draw(job, ON, cfg_scale=cfg) == before


def test_another_model_between_two_jobs(host, job, network, monkeypatch):
    """A second model of the same make: the layers of the first one must not be asked for its keys."""
    from backend.diffusion_engine.engines import engine
    from modules import sd_models

    from nag_core.sandbox.model.load import load

    before = draw(job, ON)
    first, second = host.shared.sd_model, engine(load("unet"), "another")
    with changed(cross_attention_layers(second.forge_objects.unet.model.diffusion_model).values(), 1.5):
        monkeypatch.setitem(sd_models.model_data.prepared, "tiny-shapes", second)
        other = draw(job, ON)
        assert other != before
        monkeypatch.setitem(sd_models.model_data.prepared, "tiny-shapes", first)
        assert draw(job, ON) == before
        monkeypatch.setitem(sd_models.model_data.prepared, "tiny-shapes", second)
        assert draw(job, ON) == other


def test_a_second_evaluation_in_a_process_gets_the_weights_it_asks_for(job, host, monkeypatch, tmp_path):
    """It drew with the first one's, under the name of the second's."""
    from modules.shared_cmd_options import cmd_opts

    from nag_core.sandbox.model.load import save, weights_file
    from nag_core.sandbox.model.miniature import Miniature

    path = weights_file("unet", tmp_path)
    save(Miniature("unet"), path)
    before = draw(job)
    with monkeypatch.context() as patched:
        patched.setitem(vars(cmd_opts), "weights", {"unet": path})
        assert draw(job) != before
    assert draw(job) == before


@pytest.fixture
def short_of_memory(monkeypatch):
    """`with short_of_memory(count=3)`: that many calls of the rule find no memory, as on a full GPU."""

    @contextmanager
    def shortage(count):
        original, left = Rule.guide, [count]

        def guide(rule, *args):
            if left[0]:
                left[0] -= 1
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return original(rule, *args)

        with monkeypatch.context() as patched:
            patched.setattr(Rule, "guide", guide)
            yield
        assert not left[0]

    return shortage


@pytest.mark.parametrize("cfg", [1, 7])
def test_out_of_memory_in_every_layer_costs_the_guidance_not_the_picture(job, network, short_of_memory, cfg):
    off, on = draw(job, cfg_scale=cfg), draw(job, ON, cfg_scale=cfg)
    with short_of_memory(7 * 4):
        _, processed = job(ON, cfg_scale=cfg)
    assert processed.images[0].convert("RGB").tobytes() == off
    assert "not applied: OutOfMemoryError in some layers" in processed.infotexts[0]
    assert hooks(network) == []
    assert draw(job, ON, cfg_scale=cfg) == on
    assert draw(job, cfg_scale=cfg) == off


def test_out_of_memory_in_one_layer_leaves_the_others_guided_and_is_said(job, network, short_of_memory):
    off, on = draw(job), draw(job, ON)
    with short_of_memory(1):
        _, processed = job(ON)
    assert processed.images[0].convert("RGB").tobytes() not in (off, on)
    assert "7 layers × 4/4 steps" in processed.infotexts[0]
    assert "OutOfMemoryError in some layers, which ran unguided" in processed.infotexts[0]
    assert draw(job, ON) == on


def test_out_of_memory_while_the_negative_is_encoded(host, job, monkeypatch):
    off, on = draw(job), draw(job, ON)

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    from nag_core.hosts import encoding

    with monkeypatch.context() as patched:
        patched.setattr(encoding, "encode", full)
        _, processed = job(ON)
    assert processed.images[0].convert("RGB").tobytes() == off
    assert "not applied: OutOfMemoryError" in processed.infotexts[0]
    assert draw(job, ON) == on


def resident():
    """MiB of main memory this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the process's memory as Linux shows it"
)
@pytest.mark.slow  # tests/live/test_faults.py has them by default, over HTTP
def test_two_hundred_jobs_on_and_off_leave_no_hook_and_no_memory(host, job, network, script):
    settled = 0.0
    for index in range(JOBS):
        nag = [{"scale": 4, "negative": f"blue square, {index}"}] if index % 2 else ()
        job(nag, steps=1, width=32, height=32, cfg_scale=(1, 7)[index % 4 // 2])
        assert hooks(network) == []
        assert not script.jobs._jobs
        if index == SETTLED:
            settled = resident()
    assert resident() - settled < GROWTH
    model = host.shared.sd_model
    assert not model.forge_objects_original.unet.model_options.get("conditioning_modifiers")
