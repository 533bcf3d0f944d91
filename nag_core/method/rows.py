"""Which rows of a batched attention call belong to a prompt (not to the uncond), to which image of the job,
and with which negative.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nag_core.method.negative import Entry


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


class Group(NamedTuple):
    """Conditional rows whose negatives have the same layout: how to index them, the negative of each, and
    which image of the batch each draws.
    """

    index: slice | Tensor
    entries: tuple[Entry, ...]
    images: tuple[int, ...] = ()


class Arrangement(NamedTuple):
    """The rows of a call by what happens to them: guided by groups, or left alone (None: no such row)."""

    groups: list[Group]
    rest: slice | Tensor | None


@dataclass(slots=True)
class Batch:
    """The images of one denoiser call: each one's negative (None: unguided), and what may have rearranged the
    rows. `tiled`, `regional`: see `conditional_rows`.
    """

    entries: tuple[Entry | None, ...]
    tiled: bool = False
    regional: bool = False
    known: dict[Hashable, Arrangement | None] = field(default_factory=dict)

    def arrangement(self, total: int, marks: Sequence[int], device: torch.device) -> Arrangement | None:
        """Who is guided in a call of `total` rows with these cond_or_uncond marks; None for a layout nobody
        knows.

        Worked out once per arrangement, not per layer and step: making an index tensor stalls a GPU.
        """
        key = (total, tuple(marks), device)
        if key not in self.known:
            rows = self._rows(total, marks)
            self.known[key] = None if rows is None else self._by_layout(rows, total, device)
        return self.known[key]

    def of_images(self, images: Sequence[int | None], device: torch.device) -> Arrangement:
        """The same for a call whose rows are known one by one: the image each draws, None for the uncond."""
        key = (tuple(images), device)
        if key not in self.known:
            rows = [Row(row, image) for row, image in enumerate(images) if image is not None]
            self.known[key] = self._by_layout(rows, len(images), device)
        return self.known[key]

    def part(self, total: int, marks: Sequence[int], part: slice, device: torch.device) -> Arrangement | None:
        """As `arrangement`, for a layer that sees only `part` of the call's rows."""
        rows = self._rows(total, marks)
        if rows is None:
            return None
        images = dict(rows)
        return self.of_images([images.get(row) for row in range(total)[part]], device)

    def _rows(self, total: int, marks: Sequence[int]) -> list[Row] | None:
        # A regional layout keeps no image order to rely on, so it needs one common negative.
        regional = self.regional and len(set(self.entries)) == 1
        return conditional_rows(total, marks, len(self.entries), self.tiled, regional)

    def _by_layout(self, rows: list[Row], total: int, device: torch.device) -> Arrangement:
        layouts: dict[Hashable, list[Row]] = {}
        for row in rows:
            entry = self.entries[row.image]
            if entry is not None:
                layouts.setdefault((entry.tokens, entry.repeats, entry.parts), []).append(row)
        groups = [
            Group(
                _index([row.row for row in group], device),
                tuple(self.entries[row.image] for row in group),
                tuple(row.image for row in group),
            )
            for group in layouts.values()
        ]
        guided = {row.row for group in layouts.values() for row in group}
        rest = [row for row in range(total) if row not in guided]
        return Arrangement(groups, _index(rest, device) if rest else None)


def _index(rows: list[int], device: torch.device) -> slice | Tensor:
    """A slice where the rows are consecutive (a view, no copy), else an index tensor on the device."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
