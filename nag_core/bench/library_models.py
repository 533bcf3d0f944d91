"""The bench's models of diffusers' own classes, which run under the hooks of `nag_core.applied`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.library import LibraryCase
from nag_core.bench.models import Place
from nag_core.settings.presets import TABLE_5


def _pixart(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import PixArtTransformer2DModel

    side, depth, heads = place.of(128, 32, 16), place.of(28, 4, 2), place.of(16, 8, 4, 2)
    network = place.build(
        PixArtTransformer2DModel, sample_size=side, num_layers=depth, num_attention_heads=heads,
        cross_attention_dim=72 * heads, caption_channels=4096, interpolation_scale=2,
        use_additional_conditions=False,
    )  # fmt: skip
    latent, time = place.normal(2, 4, side, side), torch.full((2,), 500, device=place.device)
    more = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], context, timestep=time[:rows], encoder_attention_mask=mask, **more)

    return network, call, place.normal(1, 300, 4096)


def _sana(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import SanaTransformer2DModel

    side, depth, heads = place.of(32, 16, toy=8), place.of(20, 4, 2), place.of(20, 8, 4, 2)
    network = place.build(
        SanaTransformer2DModel, sample_size=side, num_layers=depth, num_cross_attention_heads=heads,
        num_attention_heads=place.of(70, 28, 14, 7), cross_attention_head_dim=112,
        cross_attention_dim=112 * heads,
        caption_channels=2304,
    )  # fmt: skip
    latent, time = place.normal(2, 32, side, side), torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], context, time[:rows], encoder_attention_mask=mask)

    return network, call, place.normal(1, 300, 2304)


def _wan(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import WanTransformer3DModel

    # 480 x 832, 81 frames: 21 x 60 x 104 latents.
    frames, height, width = place.of((21, 60, 104), (3, 16, 16), (1, 16, 16), (1, 8, 8))
    network = place.build(
        WanTransformer3DModel, num_attention_heads=place.of(40, 6, 4, 1),
        num_layers=place.of(4, 2, 1, full=40), ffn_dim=place.of(13824, 2048, 1024, 256),
    )  # fmt: skip
    latent, time = place.normal(2, 16, frames, height, width), torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], time[:rows], context)

    return network, call, place.normal(1, 512, 4096)


def _sdxl(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import UNet2DConditionModel

    side, widths = place.of(128, 48, 32, 8), place.of((320, 640, 1280), (96, 192, 384), toy=(32, 64, 64))
    network = place.build(
        UNet2DConditionModel, sample_size=side, cross_attention_dim=2048, block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=place.of((1, 2, 10), (1, 1, 2), (1, 1, 1)),
        attention_head_dim=place.of((5, 10, 20), (2, 3, 6), toy=(2, 2, 2)), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    latent, time = place.normal(2, 4, side, side), place.time(500.0)
    pooled, sizes = place.normal(2, 1280), place.normal(2, 6)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        more = {"text_embeds": pooled[:rows], "time_ids": sizes[:rows]}
        return network(latent[:rows], time[:rows], context, added_cond_kwargs=more)

    return network, call, place.normal(1, 77, 2048)


def _flux(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import FluxTransformer2DModel

    doubles, singles = place.of((4, 8), (1, 2), (1, 1), full=(19, 38))
    network = place.build(
        FluxTransformer2DModel, num_layers=doubles, num_single_layers=singles,
        num_attention_heads=place.of(24, 6, 4, 1),
    )  # fmt: skip
    side, tokens = place.of(64, 24, 24, 8), place.of(256, 48, toy=8)
    latent, pooled, time = place.normal(2, side**2, 64), place.normal(2, 768), place.time(0.5)
    ids = torch.zeros(side, side, 3, device=place.device)
    ids[..., 1], ids[..., 2] = torch.arange(side)[:, None], torch.arange(side)[None]
    given = {"img_ids": ids.flatten(0, 1), "txt_ids": torch.zeros(tokens, 3, device=place.device)}

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], context, pooled[:rows], timestep=time[:rows], **given)

    return network, call, place.normal(1, tokens, 4096)


def _sd35_large(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import SD3Transformer2DModel

    side, heads = place.of(128, 48, 48, 16), place.of(38, 12, 8, 2)
    network = place.build(
        SD3Transformer2DModel, sample_size=side, num_layers=place.of(8, 3, 2, full=38),
        num_attention_heads=heads, attention_head_dim=64, caption_projection_dim=64 * heads,
        joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=192, qk_norm="rms_norm",
        in_channels=16,
    )  # fmt: skip
    latent, pooled, time = place.normal(2, 16, side, side), place.normal(2, 2048), place.time(500.0)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], context, pooled[:rows], time[:rows])

    return network, call, place.normal(1, place.of(333, 83, toy=11), 4096)


def sdxl(place: Place) -> LibraryCase:
    return LibraryCase(*_sdxl(place), TABLE_5["SDXL"], pads="")


def flux_schnell(place: Place) -> LibraryCase:
    return LibraryCase(*_flux(place), TABLE_5["Flux"], pads="")


def sd35_large(place: Place) -> LibraryCase:
    return LibraryCase(*_sd35_large(place), TABLE_5["SD3.5"], pads="")


def pixart(place: Place) -> LibraryCase:
    return LibraryCase(*_pixart(place), TABLE_5["PixArt-Sigma"], pads="masked")


def sana(place: Place) -> LibraryCase:
    return LibraryCase(*_sana(place), TABLE_5["SANA"], pads="masked")


def wan(place: Place) -> LibraryCase:
    return LibraryCase(*_wan(place), TABLE_5["Wan2.1"], pads="zeros")


CASES: dict[str, Callable[[Place], LibraryCase]] = {
    "sdxl-library": sdxl,
    "flux-schnell-library": flux_schnell,
    "sd35-large-library": sd35_large,
    "sana-library": sana,
    "pixart-library": pixart,
    "wan-library": wan,
}
