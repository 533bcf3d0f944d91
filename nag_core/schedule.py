"""On which model calls of a sampling pass NAG acts. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Fractions [start, end) of the model calls of one pass; the paper's early stop theta is `end`."""

    start: float = 0.0
    end: float = 1.0

    @property
    def empty(self) -> bool:
        return self.end <= self.start

    def calls(self, total: int) -> range:
        """The call numbers, counted from 0, of a pass of `total` calls on which NAG acts.

        Calls with start <= call / total < end; a window that is not empty keeps at least one call.
        """
        if self.empty or total < 1:
            return range(0)
        # 0.1 * 30 is 3.0000000000000004: without the rounding such a window would start one call late.
        first = math.ceil(round(self.start * total, 9))
        stop = math.ceil(round(self.end * total, 9))
        if stop <= first:
            first = min(math.floor(round(self.start * total, 9)), total - 1)
            stop = first + 1
        return range(first, stop)

    def active(self, call: int, total: int) -> bool:
        """Whether NAG acts on this call. Samplers that run past `total` (UniPC, DPM adaptive) count as the
        last call.
        """
        return min(max(call, 0), total - 1) in self.calls(total)
