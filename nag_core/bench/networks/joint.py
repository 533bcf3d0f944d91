"""Networks whose attention is over text and picture together: Flux, Chroma, SD3.5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nag_core.bench.networks.parts import (
    Attention,
    FeedForward,
    Modulation,
    Rotation,
    TimeEmbedding,
    normed,
    rotation,
    two_layers,
)

F = nn.functional


class DoubleBlock(nn.Module):
    """Two streams that meet in the attention. last: the text's ends here (SD3.5's last block)."""

    def __init__(self, width: int, heads: int, last: bool = False, modulated: bool = True) -> None:
        super().__init__()
        self.attn = Attention(width, heads, qk_norm="head", added=True, pre_only=last)
        self.modulation = Modulation(width, 6) if modulated else None
        self.text_modulation = Modulation(width, 2 if last else 6) if modulated else None
        self.ff, self.text_ff = FeedForward(width), None if last else FeedForward(width)

    def forward(
        self, x: Tensor, text: Tensor, embedding: Tensor, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """embedding: (B, width), or (B, 12, width) of a block that has no modulation of its own (Chroma).
        Returns text and picture.
        """
        if self.modulation is None:
            both = embedding.chunk(12, dim=1)
            shift, scale, gate, ff_shift, ff_scale, ff_gate = both[:6]
            t_mod = both[6:]
        else:
            shift, scale, gate, ff_shift, ff_scale, ff_gate = self.modulation(embedding)
            t_mod = self.text_modulation(embedding)
        out, text_out = self.attn(normed(x, scale, shift), normed(text, t_mod[1], t_mod[0]), rotation)
        x = x + gate * out
        x = x + ff_gate * self.ff(normed(x, ff_scale, ff_shift))
        if self.text_ff is None:
            return None, x
        text = text + t_mod[2] * text_out
        return text + t_mod[5] * self.text_ff(normed(text, t_mod[4], t_mod[3])), x


class SingleBlock(nn.Module):
    """One stream; attention and feed-forward side by side."""

    def __init__(self, width: int, heads: int, modulated: bool = True) -> None:
        super().__init__()
        self.attn = Attention(width, heads, qk_norm="head", out=False)
        self.modulation = Modulation(width, 3) if modulated else None
        self.ff, self.out = nn.Linear(width, 4 * width), nn.Linear(5 * width, width)

    def forward(self, x: Tensor, embedding: Tensor, rotation: Rotation) -> Tensor:
        parts = embedding.chunk(3, dim=1) if self.modulation is None else self.modulation(embedding)
        shift, scale, gate = parts
        h = normed(x, scale, shift)
        both = torch.cat((self.attn(h, None, rotation), F.gelu(self.ff(h), approximate="tanh")), dim=2)
        return x + gate * self.out(both)


class Flux(nn.Module):
    """guidance: Flux-dev's embedding of it. chroma: no pooled text, and one small network makes the
    modulations of all blocks.
    """

    def __init__(
        self, doubles: int, singles: int, heads: int, guidance: bool = False, chroma: int = 0
    ) -> None:
        super().__init__()
        width = 128 * heads
        self.x_in, self.text_in = nn.Linear(64, width), nn.Linear(4096, width)
        self.counts = (doubles, singles)
        if chroma:
            self.modulations = Approximator(chroma, width)
        else:
            self.time, self.pooled = TimeEmbedding(width), two_layers(768, width, width)
            self.guidance = TimeEmbedding(width) if guidance else None
            self.norm_out = Modulation(width, 2)
        self.doubles = nn.ModuleList(DoubleBlock(width, heads, modulated=not chroma) for _ in range(doubles))
        self.singles = nn.ModuleList(SingleBlock(width, heads, modulated=not chroma) for _ in range(singles))
        self.out = nn.Linear(width, 64)

    def forward(self, x: Tensor, context: Tensor, time: Tensor, pooled: Tensor | None = None) -> Tensor:
        """x (B, tokens, 64), context (B, text, 4096), time (B,), pooled (B, 768), None for Chroma."""
        each, last = self._embeddings(time, pooled)
        x, text = self.x_in(x), self.text_in(context)
        tokens = context.shape[1]
        turn = rotation(tokens + x.shape[1], 128, x.device, tokens)
        for block in self.doubles:
            text, x = block(x, text, next(each), turn)
        x = torch.cat((text, x.expand(text.shape[0], -1, -1)), dim=1)
        for block in self.singles:
            x = block(x, next(each), turn)
        return self.out(normed(x[:, tokens:], *last))

    def _embeddings(self, time, pooled):
        doubles, singles = self.counts
        if pooled is None:
            made = self.modulations(time, 3 * singles + 12 * doubles + 2)
            sizes = [12] * doubles + [3] * singles + [1, 1]
            *each, scale, shift = made.split(sizes, dim=1)
            return iter(each), (scale, shift)
        embedding = self.time(time) + self.pooled(pooled)
        if self.guidance is not None:
            embedding = embedding + self.guidance(time)
        return iter([embedding] * (doubles + singles)), self.norm_out(embedding)


class Approximator(nn.Module):
    """Chroma's: time to the modulations of all blocks, (B, parts, width)."""

    def __init__(self, inner: int, width: int, layers: int = 5) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, inner), nn.Linear(inner, width)
        self.layers = nn.ModuleList(two_layers(inner, inner, inner) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(inner) for _ in range(layers))

    def forward(self, time: Tensor, parts: int) -> Tensor:
        x = time[:, None, None].expand(-1, parts, 64).to(self.first.weight.dtype)
        x = self.first(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        return self.last(x)


class SD3(nn.Module):
    """SD3.5 Large: no second attention among the picture's tokens."""

    def __init__(self, depth: int, heads: int) -> None:
        super().__init__()
        width = 64 * heads
        self.x_in, self.text_in = nn.Conv2d(16, width, 2, stride=2), nn.Linear(4096, width)
        self.time, self.pooled = TimeEmbedding(width), two_layers(2048, width, width)
        self.doubles = nn.ModuleList(DoubleBlock(width, heads, last=n == depth - 1) for n in range(depth))
        self.norm_out, self.out = Modulation(width, 2), nn.Linear(width, 64)

    def forward(self, x: Tensor, context: Tensor, pooled: Tensor, time: Tensor) -> Tensor:
        """x (B, 16, h, w), context (B, text, 4096), pooled (B, 2048), time (B,)."""
        embedding = self.time(time) + self.pooled(pooled)
        x, text = self.x_in(x).flatten(2).transpose(1, 2), self.text_in(context)
        for block in self.doubles:
            text, x = block(x, text, embedding)
        return self.out(normed(x, *self.norm_out(embedding)))
