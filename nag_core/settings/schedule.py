"""On which model calls of a sampling pass NAG acts, and how strongly. Standard library only."""

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


CONSTANT, LINEAR, COSINE = "constant", "linear", "cosine"
LARGEST = 20.0  # the scale's own limit
MOST_POINTS = 64


@dataclass(frozen=True, slots=True)
class Curve:
    """The strength over the calls of a pass.

    constant: phi in every call. linear, cosine: from phi at the window's first call down towards 0 at its
    end, straight or along half a cosine. points: (fraction of the pass, phi) in ascending order, with
    straight lines between them; they take the place of phi. Before the first point and behind the last one
    its value holds; of two points at one place the later one counts from there on.
    """

    shape: str = CONSTANT
    points: tuple[tuple[float, float], ...] = ()

    @property
    def zero(self) -> bool:
        """Whether it is 0 everywhere."""
        return bool(self.points) and not any(phi for _, phi in self.points)

    def at(self, call: int, total: int, window: Window) -> float:
        """At call number `call` of `total` the strength that the points give, or the share of phi that the
        shape leaves, 1 for all of it; 0 outside of the window.
        """
        call = min(max(call, 0), total - 1)
        calls = window.calls(total)
        if call not in calls:
            return 0.0
        if self.points:
            return self._between(call / total)
        done = (call - calls.start) / len(calls)
        if self.shape == LINEAR:
            return 1 - done
        return (1 + math.cos(math.pi * done)) / 2 if self.shape == COSINE else 1.0

    def _between(self, place: float) -> float:
        # As in Window.calls: 3 / 10 must be at the point "0.3".
        passed = [point for point in self.points if point[0] <= place + 1e-9]
        coming = [point for point in self.points if point[0] > place + 1e-9]
        if not passed or not coming:
            return passed[-1][1] if passed else coming[0][1]
        (left, before), (right, after) = passed[-1], coming[0]
        return before + (after - before) * max(0.0, place - left) / (right - left)


CONSTANT_CURVE = Curve()


def parse_curve(text: str) -> Curve:
    """`constant`, `linear`, `cosine`, or points as in `0:4, 0.5:2, 1:0` (commas, semicolons or spaces
    between).

    Empty is constant. ValueError with what is allowed for everything else.
    """
    word = text.strip().lower()
    if word in ("", CONSTANT, LINEAR, COSINE):
        return Curve(word or CONSTANT)
    points = []
    for part in word.replace(",", " ").replace(";", " ").split():
        place, _, phi = part.partition(":")
        try:
            points.append((float(place), float(phi)))
        except ValueError:
            raise ValueError(_ALLOWED) from None
    if not points or len(points) > MOST_POINTS:
        raise ValueError(_ALLOWED)
    if not all(0 <= place <= 1 and 0 <= phi <= LARGEST for place, phi in points):
        raise ValueError(f"places are 0 to 1 and scales 0 to {LARGEST:g}")
    return Curve("points", tuple(sorted(points, key=lambda point: point[0])))


_ALLOWED = (
    f"allowed are {CONSTANT}, {LINEAR}, {COSINE}, or at most {MOST_POINTS} points such as 0:4, 0.5:2, 1:0"
)
