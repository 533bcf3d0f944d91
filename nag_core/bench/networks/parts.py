"""What the networks are made of: attention with an exchangeable processor, modulation, and the like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

F = nn.functional
# (attention, tokens, context or None, rotation or None) -> tokens, or (tokens, context) of a joint one.
Processor = Callable[..., Any]
Rotation = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Projections around an attention that `processor` computes; torch's own while there is none.

    context_width: that of the keys' tokens in cross-attention. qk_norm: RMS norm of queries and keys, per
    head ("head") or over the full width ("width"). added: projections of a second stream (joint
    attention); pre_only: that stream ends here. out: whether there is a projection behind.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        inner: int | None = None,
        bias: bool = True,
        qk_norm: str = "",
        added: bool = False,
        pre_only: bool = False,
        out: bool = True,
    ) -> None:
        super().__init__()
        inner = inner or width
        self.heads, self.pre_only = heads, pre_only
        self.processor: Processor | None = None
        self.to_q = nn.Linear(width, inner, bias)
        self.to_k, self.to_v = (nn.Linear(context_width or width, inner, bias) for _ in range(2))
        normed = inner // heads if qk_norm == "head" else inner
        self.norm_q, self.norm_k = (nn.RMSNorm(normed) if qk_norm else None for _ in range(2))
        self.to_out = nn.Linear(inner, width) if out else None
        if added:
            self.add_q, self.add_k, self.add_v = (nn.Linear(width, inner) for _ in range(3))
            self.norm_added_q, self.norm_added_k = nn.RMSNorm(normed), nn.RMSNorm(normed)
            self.to_add_out = None if pre_only else nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor | None = None, rotation: Rotation | None = None) -> Any:
        if self.processor is not None:
            return self.processor(self, x, context, rotation)
        source = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        if self.norm_q is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (split_heads(one, self.heads) for one in (q, k, v))
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).flatten(2))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) to (B, H, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions of (B, H, N, D), pairs of neighbouring channels, in fp32 as the models do."""
    cos, sin = rotation
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-imaginary, real), dim=-1).flatten(3)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def rotation(tokens: int, width: int, device: torch.device, text: int = 0) -> Rotation:
    """Angles of `tokens` positions, the first `text` of them 0 (Flux's text has none); what the others are
    does not matter here.
    """
    rates = 1e4 ** (-torch.arange(0, width, 2, device=device) / width)
    positions = torch.arange(-text, tokens - text, device=device).clamp(min=0)
    angles = torch.outer(positions, rates).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


class FeedForward(nn.Module):
    """width -> inner -> width; gated: the first projection makes a gate, too (GEGLU)."""

    def __init__(self, width: int, inner: int | None = None, gated: bool = False) -> None:
        super().__init__()
        inner = inner or 4 * width
        self.gated = gated
        self.first, self.second = nn.Linear(width, inner * (1 + gated)), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.gated:
            x, gate = x.chunk(2, dim=-1)
            return self.second(x * F.gelu(gate))
        return self.second(F.gelu(x, approximate="tanh"))


class Modulation(nn.Module):
    """`parts` vectors (B, 1, width) from the embedding of time and pooled text."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts, self.linear = parts, nn.Linear(width, parts * width)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(embedding))[:, None].chunk(self.parts, dim=-1)


def normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm without weights, then the modulation's."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """Time (B,) to (B, width): sines, then two layers."""

    def __init__(self, width: int, inner: int = 256) -> None:
        super().__init__()
        self.inner = inner
        self.layers = two_layers(inner, width, width)

    def forward(self, time: Tensor) -> Tensor:
        return self.layers(sines(time, self.inner).to(self.layers[0].weight.dtype))


def sines(time: Tensor, width: int) -> Tensor:
    """(...,) to (..., width)."""
    rates = torch.exp(-math.log(1e4) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = time.float()[..., None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def two_layers(width: int, inner: int, out: int, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Two linear layers with an activation between them."""
    return nn.Sequential(nn.Linear(width, inner), act(), nn.Linear(inner, out))
