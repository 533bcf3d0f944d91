"""The rows of one model: every variant's time beside the baseline's, and its peak memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from nag_core.bench import measure
from nag_core.bench.measure import Step


class Case(Protocol):
    """A model of the bench."""

    def steps(self) -> dict[str, Step]:
        """The step of every variant."""


class Effort:
    """Rounds (least, most) and the seconds they may take."""

    def __init__(self, least: int, most: int, seconds: float) -> None:
        self.least, self.most, self.seconds = least, most, seconds

    def rounds(self, round_seconds: float) -> int:
        return measure.rounds_for(self.seconds, round_seconds, self.least, self.most)


Ticked = Callable[[int], Callable[[], None]]


def silent(_total: int) -> Callable[[], None]:
    return lambda: None


def rows(
    name: str, case: Case, device: torch.device, effort: Effort, ticked: Ticked = silent
) -> list[dict[str, Any]]:
    """One row a variant. ticked: given the number of steps to come, what to call after each."""
    with torch.inference_mode():
        steps = case.steps()
        seconds = measure.clock(device)
        round_seconds = measure.warmed(steps.values(), seconds, 3 if device.type == "cuda" else 1)
        rounds = effort.rounds(round_seconds)
        times = measure.interleaved(steps, seconds, rounds, ticked(rounds * len(steps)))
        # Of a pass that begins: what it keeps for its other steps counts.
        peaks = {variant: measure.peak_bytes(step) for variant, step in case.steps().items()}
    made = []
    for variant in steps:
        if variant == "baseline again":
            continue
        # The baseline's own row is the noise floor: it against itself.
        compared = "baseline again" if variant == "baseline" else variant
        found = measure.overhead(times[compared], times["baseline"])
        made.append({
            "model": name, "variant": variant,
            "overhead": found.overhead, "low": found.low, "high": found.high,
            "rounds": rounds, "peak_bytes": peaks[variant], "seconds": sorted(times[compared])[rounds // 2],
        })  # fmt: skip
    return made
