"""The models of the bench with random weights: true sizes on a GPU, and small ones of the same make on a CPU.

A transformer of many equal blocks is built with fewer of them on a GPU, too; what is said of the step then
holds for the whole model, because every block costs the same (diffusers classes, 1024 x 1024 unless said).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.cross import CrossCase
from nag_core.bench.joint import JointCase
from nag_core.bench.library import LibraryCase
from nag_core.presets import TABLE_5, Strength

GPU, CPU, QUICK = "gpu", "cpu", "quick"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how large: `size` is GPU, CPU or QUICK."""

    device: torch.device
    dtype: torch.dtype
    size: str

    def of(self, gpu: Any, cpu: Any, quick: Any = None) -> Any:
        """The value for this size."""
        return {GPU: gpu, CPU: cpu, QUICK: cpu if quick is None else quick}[self.size]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def build(self, kind: type, **config: Any) -> nn.Module:
        """A model made on its device; initial weights, in which nothing explodes and nothing vanishes."""
        with torch.device(self.device):
            return kind(**config).to(self.dtype).eval().requires_grad_(False)


def sd15(place: Place) -> CrossCase:
    from diffusers import UNet2DConditionModel

    side = place.of(64, 16)
    network = place.build(
        UNet2DConditionModel, sample_size=side, cross_attention_dim=768, attention_head_dim=8,
        layers_per_block=place.of(2, 2, 1),
    )  # fmt: skip
    latent = place.normal(2, 4, side, side)
    time = torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, rows: int) -> Any:
        return network(latent[:rows], time[:rows], context)

    return CrossCase(network, call, place.normal(1, 77, 768), TABLE_5["SD1.5"])


def sdxl(place: Place) -> CrossCase:
    from diffusers import UNet2DConditionModel

    side = place.of(128, 16)
    network = place.build(
        UNet2DConditionModel, sample_size=side, cross_attention_dim=2048, block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=place.of((1, 2, 10), (1, 1, 2), (1, 1, 1)),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    latent, pooled, sizes = place.normal(2, 4, side, side), place.normal(2, 1280), place.normal(2, 6)
    time = torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, rows: int) -> Any:
        added = {"text_embeds": pooled[:rows], "time_ids": sizes[:rows]}
        return network(latent[:rows], time[:rows], context, added_cond_kwargs=added)

    return CrossCase(network, call, place.normal(1, 77, 2048), TABLE_5["SDXL"])


def _pixart(place: Place) -> tuple[nn.Module, Callable[..., Any], Tensor]:
    from diffusers import PixArtTransformer2DModel

    side, depth, heads = place.of(128, 32, 16), place.of(28, 4, 2), place.of(16, 8, 4)
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

    side, depth, heads = place.of(32, 16), place.of(20, 4, 2), place.of(20, 8, 4)
    network = place.build(
        SanaTransformer2DModel, sample_size=side, num_layers=depth, num_cross_attention_heads=heads,
        num_attention_heads=place.of(70, 28, 14), cross_attention_head_dim=112,
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
    frames, height, width = place.of((21, 60, 104), (3, 16, 16), (1, 16, 16))
    network = place.build(
        WanTransformer3DModel, num_attention_heads=place.of(40, 6, 4), num_layers=place.of(4, 2, 1),
        ffn_dim=place.of(13824, 2048, 1024),
    )  # fmt: skip
    latent, time = place.normal(2, 16, frames, height, width), torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, mask: Tensor | None, rows: int) -> Any:
        return network(latent[:rows], time[:rows], context)

    return network, call, place.normal(1, 512, 4096)


def _hosted(model: tuple[nn.Module, Callable[..., Any], Tensor], strength: Strength) -> CrossCase:
    """As a WebUI's own model would be called: one text of full length, no mask."""
    network, call, context = model

    def unmasked(network: nn.Module, context: Tensor, rows: int) -> Any:
        return call(network, context, None, rows)

    return CrossCase(network, unmasked, context, strength)


def pixart(place: Place) -> CrossCase:
    return _hosted(_pixart(place), TABLE_5["PixArt-Sigma"])


