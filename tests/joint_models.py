"""Two small joint-attention models written for the tests, with the outside that hosts' models have: blocks
that look their attention up among a module's globals. FluxLike has double and single blocks, rotary positions
and a pooled vector; Sd3Like has a second attention among image tokens alone in its first blocks, and a last
block that drops the text.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

HEADS, WIDTH, CONTEXT, POOLED = 2, 32, 12, 10
HEAD = WIDTH // HEADS


def attention_function(q, k, v, heads, mask=None, skip_reshape=False):
    """Heads split on the way in, merged on the way out."""
    assert skip_reshape
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(len(q), -1, heads * q.shape[-1])


def attention(q, k, v, heads, mask=None):
    """Heads merged on both sides; as in the host, v may come with its heads split."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def split(qkv):
    """(B, N, 3*C) to three (B, H, N, D)."""
    return qkv.unflatten(-1, (3, HEADS, HEAD)).permute(2, 0, 3, 1, 4)


def positions(height, width, text, dtype):
    """Angles (1, 1, tokens, D/2), text first: zero for text, row and column for the image."""
    rows, columns = torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype)
    grid = torch.stack([rows.repeat_interleave(width), columns.repeat(height)], -1)
    grid = torch.cat([torch.zeros(text, 2, dtype=dtype), grid])
    frequency = 10.0 ** -torch.arange(HEAD // 4, dtype=dtype)
    return (grid[:, :, None] * frequency).flatten(1)[None, None]


def rotate(x, angles):
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Stream(nn.Module):
    """One token stream of a block: modulation by the vector, attention's linears, MLP."""

    def __init__(self, second=False, last=False):
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        widths = (3 * WIDTH, WIDTH) if second else ()
        self.seconds = nn.ModuleList(nn.Linear(WIDTH, width) for width in widths)
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.last = last

    def modulated(self, x, vec):
        shift, scale = self.modulation(vec)[:, None].chunk(6, -1)[:2]
        return self.norm(x) * (1 + scale) + shift

    def heads(self, x, vec):
        q, k, v = split(self.qkv(self.modulated(x, vec)))
        return nn.functional.normalize(q, dim=-1) * 4, nn.functional.normalize(k, dim=-1) * 4, v

    def out(self, x, attended, vec, second=None):
        gate, shift, scale, gate2 = self.modulation(vec)[:, None].chunk(6, -1)[2:]
        x = x + gate * self.proj(attended)
        if second is not None:
            x = x + gate * self.seconds[1](second)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale) + shift)


class DoubleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.img, self.txt = Stream(), Stream()

    def forward(self, img, txt, vec, pe):
        parts = zip(self.txt.heads(txt, vec), self.img.heads(img, vec), strict=True)
        q, k, v = (torch.cat(pair, dim=2) for pair in parts)
        out = attention_function(rotate(q, pe), rotate(k, pe), v, HEADS, skip_reshape=True)
        text = txt.shape[1]
        return self.img.out(img, out[:, text:], vec), self.txt.out(txt, out[:, :text], vec)


class SingleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.modulation, self.norm = (
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.LayerNorm(WIDTH, elementwise_affine=False),
        )
        self.linear1, self.linear2 = nn.Linear(WIDTH, 5 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def heads(self, x, vec):
        shift, scale, _ = self.modulation(vec)[:, None].chunk(3, -1)
        qkv, mlp = self.linear1(self.norm(x) * (1 + scale) + shift).split([3 * WIDTH, 2 * WIDTH], -1)
        q, k, v = split(qkv)
        return nn.functional.normalize(q, dim=-1) * 4, nn.functional.normalize(k, dim=-1) * 4, v, mlp

    def out(self, x, attended, mlp, vec):
        gate = self.modulation(vec)[:, None].chunk(3, -1)[2]
        return x + gate * self.linear2(torch.cat((attended, nn.functional.gelu(mlp)), -1))

    def forward(self, x, vec, pe):
        q, k, v, mlp = self.heads(x, vec)
        out = attention_function(rotate(q, pe), rotate(k, pe), v, HEADS, skip_reshape=True)
        return self.out(x, out, mlp, vec)


class JointBlock(nn.Module):
    """SD3's block: `dual` adds an attention among the image tokens alone."""

    def __init__(self, dual, last):
        super().__init__()
        self.img, self.txt, self.dual = Stream(second=dual), Stream(last=last), dual

    def forward(self, img, txt, vec):
        parts = list(zip(self.txt.heads(txt, vec), self.img.heads(img, vec), strict=True))
        q, k, v = (torch.cat(pair, dim=2).transpose(1, 2) for pair in parts)
        out = attention(q.flatten(2), k.flatten(2), v, HEADS)
        second = self.second(img, vec) if self.dual else None
        text = txt.shape[1]
        img = self.img.out(img, out[:, text:], vec, second)
        return img, None if self.txt.last else self.txt.out(txt, out[:, :text], vec)

    def second(self, img, vec):
        q, k, v = split(self.img.seconds[0](self.img.modulated(img, vec)))
        return attention(*(x.transpose(1, 2).flatten(2) for x in (q, k, v)), HEADS)


class JointModelBase(nn.Module):
    patch_size = 2

    def __init__(self):
        super().__init__()
        self.img_in, self.txt_in = nn.Linear(16, WIDTH), nn.Linear(CONTEXT, WIDTH)
        self.vec_in, self.final = nn.Linear(POOLED, WIDTH), nn.Linear(WIDTH, 16)

    def vector(self, timestep, y):
        return self.vec_in(y) + timestep[:, None].to(y.dtype)

    def tokens(self, x):
        return self.img_in(nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))

    def picture(self, img, x):
        grid = self.final(img).transpose(1, 2).unflatten(2, (x.shape[2] // 2, x.shape[3] // 2))
        return nn.functional.pixel_shuffle(grid, 2)


class FluxLike(JointModelBase):
    def __init__(self):
        super().__init__()
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(2))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(3))

    def angles(self, x, text):
        return positions(x.shape[2] // 2, x.shape[3] // 2, text, torch.float64)

    def forward(self, x, timestep, context, y, **_):
        img, txt, vec = self.tokens(x), self.txt_in(context), self.vector(timestep, y)
        pe = self.angles(x, txt.shape[1])
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, pe)
        img = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            img = self.single(block, img, vec, pe)
        return self.picture(img[:, txt.shape[1] :], x)

    def single(self, block, img, vec, pe):
        return block(img, vec, pe)


dynamic_args = SimpleNamespace(ref_latents=[])  # where the networks' own module looks for them


class FluxEdit(FluxLike):
    """With the tokens of reference images, (1, 4, H, W) each, beside the picture's, as in Neo's networks."""

    default_ref_method = "offset"
    in_front = False

    def images(self, x):
        images = [x, *(one.to(x).expand(len(x), -1, -1, -1) for one in dynamic_args.ref_latents)]
        return images[1:] + images[:1] if self.in_front else images

    def tokens(self, x):
        return torch.cat([FluxLike.tokens(self, one) for one in self.images(x)], dim=1)

    def angles(self, x, text):
        parts = [FluxLike.angles(self, one, 0) + 0.7 * (one is not x) for one in self.images(x)]
        zero = parts[0].new_zeros(1, 1, text, parts[0].shape[3])
        return torch.cat([zero, *parts], dim=2)

    def picture(self, img, x):
        return FluxLike.picture(self, img[:, self.own(x)], x)

    def own(self, x):
        """Where the picture's tokens are among the image's."""
        tokens = [one.shape[2] * one.shape[3] // 4 for one in self.images(x)]
        return slice(sum(tokens[:-1]), None) if self.in_front else slice(0, tokens[0])


class FluxEditInFront(FluxEdit):
    in_front = True


class FluxEditByParts(FluxEdit):
    """It runs the parts of its last blocks without their forward, as Neo's Krea does with references."""

    def single(self, block, img, vec, pe):
        return SingleBlock.forward(block, img, vec, pe)


class Sd3Like(JointModelBase):
    def __init__(self):
        super().__init__()
        self.joint_blocks = nn.ModuleList(JointBlock(dual=i < 2, last=i == 2) for i in range(3))

    def forward(self, x, timestep, context, y, transformer_options=None, **_):
        img, txt, vec = self.tokens(x), self.txt_in(context), self.vector(timestep, y)
        skipped = (transformer_options or {}).get("skip_layers", [])
        for i, block in enumerate(self.joint_blocks):
            if i not in skipped:
                img, txt = block(img, txt, vec)
        return self.picture(img, x)


def build(kind, dtype=torch.float64):
    """A seeded model; weights large enough that attention shapes the result."""
    torch.manual_seed(3)
    model = kind().to(torch.float64)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model.to(dtype).requires_grad_(False)
