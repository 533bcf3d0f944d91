"""SD1.5's and SDXL's UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nag_core.bench.networks.parts import Attention, FeedForward, TimeEmbedding, sines, two_layers

F = nn.functional
GROUPS = 32


class Residual(nn.Module):
    """Two convolutions and the embedding between them."""

    def __init__(self, width: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm, self.norm_out = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, out)
        self.conv, self.conv_out = nn.Conv2d(width, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.embedding = nn.Linear(embedding, out)
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv(F.silu(self.norm(x))) + self.embedding(F.silu(embedding))[:, :, None, None]
        return self.skip(x) + self.conv_out(F.silu(self.norm_out(h)))


class Block(nn.Module):
    """Attention among the picture's tokens, attention over the text, feed-forward."""

    def __init__(self, width: int, heads: int, text: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, heads, bias=False)
        self.attn2 = Attention(width, heads, context_width=text, bias=False)
        self.ff = FeedForward(width, gated=True)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """`depth` blocks over the tokens of a feature map."""

    def __init__(self, width: int, heads: int, text: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, heads, text) for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, context)
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A residual and, where the level has them, its transformer blocks."""

    def __init__(self, width: int, out: int, embedding: int, heads: int, text: int, depth: int) -> None:
        super().__init__()
        self.residual = Residual(width, out, embedding)
        self.transformer = Transformer(out, heads, text, depth) if depth else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
        x = self.residual(x, embedding)
        return x if self.transformer is None else self.transformer(x, context)


class UNet(nn.Module):
    """widths, heads, depths: by level; depth 0 is a level without attention. added: width of SDXL's pooled
    text and sizes, 0 where there are none.
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        text: int,
        stages: int = 2,
        added: int = 0,
        middle: int | None = None,
    ) -> None:
        super().__init__()
        first, embedding = widths[0], 4 * widths[0]
        self.time = TimeEmbedding(embedding, first)
        self.added = two_layers(added, embedding, embedding) if added else None
        self.conv_in = nn.Conv2d(4, first, 3, padding=1)
        self.down, kept = nn.ModuleList(), [first]
        width = first
        for level, out in enumerate(widths):
            for _ in range(stages):
                self.down.append(Stage(width, out, embedding, heads[level], text, depths[level]))
                width = out
                kept.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
        depth = depths[-1] if middle is None else middle
        self.middle = Stage(width, width, embedding, heads[-1], text, depth)
        self.middle_out = Residual(width, width, embedding)
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(stages + 1):
                self.up.append(Stage(width + kept.pop(), out, embedding, heads[level], text, depths[level]))
                width = out
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, first), nn.Conv2d(first, 4, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        pooled: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        """x (B, 4, h, w), time (B,), context (B, tokens, text), SDXL's pooled (B, 1280) and sizes (B, 6)."""
        embedding = self.time(time)
        if self.added is not None:
            added = torch.cat((pooled, sines(sizes, 256).flatten(1).to(pooled.dtype)), dim=1)
            embedding = embedding + self.added(added)
        x = self.conv_in(x)
        kept = [x]
        for part in self.down:
            x = part(x) if isinstance(part, nn.Conv2d) else part(x, embedding, context)
            kept.append(x)
        x = self.middle_out(self.middle(x, embedding, context), embedding)
        for part in self.up:
            if isinstance(part, nn.Conv2d):
                x = part(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = part(torch.cat((x, kept.pop()), dim=1), embedding, context)
        return self.conv_out(F.silu(self.norm_out(x)))
