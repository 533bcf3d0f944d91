"""The models of the bench with random weights: true sizes on a GPU, and small ones of the same make on a CPU.

A transformer of many equal blocks is built with fewer of them on a GPU, too; what is said of the step then
holds for the whole model, because every block costs the same (1024 x 1024 unless said).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.cross import CrossCase
from nag_core.bench.joint import JointCase
from nag_core.bench.networks.cross import PixArt, Sana, Wan
from nag_core.bench.networks.joint import SD3, Flux
from nag_core.bench.networks.unet import UNet
from nag_core.settings.presets import TABLE_5, Strength

# FULL: as GPU with all the blocks, for what is counted and not timed.
FULL, GPU, CPU, QUICK, TOY = "full", "gpu", "cpu", "quick", "toy"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how large: `size` is FULL, GPU, CPU, QUICK or TOY."""

    device: torch.device
    dtype: torch.dtype
    size: str

    def of(self, gpu: Any, cpu: Any, quick: Any = None, toy: Any = None, full: Any = None) -> Any:
        """The value for this size; the next larger one's where it has none of its own, FULL a GPU's."""
        quick = cpu if quick is None else quick
        full, toy = gpu if full is None else full, quick if toy is None else toy
        return {FULL: full, GPU: gpu, CPU: cpu, QUICK: quick, TOY: toy}[self.size]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def time(self, value: float) -> Tensor:
        """Of two rows."""
        return torch.full((2,), value, device=self.device)

    def build(self, kind: type, **config: Any) -> nn.Module:
        """A model made on its device; initial weights, in which nothing explodes and nothing vanishes."""
        with torch.device(self.device):
            return kind(**config).to(self.dtype).eval().requires_grad_(False)


def sd15(place: Place) -> CrossCase:
    side, widths = place.of(64, 32, toy=8), ((320, 640, 1280, 1280), (96, 192, 384, 384))
    network = place.build(
        UNet, widths=place.of(*widths, toy=(32, 32, 64, 64)), heads=(8, 8, 8, 8), depths=(1, 1, 1, 0),
        text=768, stages=place.of(2, 2, 1), middle=1,
    )  # fmt: skip
    latent, time = place.normal(2, 4, side, side), place.time(500.0)

    def call(network: nn.Module, context: Tensor, rows: int) -> Tensor:
        return network(latent[:rows], time[:rows], context)

    return CrossCase(network, call, place.normal(1, 77, 768), TABLE_5["SD1.5"])


def sdxl(place: Place) -> CrossCase:
    side, widths = place.of(128, 48, 32, 8), place.of((320, 640, 1280), (96, 192, 384), toy=(32, 64, 64))
    network = place.build(
        UNet, widths=widths, heads=place.of((5, 10, 20), (2, 3, 6), toy=(2, 2, 2)), text=2048, added=2816,
        depths=place.of((0, 2, 10), (0, 1, 2), (0, 1, 1)),
    )  # fmt: skip
    latent, time = place.normal(2, 4, side, side), place.time(500.0)
    pooled, sizes = place.normal(2, 1280), place.normal(2, 6)

    def call(network: nn.Module, context: Tensor, rows: int) -> Tensor:
        return network(latent[:rows], time[:rows], context, pooled[:rows], sizes[:rows])

    return CrossCase(network, call, place.normal(1, 77, 2048), TABLE_5["SDXL"])


def pixart(place: Place) -> CrossCase:
    network = place.build(PixArt, depth=place.of(28, 4, 2), heads=place.of(16, 8, 4, 2))
    side = place.of(128, 32, 16)
    return _cross(place, network, (4, side, side), place.normal(1, 300, 4096), TABLE_5["PixArt-Sigma"])


def sana(place: Place) -> CrossCase:
    network = place.build(
        Sana, depth=place.of(20, 4, 2), heads=place.of(70, 28, 14, 7), cross_heads=place.of(20, 8, 4, 2)
    )
    side = place.of(32, 16, toy=8)
    return _cross(place, network, (32, side, side), place.normal(1, 300, 2304), TABLE_5["SANA"])


def wan(place: Place) -> CrossCase:
    network = place.build(
        Wan,
        depth=place.of(4, 2, 1, full=40),
        heads=place.of(40, 6, 4, 1),
        inner=place.of(13824, 2048, 1024, 256),
    )
    # 480 x 832, 81 frames: 21 x 60 x 104 latents.
    size = place.of((21, 60, 104), (3, 16, 16), (1, 16, 16), (1, 8, 8))
    return _cross(place, network, (16, *size), place.normal(1, 512, 4096), TABLE_5["Wan2.1"])


def _cross(
    place: Place, network: nn.Module, shape: tuple[int, ...], context: Tensor, strength: Strength
) -> CrossCase:
    latent, time = place.normal(2, *shape), place.time(500.0)

    def call(network: nn.Module, context: Tensor, rows: int) -> Tensor:
        return network(latent[:rows], context, time[:rows])

    return CrossCase(network, call, context, strength)


def _flux(place: Place, tokens: int, **more: Any) -> JointCase:
    doubles, singles = place.of((4, 8), (1, 2), (1, 1), full=(19, 38))
    network = place.build(Flux, doubles=doubles, singles=singles, heads=place.of(24, 6, 4, 1), **more)
    image = place.of(64, 24, toy=8) ** 2
    latent, pooled = place.normal(2, image, 64), None if "chroma" in more else place.normal(2, 768)
    time = place.time(0.5)

    def call(network: nn.Module, context: Tensor, rows: int) -> Tensor:
        return network(latent[:rows], context, time[:rows], None if pooled is None else pooled[:rows])

    return JointCase(network, call, place.normal(1, tokens, 4096), image, TABLE_5["Flux"])


def flux_schnell(place: Place) -> JointCase:
    return _flux(place, place.of(256, 48, toy=8))


def flux_dev(place: Place) -> JointCase:
    return _flux(place, place.of(512, 96, toy=16), guidance=True)


def chroma(place: Place) -> JointCase:
    return _flux(place, place.of(256, 48, toy=8), chroma=place.of(5120, 5120, 256))


def sd35_large(place: Place) -> JointCase:
    network = place.build(SD3, depth=place.of(8, 3, 2, full=38), heads=place.of(38, 12, 8, 2))
    side = place.of(128, 48, toy=16)
    latent, pooled, time = place.normal(2, 16, side, side), place.normal(2, 2048), place.time(500.0)

    def call(network: nn.Module, context: Tensor, rows: int) -> Tensor:
        return network(latent[:rows], context, pooled[:rows], time[:rows])

    context = place.normal(1, place.of(333, 83, toy=11), 4096)
    return JointCase(network, call, context, (side // 2) ** 2, TABLE_5["SD3.5"], image_first=True)


# Of torch alone; those of diffusers' own classes are in library_models.py.
CASES: dict[str, Callable[[Place], CrossCase | JointCase]] = {
    "sd15": sd15,
    "sdxl": sdxl,
    "flux-schnell": flux_schnell,
    "flux-dev": flux_dev,
    "chroma": chroma,
    "sd35-large": sd35_large,
    "sana": sana,
    "pixart": pixart,
    "wan": wan,
}
