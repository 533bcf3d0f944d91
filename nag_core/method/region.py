"""Where in the picture NAG acts: a mask, feathered, brought to each layer's token grid. Torch only."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

F = torch.nn.functional

LATENT_PIXELS = 8  # pixels of the picture to a latent pixel and side
COARSEST = 64  # latent pixels to a token and side


class Spot(NamedTuple):
    """The tokens of one grid that are guided: `index` (n,) int64, and `weight` (n, 1) fp32 in (0, 1], None
    where all are 1.
    """

    index: Tensor
    weight: Tensor | None

    def blend(self, pos: Tensor, guided: Tensor) -> Tensor:
        """`guided` by the weights, `pos` for the rest; (rows, n, channels) in the dtype of `pos`.

        Two weights that sum to 1, in at least fp32: a difference of finite values could overflow.
        """
        if self.weight is None:
            return guided
        work = torch.promote_types(pos.dtype, torch.float32)
        weight = self.weight.to(work)
        return (guided.to(work) * weight + pos.to(work) * (1 - weight)).to(pos.dtype)


def token_grid(tokens: int, height: int, width: int) -> int | None:
    """How many latent pixels a token of this layer covers along each side, None where no power of two fits.

    height, width: of the latent. Every halving rounds up, as a network's strided convolutions and paddings
    do.
    """
    side = 1
    while side <= COARSEST:
        if -(-height // side) * -(-width // side) == tokens:
            return side
        side *= 2
    return None


def feathered(mask: Tensor, radius: int) -> Tensor:
    """`mask` (h, w) in [0, 1] falling off over `radius` cells inwards from its edge; the picture's border is
    no edge. Never wider than the mask: what is outside stays outside. A radius of 1 or less returns `mask`
    itself.
    """
    if radius <= 1:
        return mask
    total, eroded = mask.clone(), mask[None, None]
    for _ in range(radius - 1):
        eroded = -F.max_pool2d(-eroded, 3, stride=1, padding=1)
        total += eroded[0, 0]
    return total / radius


@dataclass(slots=True)
class Region:
    """The mask of one pass. mask: (H, W) fp32 on the CPU, 1 where NAG acts, stretched over the picture
    whatever its size. feather: pixels of the picture.

    Each grid is made once, on the CPU, so that no layer waits for the device.
    """

    mask: Tensor
    feather: float = 0.0
    spots: dict[Hashable, Spot | None] = field(default_factory=dict)

    def on(self, size: tuple[int, int], side: int, device: torch.device) -> Spot | None:
        """The tokens of `side` x `side` latent pixels each, of a latent of that size; None for none at
        all.
        """
        key = (size, side, device)
        if key not in self.spots:
            self.spots[key] = self._spot(size, side, device)
        return self.spots[key]

    def _spot(self, size: tuple[int, int], side: int, device: torch.device) -> Spot | None:
        latent = feathered(_resized(self.mask, size), round(self.feather / LATENT_PIXELS))
        cells = F.avg_pool2d(latent[None, None], side, ceil_mode=True, count_include_pad=False).flatten()
        index = cells.nonzero().flatten()
        if not len(index):
            return None
        weight = cells[index].clamp(0, 1)[:, None]
        whole = bool((weight == 1).all())
        return Spot(index.to(device), None if whole else weight.to(device))


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """`mask` in another size: what a cell covers on average. Nearest where it grows: an edge stays one."""
    height, width = size
    grown = (max(height, mask.shape[0]), max(width, mask.shape[1]))
    mask = F.interpolate(mask[None, None].float(), grown, mode="nearest-exact")
    return F.adaptive_avg_pool2d(mask, size)[0, 0]
