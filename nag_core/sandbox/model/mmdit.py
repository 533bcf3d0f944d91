"""A multimodal diffusion transformer of Flux's layout, small enough for one CPU core.

Double blocks keep weights of their own for text and image, single blocks run both as one sequence; in either,
text and image attend to each other in the order [text, image]. It predicts the velocity of rectified flow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import timestep_embedding, velocity

# q, k, v (B, H, N, D), rotated, to heads merged (B, N, H*D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Modulation = tuple[Tensor, Tensor, Tensor]

HEAD_AXES = (8, 12, 12)  # of a head's channels: those that turn with the text's position, the row, the column


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, N, H*D) from q, k, v (B, H, N, D)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotations(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, D/2) of the angles of positions (N, 3): text, row, column."""
    angles = []
    for axis, channels in enumerate(HEAD_AXES):
        frequencies = 100.0 ** -(torch.arange(0, channels, 2, device=ids.device) / channels)
        angles.append(ids[:, axis, None].float() * frequencies)
    joined = torch.cat(angles, dim=1)
    return joined.cos(), joined.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs of channels of x (B, H, N, D) turned by their token's angles."""
    (cos, sin), (a, b) = turn, x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(3)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, C), normed, scaled and shifted by (B, 1, C)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Heads(nn.Module):
    """One linear to queries, keys and values, split into heads, queries and keys normed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.Parameter(torch.ones(2, width // heads))

    def forward(self, x: Tensor) -> Modulation:
        """x (B, N, C) -> q, k, v (B, H, N, D)."""
        return self.split(self.qkv(x))

    def split(self, qkv: Tensor) -> Modulation:
        """(B, N, 3C) -> q, k, v (B, H, N, D)."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (*(F.rms_norm(x, x.shape[-1:], g, 1e-6) for x, g in zip((q, k), self.norm, strict=True)), v)


class Stream(nn.Module):
    """Half of a double block: everything of it but the attention, for text or for image."""

    def __init__(self, width: int, heads: int, vector: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(vector, 6 * width)
        self.heads = Heads(width, heads)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def modulations(self, vec: Tensor) -> tuple[Modulation, Modulation]:
        """(shift, scale, gate) for attention and for MLP, each (B, 1, C), from vec (B, V)."""
        parts = self.modulation(F.silu(vec))[:, None].chunk(6, dim=-1)
        return parts[:3], parts[3:]

    def finish(self, x: Tensor, attended: Tensor, first: Modulation, second: Modulation) -> Tensor:
        """x (B, N, C) after the attention's and the MLP's residuals."""
        x = x + first[2] * self.proj(attended)
        return x + second[2] * self.mlp(modulated(x, *second[:2]))


class DoubleBlock(nn.Module):
    """Text and image with weights of their own, attending to each other."""

    def __init__(self, width: int, heads: int, vector: int) -> None:
        super().__init__()
        self.img, self.txt = Stream(width, heads, vector), Stream(width, heads, vector)

    def forward(
        self, img: Tensor, txt: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor], attend: Attend
    ) -> tuple[Tensor, Tensor]:
        """img (B, N, C) and txt (B, T, C) after the block."""
        img_first, img_second = self.img.modulations(vec)
        txt_first, txt_second = self.txt.modulations(vec)
        of_txt = self.txt.heads(modulated(txt, *txt_first[:2]))
        of_img = self.img.heads(modulated(img, *img_first[:2]))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(of_txt, of_img, strict=True))
        out = attend(rotate(q, turn), rotate(k, turn), v)
        length = txt.shape[1]
        img = self.img.finish(img, out[:, length:], img_first, img_second)
        return img, self.txt.finish(txt, out[:, :length], txt_first, txt_second)


