"""The bench's own networks cost what diffusers' classes cost: weights and operations, at true widths."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nag_core.bench.models import CASES, GPU, Place
from tests.extras import needs_any_diffusers, often

pytestmark = needs_any_diffusers

META = Place(torch.device("meta"), torch.bfloat16, GPU)


def sd15():
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    return model, lambda: model(META.normal(1, 4, 64, 64), META.time(1.0)[:1], META.normal(1, 77, 768))


def sdxl():
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    more = {"text_embeds": META.normal(1, 1280), "time_ids": META.normal(1, 6)}
    given = (META.normal(1, 4, 128, 128), META.time(1.0)[:1], META.normal(1, 77, 2048))
    return model, lambda: model(*given, added_cond_kwargs=more)


def flux(guidance=False, kind="FluxTransformer2DModel", tokens=256):
    import diffusers

    more = {} if "Chroma" in kind else {"guidance_embeds": guidance}
    model = getattr(diffusers, kind)(num_layers=4, num_single_layers=8, **more)
    call = {} if "Chroma" in kind else {"pooled_projections": META.normal(1, 768)}
    if guidance:
        call["guidance"] = META.time(0.5)[:1]
    ids = {"img_ids": META.normal(4096, 3), "txt_ids": META.normal(tokens, 3)}
    context, time = META.normal(1, tokens, 4096), META.time(0.5)[:1]
    return model, lambda: model(META.normal(1, 4096, 64), context, timestep=time, **ids, **call)


def sd35():
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=128, num_layers=8, num_attention_heads=38, attention_head_dim=64,
        caption_projection_dim=2432, joint_attention_dim=4096, pooled_projection_dim=2048,
        pos_embed_max_size=192, qk_norm="rms_norm", in_channels=16,
    )  # fmt: skip
    given = (META.normal(1, 16, 128, 128), META.normal(1, 333, 4096), META.normal(1, 2048))
    return model, lambda: model(*given, META.time(1.0)[:1])


def pixart():
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        sample_size=128, num_layers=28, cross_attention_dim=1152, caption_channels=4096,
        use_additional_conditions=False,
    )  # fmt: skip
    more = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, "timestep": META.time(1.0)[:1]}
    return model, lambda: model(META.normal(1, 4, 128, 128), META.normal(1, 300, 4096), **more)


def sana():
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(sample_size=32)
    return model, lambda: model(META.normal(1, 32, 32, 32), META.normal(1, 300, 2304), META.time(1.0)[:1])


def wan():
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(num_layers=4)
    given = (META.normal(1, 16, 21, 60, 104), META.time(1.0)[:1], META.normal(1, 512, 4096))
    return model, lambda: model(*given)


THEIRS = {
    "sd15": sd15, "sdxl": sdxl, "flux-schnell": flux, "flux-dev": lambda: flux(True, tokens=512),
    "chroma": lambda: flux(kind="ChromaTransformer2DModel"), "sd35-large": sd35, "pixart": pixart,
    "sana": sana, "wan": wan,
}  # fmt: skip


def operations(step):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        step()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", often(THEIRS, "flux-schnell", "sd35-large", "sana", "wan"))
def test_weights_and_operations_are_those_of_the_real_network(name):
    with torch.device("meta"):
        theirs, call = THEIRS[name]()
        theirs = theirs.to(torch.bfloat16).eval().requires_grad_(False)
    case = CASES[name](META)
    ours = sum(one.numel() for one in case.network.parameters())
    assert ours == pytest.approx(sum(one.numel() for one in theirs.parameters()), rel=2e-3)
    baseline = operations(case.steps()["baseline"])
    assert baseline == pytest.approx(operations(call), rel=2e-3)
