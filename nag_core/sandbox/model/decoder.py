"""The exact decoder: which picture of the world is nearest, and is it near enough to be one.

There is no classifier. Every shape, colour, ground, frame and a grid of centres and radii is compared with
the picture by squared error, then the best one is refined between the grid points.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .world import (
    CENTRE,
    COLOURS,
    GROUNDS,
    RADIUS,
    SHAPES,
    SIZE,
    Attributes,
    coverage,
    frame_mask,
    palette,
    render,
)

# Root mean square error in the worst zone, of values in [-1, 1], up to which a picture is one of the world.
TOLERANCE = 0.2
# Squared contrast of red on gray.
USUAL_CONTRAST = 0.64


@dataclass(frozen=True)
class Decoded:
    """The nearest attributes, the `error` (n,) in the worst zone and `valid` (n,) bool."""

    attributes: Attributes
    valid: Tensor
    error: Tensor


@lru_cache(maxsize=1)
def _bank() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks (k, 1024) of the grid with their shapes (k,), centres (k, 2) and radii (k,)."""
    places = torch.arange(CENTRE[0] - 1, CENTRE[1] + 1.01, 0.5)
    radii = torch.arange(RADIUS[0] - 1, RADIUS[1] + 1.01, 0.5)
    kinds = torch.arange(len(SHAPES), dtype=places.dtype)
    rows = torch.cartesian_prod(kinds, places, places, radii)
    shape, centre, radius = rows[:, 0].long(), rows[:, 1:3], rows[:, 3]
    inside = ~frame_mask()
    return (coverage(shape, centre, radius) * inside).flatten(1), shape, centre, radius


def decode(images: Tensor, batch: int = 64) -> Decoded:
    """Nearest attributes of pictures (n, 3, 32, 32) in [-1, 1], and which of them are valid pictures."""
    if images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"pictures are (n, 3, {SIZE}, {SIZE}), not {tuple(images.shape)}")
    found, errors = [], []
    with torch.no_grad():
        for chunk in images.float().split(batch):
            attributes, centre, radius = _nearest(chunk)
            found.append(attributes)
            errors.append(_refine(chunk, attributes, centre, radius))
    names = [field.name for field in fields(Attributes)]
    joined = Attributes(*(torch.cat([getattr(part, name) for part in found]) for name in names))
    error = torch.cat(errors)
    return Decoded(joined, error <= TOLERANCE, error)


def _nearest(images: Tensor) -> tuple[Attributes, Tensor, Tensor]:
    """Attributes (n,), centres (n, 2) and radii (n,) on the grid with the least squared error."""
    masks, shapes, centres, radii = _bank()
    best = torch.full((len(images),), torch.inf)
    choice = torch.zeros(len(images), 4, dtype=torch.long)
    overlap = images.flatten(2) @ masks.T  # (n, 3, k)
    area, square = masks.sum(1), masks.square().sum(1)
    colours, grounds, frame = palette()
    for ground, framed, colour in itertools.product(range(len(GROUNDS)), (0, 1), range(len(COLOURS))):
        backdrop = grounds[ground][:, None, None].expand(3, SIZE, SIZE)
        if framed:
            backdrop = torch.where(frame_mask(), frame[:, None, None], backdrop)
        # |I - B - m d|^2 = |I - B|^2 - 2 m.(I - B)d + |m|^2 |d|^2, with B = ground wherever m > 0
        step = colours[colour] - grounds[ground]
        product = torch.einsum("nck,c->nk", overlap, step) - area * (grounds[ground] @ step)
        error = square * step.square().sum() - 2 * product
        error, index = error.min(1)
        error = error + (images - backdrop).square().sum((1, 2, 3))
        better = error < best
        best = torch.where(better, error, best)
        found = torch.stack((index, *(torch.full_like(index, v) for v in (colour, ground, framed))), 1)
        choice = torch.where(better[:, None], found, choice)
    index, colour, ground, framed = choice.unbind(1)
    return Attributes(shapes[index], colour, ground, framed.bool()), centres[index], radii[index]


def _refine(images: Tensor, attributes: Attributes, centre: Tensor, radius: Tensor) -> Tensor:
    """Error (n,) of the best picture after moving centre and radius by up to a quarter of a pixel."""
    colours, grounds, _ = palette()
    contrast = (colours[attributes.colour] - grounds[attributes.ground]).square().mean(1)
    best = torch.full((len(images),), torch.inf)
    for dx, dy, dr in itertools.product((-0.25, 0.0, 0.25), repeat=3):
        moved, grown = centre + torch.tensor((dx, dy)), radius + dr
        difference = (images - render(attributes, moved, grown)).square().mean(1)
        mask = coverage(attributes.shape, moved, grown)
        best = torch.minimum(best, _worst_zone(difference, mask, contrast))
    return best.sqrt()


def _worst_zone(difference: Tensor, mask: Tensor, contrast: Tensor) -> Tensor:
    """Largest mean (n,) of squared differences (n, 32, 32) in the shape, close around it, or elsewhere.

    A shape covers a fifth of a picture: over all pixels a wrong or missing one would weigh too little. The
    same misplaced edge costs white on black more than red on gray: above the latter's contrast (n,), the
    squared one of shape and ground, differences along the edge are relative to it.
    """
    near = F.max_pool2d(mask[:, None], 7, 1, 3)[:, 0]
    relative = difference / (contrast / USUAL_CONTRAST).clamp_min(1)[:, None, None]
    zones = ((relative, mask), (relative, near - mask), (difference, 1 - near))
    means = [(values * zone).sum((1, 2)) / zone.sum((1, 2)).clamp_min(1) for values, zone in zones]
    return torch.stack(means).amax(0)
