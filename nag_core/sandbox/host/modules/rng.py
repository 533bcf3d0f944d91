"""Noise by seed: every picture of a batch has a generator of its own, and so never depends on the others."""

from __future__ import annotations

from typing import Any

import torch


def randn(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal noise of one picture."""
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(int(seed)))


class ImageRNG:
    """The noise of a batch; each call of `next` continues the pictures' own sequences."""

    def __init__(
        self,
        shape: tuple[int, ...],
        seeds: list[int],
        subseeds: list[int] | None = None,
        subseed_strength: float = 0.0,
        **unsupported: Any,
    ) -> None:
        self.shape = tuple(shape)
        self.generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        self.subseeds = (subseeds or []) if subseed_strength else []
        self.strength = subseed_strength
        self.is_first = True

    def next(self) -> torch.Tensor:
        """(B, C, H, W)."""
        rows = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        if self.is_first and self.subseeds:
            others = [randn(seed, self.shape) for seed in self.subseeds]
            rows = [_slerp(self.strength, *pair) for pair in zip(rows, others, strict=True)]
        self.is_first = False
        return torch.stack(rows)


def _slerp(share: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    cosine = torch.dot(low.flatten(), high.flatten()) / (low.norm() * high.norm())
    angle = torch.acos(cosine.clamp(-0.9995, 0.9995))
    return (torch.sin((1 - share) * angle) * low + torch.sin(share * angle) * high) / torch.sin(angle)
