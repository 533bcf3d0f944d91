"""The MM-DiT as the host has Flux: blocks that look the attention up in this module at every call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from backend.attention import attention_function
from nag_core.sandbox.model.mmdit import MMDiT


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention_function(q, k, v, q.shape[1], skip_reshape=True)


class IntegratedFluxTransformer2DModel(MMDiT):
    """The host's name and signature; transformer options are swallowed, as there."""

    def __init__(self) -> None:
        super().__init__(_attend)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, y: Tensor, **ignored: Any) -> Tensor:
        """Velocity (B, 3, H, W) under context (B, T, C) and pooled vector y (B, C)."""
        return super().forward(x, timestep, context, y)
