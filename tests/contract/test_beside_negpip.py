"""Beside an extension that puts a forward of its own on modules, as NegPiP does. The real one: tests/live."""

import pytest
import torch
from torch import nn

from nag_core.hosts.ldm_unet import cross_attention_layers

ON = {"enabled": True, "scale": 4}
FLUX = {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}


def subtracting(module, file="/webui/extensions/sd-webui-negpip/scripts/negpip.py"):
    """A forward, of that file, which takes the first text tokens' values as negative ones."""

    def forward(x, context=None, *_, **__):
        q, k, v = module.to_q(x), module.to_k(context), module.to_v(context)
        v = torch.cat([-v[:, :2], v[:, 2:]], 1)
        q, k, v = (one.unflatten(-1, (module.heads, -1)).transpose(1, 2) for one in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return module.to_out(out.transpose(1, 2).flatten(2))

    forward.__code__ = forward.__code__.replace(co_filename=file)
    return forward


@pytest.fixture
def draw(job):
    def drawn(*nag, **fields):
        p, processed = job(list(nag), **fields)
        return processed.images[-1].tobytes(), p.extra_generation_params.get("NAG report", "")

    return drawn


@pytest.mark.parametrize("cfg", [1, 5])
def test_both_act_on_a_unet(draw, host, cfg):
    """NAG stood aside beside NegPiP, on every layer."""
    plain, _ = draw(False, cfg_scale=cfg)
    by_itself, _ = draw(ON, cfg_scale=cfg)
    modules = cross_attention_layers(host.shared.sd_model.forge_objects.unet.model.diffusion_model).values()
    try:
        for module in modules:
            module.forward = subtracting(module)
        alone, _ = draw(False, cfg_scale=cfg)
        both, report = draw(ON, cfg_scale=cfg)
        other, _ = draw({**ON, "negative": "blue"}, cfg_scale=cfg)
        again, _ = draw(False, cfg_scale=cfg)
    finally:
        for module in modules:
            del module.forward
    assert len({plain, by_itself, alone, both, other}) == 5
    assert again == alone
    assert report.startswith(f"{len(modules)} layers × 4/4 steps")
    assert "unguided" not in report
    assert draw(False, cfg_scale=cfg)[0] == plain


def test_layers_with_any_other_forward_are_left_alone_and_that_is_said(draw, host):
    """Such a forward may add a term (IP-Adapter's does), which was left in z+ - z- and made stronger."""
    draw(False)
    modules = list(
        cross_attention_layers(host.shared.sd_model.forge_objects.unet.model.diffusion_model).values()
    )
    theirs, said = (
        "/webui/extensions/their-adapter/scripts/adapter.py",
        "the extension their-adapter replaced",
    )
    try:
        modules[0].forward = subtracting(modules[0], theirs)
        _, some = draw(ON)
        for module in modules[1:]:
            module.forward = subtracting(module, theirs)
        alone, _ = draw(False)
        both, report = draw(ON)
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)
    assert some.startswith(f"{len(modules) - 1} layers × 4/4 steps")
    assert said in some
    assert both == alone
    assert report.startswith(f"not applied: {said}")


def test_a_block_of_another_kind_is_left_alone_and_that_is_said(draw, host):
    """There such a forward finds the prompt's tokens by their number, and the negative's come before them."""
    draw(False, **FLUX)
    block = host.shared.sd_model.forge_objects.unet.model.diffusion_model.double_blocks[0]
    own = block.forward
    block.forward = lambda *args, **kwargs: own(*args, **kwargs)
    try:
        alone, _ = draw(False, **FLUX)
        both, report = draw(ON, **FLUX)
    finally:
        del block.forward
    assert both == alone
    assert report.startswith("not applied: another extension replaced the forward of some attention layers")
    assert "please report" not in report, "the reason is known and named"
    assert "4/4 steps" in draw(ON, **FLUX)[1]
