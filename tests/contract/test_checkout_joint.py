"""Joint NAG on Forge main's own Flux, Chroma and SD3.5 classes, as test_checkout.py does it for UNets."""

import importlib

import pytest
import torch

from nag_core.hosts import which
from nag_core.hosts.patcher.networks import replaced
from tests.contract.checkout import TOKENS, WIDTH, Engine, Model, Run, embedding, filled
from tests.reference import nag

PHI, TAU, ALPHA, STEPS = 4.0, 1.2, 0.5, 4
ON = [{"scale": PHI, "tau": TAU, "alpha": ALPHA}]
FAMILIES = {"flux": "2 double + 2 single blocks", "sd3.5": "2 joint blocks"}


def flux():
    from backend.nn.flux import IntegratedFluxTransformer2DModel

    return IntegratedFluxTransformer2DModel(16, 8, WIDTH, 32, 4.0, 2, 2, 2, [4, 6, 6], 10000, True, False)


def sd35():
    from backend.nn.mmditx import MMDiTX

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}}
    return MMDiTX(
        input_size=None, depth=2, in_channels=16, adm_in_channels=8, qk_norm="rms", num_patches=64,
        context_embedder_config=embedder, pos_embed_max_size=8,
    )  # fmt: skip


def cond(text):
    return {"crossattn": embedding(text), "vector": embedding(f"pooled {text}", 8)[0]}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request, checkout):
    if which.detect().name == "ldm_patched":
        pytest.skip("this WebUI generates with UNets only: it has no joint attention to guide")
    if which.detect().name == "Forge Neo":
        pytest.skip("these are Forge main's classes; Neo's own are tried by test_neo_models.py")
    return request.param


@pytest.fixture(scope="module")
def engine(family):
    torch.manual_seed(0)
    return Engine(filled({"flux": flux, "sd3.5": sd35}[family]()), cond)


@pytest.fixture
def run(checkout, runner, engine):
    return lambda nag=(), **more: Run(checkout, runner, engine, nag, channels=16, **more)


def doubled_rows(engine, noise):
    """The same by rows [prompt, negative] through the host's own model, their image tokens guided to one.

    Every token under the prompt's pooled vector, as we define it; both texts are equally long here.
    """
    joint = which.detect().joint_model(engine.original.model.diffusion_model)
    original = joint.namespace[joint.attribute]

    def attention(*args, **kwargs):
        out = original(*args, **kwargs)
        guided, _ = nag(out[:1, TOKENS:], out[1:, TOKENS:], PHI, TAU, ALPHA)
        out[:, TOKENS:] = guided.to(out.dtype)
        return out

    context = torch.stack([cond("a")["crossattn"], cond("b")["crossattn"]])
    pooled = cond("a")["vector"].expand(2, -1)
    model, x = Model(engine.original.model.diffusion_model), noise
    with torch.inference_mode(), replaced(joint.namespace, joint.attribute, attention):
        for step in range(STEPS):
            sigma = torch.full((2,), 1.0 - step / STEPS)
            out = model.apply_model(
                x.expand(2, -1, -1, -1), sigma, c_crossattn=context, y=pooled, transformer_options={}
            )
            x = x + (out[:1] - x) / STEPS
    return x


def test_one_sequence_is_what_doubled_rows_are(run, engine, family):
    result = run(ON)
    assert f"{FAMILIES[family]} × 4/4 steps" in result.report
    wanted = doubled_rows(engine, result.noise)
    assert torch.allclose(result.latent, wanted, atol=1e-4)
    assert not torch.allclose(wanted, run().latent, atol=1e-3)


@pytest.mark.parametrize("cfg", [1, 4])
def test_off_is_the_hosts_own_picture_before_and_after(run, cfg):
    off = run(cfg=cfg).latent
    assert torch.equal(run([{"scale": 0}], cfg=cfg).latent, off)
    assert not torch.allclose(run(ON, cfg=cfg).latent, off, atol=1e-3)
    assert torch.equal(run(cfg=cfg).latent, off)


def test_prompt_and_negative_alike_leave_nothing_to_guide(run):
    """Alike in the steps that NAG acts on; texts that are alike throughout are not guided at all."""
    texts = {"prompts": ("b",), "negative": "[b:c:0.75]"}
    guided = run([{**ON[0], "end": 0.5}], **texts)
    assert "× 2/4 steps" in guided.report
    assert torch.allclose(guided.latent, run(**texts).latent, atol=1e-4)
    aside = run(ON, prompts=("b",))
    assert aside.report == "not applied: prompt and negative gave the same conditioning"
    assert torch.equal(aside.latent, run(prompts=("b",)).latent)


def test_a_picture_does_not_depend_on_what_else_is_in_the_batch(run):
    assert torch.allclose(run(ON, prompts=("a", "c")).latent[:1], run(ON).latent, atol=1e-4)


def test_an_error_inside_a_block_leaves_the_hosts_attention_in_place(run, engine, family):
    joint = which.detect().joint_model(engine.original.model.diffusion_model)
    before, attention = run(ON).latent, joint.namespace[joint.attribute]

    def fail(*_):
        raise ZeroDivisionError

    handle = joint.blocks[-1][1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        run(ON)
    handle.remove()
    assert joint.namespace[joint.attribute] is attention
    assert all(not block._forward_pre_hooks for _, block in joint.blocks)
    assert torch.equal(run(ON).latent, before)


def test_chromas_attention_is_fluxs(family):
    """One place serves both: chroma.py imports flux.py's `attention`, which looks its function up there."""
    chroma, flux_module = (importlib.import_module(f"backend.nn.{name}") for name in ("chroma", "flux"))
    assert chroma.attention is flux_module.attention, "chroma.py has an attention of its own now"
