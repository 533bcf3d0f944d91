"""Where NAG acted: each token's relative change of the attention output, averaged over layers and steps.

Summed up on the device and read once, when the pass is over: nothing waits for a GPU in between. Torch only.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nag_core.method.guidance import HEADROOM, l1_norm
from nag_core.method.region import Spot


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """|after - before|_1 / |before|_1 of each token, (rows, tokens) in fp32 from (rows, tokens, channels).

    0 for a token that was and stayed 0. Finite for finite inputs.
    """
    before, after = before.float() * HEADROOM, after.float() * HEADROOM
    norm = l1_norm(before).clamp_min(torch.finfo(torch.float32).tiny)
    return (l1_norm(after - before) / norm).squeeze(-1).clamp_max(1e6)


@dataclass(slots=True)
class HeatMap:
    """The sums of one pass by (image of each row, size of the latent, latent pixels per token and side)."""

    sums: dict[Hashable, Tensor] = field(default_factory=dict)
    counts: dict[Hashable, int] = field(default_factory=dict)

    def note(
        self, images: tuple[int, ...], size: tuple[int, int], side: int, spot: Spot | None,
        before: Tensor, after: Tensor,
    ) -> None:  # fmt: skip
        """Adds one layer's tokens, or those of the spot, (rows, tokens, channels)."""
        change = relative_change(before, after)
        key = (images, size, side, change.device)
        if key not in self.sums:
            height, width = _cells(size, side)
            self.sums[key] = change.new_zeros(len(change), height * width)
            self.counts[key] = 0
        self.counts[key] += 1
        if spot is None:
            self.sums[key].add_(change)
        else:
            self.sums[key].index_add_(1, spot.index, change)

    def add(self, other: HeatMap) -> None:
        """Takes over what another one gathered."""
        for key, total in other.sums.items():
            self.sums[key] = self.sums[key] + total if key in self.sums else total
            self.counts[key] = self.counts.get(key, 0) + other.counts[key]

    def bring_home(self) -> None:
        """Moves the sums to the CPU. Waits for the device."""
        self.sums = {key: total.cpu() for key, total in self.sums.items()}

    def pictures(self, images: int) -> list[Tensor | None]:
        """The mean change of each image's tokens, (h, w) on the finest grid there was; None where nothing was
        guided.
        """
        if not self.sums:
            return [None] * images
        finest = max(
            (_cells(size, side) for _, size, side, _ in self.sums), key=lambda cells: cells[0] * cells[1]
        )
        totals = torch.zeros(images, *finest)
        counted = [0] * images
        for (drawn, size, side, _), total in self.sums.items():
            cells = total.view(-1, 1, *_cells(size, side))
            grown = torch.nn.functional.interpolate(cells, finest, mode="nearest-exact")[:, 0]
            for row, image in enumerate(drawn):
                totals[image] += grown[row]
                counted[image] += self.counts[(drawn, size, side, _)]
        return [totals[i] / counted[i] if counted[i] else None for i in range(images)]


def _cells(size: tuple[int, int], side: int) -> tuple[int, int]:
    return -(-size[0] // side), -(-size[1] // side)
