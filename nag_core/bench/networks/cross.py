"""Transformers with cross-attention over the text: PixArt-Sigma, SANA, Wan."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nag_core.bench.networks.parts import (
    Attention,
    FeedForward,
    Rotation,
    TimeEmbedding,
    normed,
    rotation,
    split_heads,
    two_layers,
)

F = nn.functional


class Table(nn.Module):
    """A block's own summands of the modulations that all blocks share, (B, parts, width) each."""

    def __init__(self, width: int, parts: int = 6) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(1, parts, width) / width**0.5)

    def forward(self, shared: Tensor) -> tuple[Tensor, ...]:
        return (self.own + shared).chunk(self.own.shape[1], dim=1)


class PixArtBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.table = Table(width)
        self.attn1, self.attn2 = (Attention(width, heads) for _ in range(2))
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, shared: Tensor) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.table(shared)
        x = x + gate * self.attn1(normed(x, scale, shift))
        x = x + self.attn2(x, context)
        return x + ff_gate * self.ff(normed(x, ff_scale, ff_shift))


class PixArt(nn.Module):
    def __init__(self, depth: int, heads: int) -> None:
        super().__init__()
        width = 72 * heads
        self.x_in, self.text_in = nn.Conv2d(4, width, 2, stride=2), two_layers(4096, width, width, nn.GELU)
        self.time, self.shared = TimeEmbedding(width), nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(PixArtBlock(width, heads) for _ in range(depth))
        self.table, self.out = Table(width, 2), nn.Linear(width, 32)

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """x (B, 4, h, w), context (B, text, 4096), time (B,)."""
        embedding = self.time(time)
        shared = self.shared(F.silu(embedding)).unflatten(1, (6, -1))
        x, context = self.x_in(x).flatten(2).transpose(1, 2), self.text_in(context)
        for block in self.blocks:
            x = block(x, context, shared)
        shift, scale = self.table(embedding[:, None])
        return self.out(normed(x, scale, shift))


class LinearAttention(nn.Module):
    """Attention without softmax: sums over all keys first (SANA's attn1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(one(x), self.heads).float() for one in (self.to_q, self.to_k, self.to_v))
        q, k = F.relu(q).transpose(2, 3), F.relu(k)
        v = F.pad(v.transpose(2, 3), (0, 0, 0, 1), value=1.0)
        out = (v @ k) @ q
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
        return self.to_out(out.flatten(1, 2).transpose(1, 2).to(x.dtype))


class ConvolvedFeedForward(nn.Module):
    """SANA's: a depthwise convolution between the layers, and a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(2.5 * width)
        self.first, self.last = nn.Conv2d(width, 2 * inner, 1), nn.Conv2d(inner, width, 1, bias=False)
        self.between = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.between(F.silu(self.first(x))).chunk(2, dim=1)
        return self.last(x * F.silu(gate))


class SanaBlock(nn.Module):
    def __init__(self, width: int, heads: int, cross_heads: int) -> None:
        super().__init__()
        self.table = Table(width)
        self.attn1, self.attn2 = LinearAttention(width, heads), Attention(width, cross_heads)
        self.ff = ConvolvedFeedForward(width)

    def forward(self, x: Tensor, context: Tensor, shared: Tensor, size: tuple[int, int]) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.table(shared)
        x = x + gate * self.attn1(normed(x, scale, shift))
        x = x + self.attn2(x, context)
        h = normed(x, ff_scale, ff_shift).unflatten(1, size).permute(0, 3, 1, 2)
        return x + ff_gate * self.ff(h).flatten(2, 3).permute(0, 2, 1)


class Sana(nn.Module):
    def __init__(self, depth: int, heads: int, cross_heads: int) -> None:
        super().__init__()
        width = 112 * cross_heads
        self.x_in = nn.Conv2d(32, width, 1)
        self.text_in, self.text_norm = two_layers(2304, width, width, nn.GELU), nn.RMSNorm(width)
        self.time, self.shared = TimeEmbedding(width), nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(SanaBlock(width, heads, cross_heads) for _ in range(depth))
        self.table, self.out = Table(width, 2), nn.Linear(width, 32)

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """x (B, 32, h, w), context (B, text, 2304), time (B,)."""
        embedding, size = self.time(time), x.shape[2:]
        shared = self.shared(F.silu(embedding)).unflatten(1, (6, -1))
        x, context = self.x_in(x).flatten(2).transpose(1, 2), self.text_norm(self.text_in(context))
        for block in self.blocks:
            x = block(x, context, shared, size)
        shift, scale = self.table(embedding[:, None])
        return self.out(normed(x, scale, shift))


class WanBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.table = Table(width)
        self.attn1, self.attn2 = (Attention(width, heads, qk_norm="width") for _ in range(2))
        self.norm2, self.ff = nn.LayerNorm(width), FeedForward(width, inner)

    def forward(self, x: Tensor, context: Tensor, shared: Tensor, turn: Rotation) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.table(shared)
        x = x + gate * self.attn1(normed(x, scale, shift), None, turn)
        x = x + self.attn2(self.norm2(x), context)
        return x + ff_gate * self.ff(normed(x, ff_scale, ff_shift))


class Wan(nn.Module):
    """Wan2.1, text to video."""

    def __init__(self, depth: int, heads: int, inner: int) -> None:
        super().__init__()
        width = 128 * heads
        self.x_in = nn.Conv3d(16, width, (1, 2, 2), stride=(1, 2, 2))
        self.text_in = two_layers(4096, width, width, nn.GELU)
        self.time, self.shared = TimeEmbedding(width), nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(WanBlock(width, heads, inner) for _ in range(depth))
        self.table, self.out = Table(width, 2), nn.Linear(width, 64)

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """x (B, 16, frames, h, w), context (B, 512, 4096), time (B,)."""
        embedding = self.time(time)
        shared = self.shared(F.silu(embedding)).unflatten(1, (6, -1))
        x, context = self.x_in(x).flatten(2).transpose(1, 2), self.text_in(context)
        turn = rotation(x.shape[1], 128, x.device)
        for block in self.blocks:
            x = block(x, context, shared, turn)
        shift, scale = self.table(embedding[:, None])
        return self.out(normed(x, scale, shift))
