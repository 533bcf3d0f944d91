"""Text beside image prompts as diffusers loads them: its own IP-Adapter weights on a small UNet in SD1.5's
pipeline.
"""

import pytest
import torch

import nag_core
from tests import diffusers_pipelines as pipelines
from tests.diffusers_pipelines import draw
from tests.extras import needs_pipelines
from tests.unit.test_diffusers_pipelines import GIVEN, apart

pytestmark = needs_pipelines

TEXT, IMAGE, TOKENS = 16, 12, 4


@pytest.fixture
def pipe():
    """Its UNet projects the text itself, as Kolors' does."""
    from diffusers import UNet2DConditionModel

    made = pipelines.pipeline("sd15")
    torch.manual_seed(0)
    made.unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=TEXT, attention_head_dim=2,
        encoder_hid_dim=24, encoder_hid_dim_type="text_proj",
    ).eval()  # fmt: skip
    for parameter in made.unet.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return made


def load_adapter(unet, count=1):
    weights, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            weights[f"{number}.to_k_ip.weight"] = torch.randn(width, TEXT)
            weights[f"{number}.to_v_ip.weight"] = torch.randn(width, TEXT)
            number += 2
    projection = {
        "proj.weight": torch.randn(TOKENS * TEXT, IMAGE), "proj.bias": torch.zeros(TOKENS * TEXT),
        "norm.weight": torch.ones(TEXT), "norm.bias": torch.zeros(TEXT),
    }  # fmt: skip
    adapter = {"image_proj": projection, "ip_adapter": weights}
    unet._load_ip_adapter_weights([adapter] * count, low_cpu_mem_usage=False)


def both(pipe, scale=None, **call):
    """Latents without NAG and with it, and what is said; scale: of the image prompts, None without them."""
    if scale is not None:
        pipe.set_ip_adapter_scale(scale)
    plain = draw("sd15", pipe, **call)
    with nag_core.applied(pipe, "blue", **GIVEN) as nag:
        return plain, draw("sd15", pipe, **call), nag


def images(count):
    return [torch.randn(1, count, IMAGE, generator=torch.Generator().manual_seed(1))]


def test_text_that_the_unet_projects_is_guided_beside_an_image_prompt(pipe):
    """Kolors: every layer was unguided once an IP-Adapter was loaded, which moves the text's projection."""
    _, wanted, nag = both(pipe)
    assert nag.complete
    load_adapter(pipe.unet)
    call = {"ip_adapter_image_embeds": images(1)}
    plain, found, nag = both(pipe, 0.7, **call)
    assert (nag.complete, nag.reports[0].problems) == (True, ())
    assert apart(found, plain) > 3e-4
    _, found, nag = both(pipe, 0.0, **call)
    assert nag.complete
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("adapters", [1, 2])
def test_image_prompts_with_masks_and_a_scale_each_are_beside_guided_text(pipe, adapters):
    """Every layer was unguided: without the masks the processor takes no list of scales."""
    _, wanted, _ = both(pipe)
    load_adapter(pipe.unet, adapters)
    masks = [torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(2))] * adapters
    call = {
        "ip_adapter_image_embeds": [images(2)[0]] * adapters,
        "cross_attention_kwargs": {"ip_adapter_masks": masks},
    }
    plain, found, nag = both(pipe, [[0.7, 0.4]] * adapters, **call)
    assert (nag.complete, nag.reports[0].problems) == (True, ())
    assert apart(found, plain) > 3e-4
    _, found, nag = both(pipe, [[0.0, 0.0]] * adapters, **call)
    assert nag.complete
    assert apart(found, wanted) < 1e-5
