"""Which rows of a batched attention call belong to a prompt (not to the uncond), and to which image of the
job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One conditional row of the call and the image of the batch it draws."""

    row: int
    image: int


def conditional_rows(
    rows: int, cond_or_uncond: Sequence[int], images: int, tiled: bool = False, regional: bool = False
) -> list[Row] | None:
    """The conditional rows of a call of `rows` rows, None for a layout nobody knows (never guess: swapped
    rows would guide the uncond silently).

    cond_or_uncond: one mark per chunk of `images` rows, 0 cond, 1 uncond (hosts.md B 2.3).
    tiled: MultiDiffusion repeats the whole arrangement per tile, tile-major, without telling (B 2.4).
    regional: an attn2 patch may have repeated every cond chunk and added a filler row behind (Forge Couple).
    """
    arrangement = len(cond_or_uncond) * images
    if arrangement == 0:
        return None
    if rows == arrangement or (tiled and rows % arrangement == 0):
        return [
            Row(row, row % images) for row in range(rows) if cond_or_uncond[row % arrangement // images] == 0
        ]
    uncond = sum(1 for mark in cond_or_uncond if mark == 1)
    uncond_first = all(mark == 1 for mark in cond_or_uncond[:uncond])
    if regional and uncond_first and rows > arrangement:
        first = uncond * images
        return [Row(row, (row - first) % images) for row in range(first, rows)]
    return None


def as_index(rows: Sequence[int]) -> slice | list[int]:
    """A slice where the rows are consecutive (a view, no copy and no index tensor), else the list itself."""
    if rows and rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return list(rows)