class SingleBlock(nn.Module):
    """Text and image as one sequence; attention and MLP side by side."""

    def __init__(self, width: int, heads: int, vector: int) -> None:
        super().__init__()
        self.width = width
        self.modulation = nn.Linear(vector, 3 * width)
        self.heads = Heads(width, heads)
        self.mlp = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(5 * width, width)

    def forward(self, x: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """x (B, T + N, C) after the block."""
        shift, scale, gate = self.modulation(F.silu(vec))[:, None].chunk(3, dim=-1)
        n = modulated(x, shift, scale)
        q, k, v = self.heads(n)
        out = attend(rotate(q, turn), rotate(k, turn), v)
        return x + gate * self.proj(torch.cat((out, F.gelu(self.mlp(n), approximate="tanh")), dim=-1))


class FinalLayer(nn.Module):
    """Image tokens to patches of the picture."""

    def __init__(self, width: int, vector: int, values: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(vector, 2 * width)
        self.linear = nn.Linear(width, values)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        """x (B, N, C) -> (B, N, values)."""
        return self.linear(modulated(x, *self.modulation(F.silu(vec))[:, None].chunk(2, dim=-1)))


class MMDiT(nn.Module):
    """Two double and three single blocks over patches of 4 x 4; any picture whose sides are multiples of 4.

    `attend` is the attention that every block calls; a host's stand-in hands in its own.
    """

    patch_size = 4

    def __init__(
        self, attend: Attend = attention, channels: int = 3, width: int = 96, context_width: int = 64
    ) -> None:
        super().__init__()
        heads, vector, values = width // sum(HEAD_AXES), 64, channels * self.patch_size**2
        self.attend, self.vector = attend, vector
        self.img_in, self.txt_in = nn.Linear(values, width), nn.Linear(context_width, width)
        self.time_in = nn.Sequential(nn.Linear(vector, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.vector_in = nn.Sequential(nn.Linear(context_width, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads, vector) for _ in range(2))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads, vector) for _ in range(3))
        self.final_layer = FinalLayer(width, vector, values)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor) -> Tensor:
        """Velocity (B, 3, H, W) at x (B, 3, H, W) and timesteps (B,) in [0, 1], 1 being noise.

        context: (B, T, C) text tokens, all at position zero, as Flux's. y: (B, C) the text's pooled vector.
        """
        (img, txt, turn), vec = self.tokens(x, context), self.temb(timesteps, y)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, turn, self.attend)
        joined = torch.cat((txt, img), dim=1)
        for block in self.single_blocks:
            joined = block(joined, vec, turn, self.attend)
        return self.answer(x, timesteps, joined[:, txt.shape[1] :], vec)

    def tokens(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Image tokens (B, N, C) of x, text tokens (B, T, C) of the context, and the angles of both.

        Raises ValueError where x is no whole number of patches.
        """
        side = self.patch_size
        if x.shape[-2] % side or x.shape[-1] % side:
            raise ValueError(f"height and width must be multiples of {side}, not {tuple(x.shape[-2:])}")
        places = _positions(context.shape[1], x.shape[-2] // side, x.shape[-1] // side, x.device)
        img, txt = self.img_in(F.pixel_unshuffle(x, side).flatten(2).transpose(1, 2)), self.txt_in(context)
        img = img + _places(places[txt.shape[1] :, 1:], img.shape[-1]).to(img)
        return img, txt, rotations(places)

    def temb(self, timesteps: Tensor, y: Tensor) -> Tensor:
        """What modulates every token, (B, V): of the time (B,) and the pooled vector y (B, C)."""
        return self.time_in(timestep_embedding(timesteps, self.vector).to(y)) + self.vector_in(y)

    def answer(self, x: Tensor, timesteps: Tensor, img: Tensor, vec: Tensor) -> Tensor:
        """Velocity (B, 3, H, W) at x of that shape, of the last block's image tokens (B, N, C)."""
        grid = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
        patches = self.final_layer(img, vec).transpose(1, 2).unflatten(2, grid)
        return velocity(x, F.pixel_shuffle(patches, self.patch_size), timesteps)


def _places(ids: Tensor, width: int) -> Tensor:
    """Sines and cosines (N, width) of rows and columns (N, 2), added to the image tokens as SD3 does.

    Flux does without; so short a training would not find the middle of the picture by rotations alone.
    """
    channels = width // 4
    frequencies = 100.0 ** -(torch.arange(channels, device=ids.device) / channels)
    angles = (ids[..., None].float() * frequencies).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _positions(text: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(text + rows * columns, 3): zeros for the text, (0, row, column) for the image."""
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    column = torch.arange(columns, device=device).repeat(rows)
    image = torch.stack((torch.zeros_like(row), row, column), dim=1)
    return torch.cat((image.new_zeros(text, 3), image))
