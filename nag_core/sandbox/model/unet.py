"""A UNet of latent-diffusion layout, small enough for one CPU core, with the hook points of WebUI hosts.

Its transformer blocks read `transformer_options` as the hosts' blocks do, so a patch written for a host's
attn1 and attn2 runs here unchanged. It predicts the velocity of rectified flow.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Options = dict[str, Any]
Key = tuple[str, int]
Control = dict[str, list[Tensor | None]]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of q (B, N, heads*d) over k, v (B, T, heads*d), heads merged: (B, N, heads*d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sines and cosines (B, width) of timesteps (B,) in [0, 1]."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * 1000 * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def velocity(x: Tensor, picture: Tensor, timesteps: Tensor) -> Tensor:
    """What rectified flow's samplers ask for, noise - picture, from the picture (B, 3, H, W) seen in x.

    The networks draw the picture and not the velocity: so small a one has no room to carry all of the noise.
    """
    return (x - picture) / timesteps.to(x).clamp_min(1e-3)[:, None, None, None]


class Attention(nn.Module):
    """Multi-head attention to a context, or to the input itself without one."""

    def __init__(self, width: int, context_width: int, heads: int, dim_head: int) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.dim_head = heads, dim_head
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width, inner, bias=False)
        self.to_v = nn.Linear(context_width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """x (B, N, width), context and value (B, T, context_width) -> (B, N, width)."""
        context = x if context is None else context
        value = context if value is None else value
        return self.to_out(attention(self.to_q(x), self.to_k(context), self.to_v(value), self.heads))


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each with norm and residual, open to the hosts' hooks."""

    def __init__(self, width: int, context_width: int, heads: int = 2) -> None:
        super().__init__()
        dim_head = width // heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, heads, dim_head)
        self.attn2 = Attention(width, context_width, heads, dim_head)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, context: Tensor, transformer_options: Options) -> Tensor:
        """x (B, N, width) image tokens, context (B, T, C) -> (B, N, width)."""
        # Hooks get one fresh dict a block, as on the hosts: what they write in it reaches no other block.
        extra = {k: v for k, v in transformer_options.items() if k not in ("patches", "patches_replace")}
        extra.update(n_heads=self.attn1.heads, dim_head=self.attn1.dim_head)
        x = x + _hooked("attn1", self.attn1, self.norm1(x), None, transformer_options, extra)
        x = x + _hooked("attn2", self.attn2, self.norm2(x), context, transformer_options, extra)
        return x + self.ff(self.norm3(x))


def _hooked(
    name: str, module: Attention, n: Tensor, context: Tensor | None, options: Options, extra: Options
) -> Tensor:
    """Output of one attention module under the patches, the replacement and the output patches for it.

    The replacement sits between to_q, to_k, to_v and to_out, is looked up under (block, number, index) and
    then (block, number), and without any hook the module's own forward runs.
    """
    patches = options.get("patches", {})
    value = None
    for patch in patches.get(f"{name}_patch", ()):
        context = n if context is None else context
        value = context if value is None else value
        n, context, value = patch(n, context, value, extra)
    replacements = options.get("patches_replace", {}).get(name, {})
    block: Key = options["block"]
    replace = replacements.get((*block, options["block_index"])) or replacements.get(block)
    if replace is None:
        n = module(n, context, value)
    else:
        context = n if context is None else context
        value = context if value is None else value
        n = module.to_out(replace(module.to_q(n), module.to_k(context), module.to_v(value), extra))
    for patch in patches.get(f"{name}_output_patch", ()):
        n = patch(n, extra)
    return n


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with a residual around them."""

    def __init__(self, width: int, context_width: int, heads: int = 2, depth: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(width, context_width, heads) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, transformer_options: Options) -> Tensor:
        """x (B, width, h, w), context (B, T, C) -> (B, width, h, w)."""
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (B, h*w, width)
        for index, block in enumerate(self.transformer_blocks):
            transformer_options["block_index"] = index
            tokens = block(tokens, context, transformer_options)
            transformer_options["transformer_index"] += 1
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class ResBlock(nn.Module):
    """Two convolutions with the time embedding between them."""

    def __init__(self, channels: int, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(embedding, width)
        self.skip = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, h, w), embedding (B, E) -> (B, width, h, w)."""
        h = self.conv1(F.silu(self.norm1(x))) + self.time(embedding)[..., None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width, h, w) -> (B, width, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.ModuleList):
    """One entry of input_blocks, middle_block or output_blocks: layers run in order."""

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, transformer_options: Options) -> Tensor:
        """x (B, c, h, w) through every layer, each given what its kind takes."""
        for layer in self:
            if isinstance(layer, SpatialTransformer):
                x = layer(x, context, transformer_options)
            elif isinstance(layer, ResBlock):
                x = layer(x, embedding)
            else:
                x = layer(x)
        return x