def sana(place: Place) -> CrossCase:
    return _hosted(_sana(place), TABLE_5["SANA"])


def wan(place: Place) -> CrossCase:
    return _hosted(_wan(place), TABLE_5["Wan2.1"])


def pixart_library(place: Place) -> LibraryCase:
    return LibraryCase(*_pixart(place), TABLE_5["PixArt-Sigma"], masked=True)


def sana_library(place: Place) -> LibraryCase:
    return LibraryCase(*_sana(place), TABLE_5["SANA"], masked=True)


def wan_library(place: Place) -> LibraryCase:
    return LibraryCase(*_wan(place), TABLE_5["Wan2.1"], masked=False)


def _flux(place: Place, name: str, tokens: int) -> JointCase:
    from diffusers import ChromaTransformer2DModel, FluxTransformer2DModel

    heads, depth = place.of(24, 6, 4), place.of((4, 8), (1, 2), (1, 1))
    side = place.of(64, 28, 24)
    image = side * side
    kind = ChromaTransformer2DModel if name == "chroma" else FluxTransformer2DModel
    if name == "chroma":
        more = {"approximator_hidden_dim": place.of(5120, 5120, 256)}
    else:
        more = {"guidance_embeds": name == "flux-dev"}
    network = place.build(
        kind, num_layers=depth[0], num_single_layers=depth[1], num_attention_heads=heads, **more
    )
    latent, pooled = place.normal(2, image, 64), place.normal(2, 768)
    time = torch.full((2,), 0.5, device=place.device, dtype=place.dtype)
    grid = torch.stack(torch.meshgrid(*(torch.arange(side, device=place.device),) * 2, indexing="ij"), -1)
    ids = torch.cat([torch.zeros(image, 1, device=place.device), grid.reshape(image, 2)], 1)

    def call(network: nn.Module, context: Tensor, rows: int) -> Any:
        more = {} if name == "chroma" else {"pooled_projections": pooled[:rows]}
        if name == "flux-dev":
            more["guidance"] = time[:rows]
        text = torch.zeros(context.shape[1], 3, device=place.device)
        return network(latent[:rows], context, timestep=time[:rows], img_ids=ids, txt_ids=text, **more)

    return JointCase(network, call, place.normal(1, tokens, 4096), image, TABLE_5["Flux"])


def flux_schnell(place: Place) -> JointCase:
    return _flux(place, "flux-schnell", place.of(256, 48))


def flux_dev(place: Place) -> JointCase:
    return _flux(place, "flux-dev", place.of(512, 96))


def chroma(place: Place) -> JointCase:
    return _flux(place, "chroma", place.of(256, 48))


def sd35_large(place: Place) -> JointCase:
    from diffusers import SD3Transformer2DModel

    side, depth, heads = place.of(128, 64, 48), place.of(8, 3, 2), place.of(38, 12, 8)
    network = place.build(
        SD3Transformer2DModel, sample_size=side, num_layers=depth, num_attention_heads=heads,
        attention_head_dim=64,
        caption_projection_dim=64 * heads, joint_attention_dim=4096, pooled_projection_dim=2048,
        pos_embed_max_size=192, qk_norm="rms_norm", in_channels=16,
    )  # fmt: skip
    latent, pooled = place.normal(2, 16, side, side), place.normal(2, 2048)
    time = torch.full((2,), 500, device=place.device)

    def call(network: nn.Module, context: Tensor, rows: int) -> Any:
        return network(latent[:rows], context, pooled[:rows], time[:rows])

    context = place.normal(1, place.of(333, 83), 4096)
    return JointCase(network, call, context, (side // 2) ** 2, TABLE_5["SD3.5"], image_first=True)


CASES: dict[str, Callable[[Place], CrossCase | JointCase | LibraryCase]] = {
    "sd15": sd15,
    "sdxl": sdxl,
    "flux-schnell": flux_schnell,
    "flux-dev": flux_dev,
    "chroma": chroma,
    "sd35-large": sd35_large,
    "sana": sana,
    "pixart": pixart,
    "wan": wan,
    "sana-library": sana_library,
    "pixart-library": pixart_library,
    "wan-library": wan_library,
}
