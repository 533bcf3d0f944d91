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
    regional: a pair of attn2 patches may have repeated every cond chunk m times and added a filler row behind
        where that makes the sum even (Forge Couple).
    """
    arrangement = len(cond_or_uncond) * images
    if arrangement == 0:
        return None
    if rows == arrangement or (tiled and rows % arrangement == 0):
        return [
            Row(row, row % images) for row in range(rows) if cond_or_uncond[row % arrangement // images] == 0
        ]
    if regional and not tiled:
        return _regional_rows(rows, cond_or_uncond, images)
    return None


def _regional_rows(rows: int, cond_or_uncond: Sequence[int], images: int) -> list[Row] | None:
    """Everything behind the uncond rows, if their number is that of a repeated arrangement."""
    uncond = sum(1 for mark in cond_or_uncond if mark == 1)
    if any(mark != 1 for mark in cond_or_uncond[:uncond]):
        return None
    first, chunk = uncond * images, (len(cond_or_uncond) - uncond) * images
    conds = (rows - first, rows - first - 1) if rows % 2 == 0 else (rows - first,)
    if chunk == 0 or not any(count % chunk == 0 and count > chunk for count in conds):
        return None
    return [Row(row, (row - first) % images) for row in range(first, rows)]