def _controlled(h: Tensor, control: Control | None, name: str) -> Tensor:
    """h plus what a ControlNet has for it: input and middle after their blocks, output on the skips."""
    residual = control[name].pop() if control is not None and control.get(name) else None
    return h if residual is None else h + residual


class UNet(nn.Module):
    """Two resolutions (a quarter and an eighth of the picture), cross-attention in seven blocks.

    Cross-attention: input 1, 3; middle 0; output 0, 1, 2, 3. Convolutions quarter the picture first, so that
    one core spends its time where the attention is.
    """

    def __init__(self, channels: int = 3, wide: int = 48, deep: int = 64, context_width: int = 64) -> None:
        super().__init__()
        e, c, stem = 128, context_width, wide // 2
        self.time_embed = nn.Sequential(nn.Linear(wide, e), nn.SiLU(), nn.Linear(e, e), nn.SiLU())

        def pair(inputs: int, width: int) -> list[nn.Module]:
            return [ResBlock(inputs, width, e), SpatialTransformer(width, c)]

        def half(inputs: int, width: int) -> nn.Module:
            return nn.Conv2d(inputs, width, 4, stride=2, padding=1)

        self.input_blocks = nn.ModuleList()
        self.input_blocks.append(Block([half(channels, stem), nn.SiLU(), half(stem, wide)]))
        self.input_blocks.append(Block(pair(wide, wide)))
        self.input_blocks.append(Block([nn.Conv2d(wide, wide, 3, stride=2, padding=1)]))
        self.input_blocks.append(Block(pair(wide, deep)))
        self.middle_block = Block([*pair(deep, deep), ResBlock(deep, deep, e)])
        self.output_blocks = nn.ModuleList()
        self.output_blocks.append(Block(pair(deep + deep, deep)))
        self.output_blocks.append(Block([*pair(deep + wide, deep), Upsample(deep)]))
        self.output_blocks.append(Block(pair(deep + wide, wide)))
        self.output_blocks.append(Block(pair(wide + wide, wide)))
        self.out = nn.Sequential(
            nn.GroupNorm(8, wide), nn.SiLU(), nn.Conv2d(wide, 4 * stem, 3, padding=1), nn.PixelShuffle(2),
            nn.SiLU(), nn.Conv2d(stem, 4 * channels, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        transformer_options: Options | None = None,
        control: Control | None = None,
    ) -> Tensor:
        """Velocity (B, 3, H, W) at x (B, 3, H, W) and timesteps (B,) in [0, 1], 1 being noise.

        context: (B, 77k, C) text. H and W are multiples of 4. The caller's options are not written to, the
        lists of `control` are emptied from their ends, as on the hosts.
        """
        height, width = x.shape[-2:]
        if height % 4 or width % 4:
            raise ValueError(f"height and width must be multiples of 4, not {(height, width)}")
        options = {**(transformer_options or {}), "transformer_index": 0, "original_shape": list(x.shape)}
        embedding = self.time_embed(timestep_embedding(timesteps, self.time_embed[0].in_features).to(x))
        h, skips = x, []
        for number, block in enumerate(self.input_blocks):
            options["block"] = ("input", number)
            h = _controlled(block(h, embedding, context, options), control, "input")
            skips.append(h)
        options["block"] = ("middle", 0)
        h = _controlled(self.middle_block(h, embedding, context, options), control, "middle")
        for number, block in enumerate(self.output_blocks):
            options["block"] = ("output", number)
            skip = _controlled(skips.pop(), control, "output")
            # A halving rounds up; doubled again it can be one wider than it was.
            h = h[..., : skip.shape[2], : skip.shape[3]]
            h = block(torch.cat((h, skip), 1), embedding, context, options)
        return velocity(x, self.out(h), timesteps)
