"""The rows of one model: every variant's time beside the baseline's, and its peak memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from nag_core.bench import measure
from nag_core.bench.measure import Overhead, Step


class Case(Protocol):
    """A model of the bench."""

    def steps(self) -> dict[str, Step]:
        """The step of every variant."""


class Effort(NamedTuple):
    """How many rounds at least and at most, and the seconds after which none is begun."""

    least: int
    most: int
    seconds: float


Ticked = Callable[[int], Callable[[], None]]


def silent(_total: int) -> Callable[[], None]:
    return lambda: None


def rows(
    name: str, case: Case, device: torch.device, effort: Effort, ticked: Ticked = silent
) -> list[dict[str, Any]]:
    """One row a variant. ticked: given the steps to come, what to call after each."""
    with torch.inference_mode():
        steps = case.steps()
        seconds = measure.clock(device)
        # The first run warms a CPU up; of a pass that begins, as it is: what it keeps for later steps counts.
        peaks = {variant: measure.peak_bytes(step) for variant, step in steps.items()}
        if device.type == "cuda":
            measure.warmed(steps.values(), seconds, 3)
        times = _timed(steps, seconds, effort, ticked)
    made = []
    for variant in steps:
        if variant == "baseline again":
            continue
        compared, found = _overhead(times, variant)
        taken = sorted(times[compared])
        made.append({
            "model": name, "variant": variant,
            "overhead": found.overhead, "low": found.low, "high": found.high,
            "rounds": len(taken), "peak_bytes": peaks[variant], "seconds": taken[len(taken) // 2],
        })  # fmt: skip
    return made


def _overhead(times: dict[str, list[float]], variant: str) -> tuple[str, Overhead]:
    """Of a variant over the baseline; the baseline's own is the noise floor: it against itself."""
    compared = "baseline again" if variant == "baseline" else variant
    return compared, measure.overhead(times[compared], times["baseline"])


def _timed(
    steps: dict[str, Step], seconds: Callable[[Step], float], effort: Effort, ticked: Ticked
) -> dict[str, list[float]]:
    """Rounds until it is known what ours costs, or the effort is spent."""
    times = measure.interleaved(steps, seconds, effort.least, ticked(effort.least * len(steps)))
    round_seconds = sum(map(sum, times.values())) / effort.least
    most = min(effort.most, int(effort.seconds / max(round_seconds, 1e-9)))
    while (left := min(effort.least, most - len(times["baseline"]))) > 0 and not _known(times):
        times = measure.interleaved(steps, seconds, left, ticked(left * len(steps)), times)
    return times


def _known(times: dict[str, list[float]]) -> bool:
    """Whether the range of ours, and that of the noise, are narrower than what ours costs."""
    ours, noise = (_overhead(times, variant)[1] for variant in ("ours", "baseline"))
    return max(ours.high - ours.low, noise.high - noise.low) < abs(ours.overhead)
