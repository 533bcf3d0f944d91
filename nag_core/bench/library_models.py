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
        WanTransformer3DModel, num_attention_heads=place.of(40, 6, 4, 1), num_layers=place.of(4, 2, 1),
        ffn_dim=place.of(13824, 2048, 1024, 256),
    )  # fmt: skip
    latent, time = place.normal(2, 16, frames, height, width), torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], time[:rows], context)

    return network, call, place.normal(1, 512, 4096)


def pixart(place: Place) -> LibraryCase:
    return LibraryCase(*_pixart(place), TABLE_5["PixArt-Sigma"], masked=True)


def sana(place: Place) -> LibraryCase:
    return LibraryCase(*_sana(place), TABLE_5["SANA"], masked=True)


def wan(place: Place) -> LibraryCase:
    return LibraryCase(*_wan(place), TABLE_5["Wan2.1"], masked=False)


CASES: dict[str, Callable[[Place], LibraryCase]] = {
    "sana-library": sana,
    "pixart-library": pixart,
    "wan-library": wan,
}
