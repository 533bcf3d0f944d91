"""Steps of whole models: time beside the unguided step, launches, memory, and a loop of four steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from nag_core.bench import library_models, measure, report
from nag_core.bench.check.part import Found, table
from nag_core.bench.models import CASES, GPU, Place
from nag_core.bench.rows import Case, Effort, rows

EFFORT = {GPU: Effort(15, 40, 8.0)}
AT_TOY_SIZE = Effort(2, 2, 1.0)
# The networks with fewer blocks than the real ones: (here, there).
DEPTHS = {
    "flux-schnell": ("4 + 8", "19 + 38"), "flux-dev": ("4 + 8", "19 + 38"), "sd35-large": ("8", "38"),
    "wan": ("4", "40"),
}  # fmt: skip


def of(name: str) -> Callable[[Place], Found]:
    """The part of the model of that name."""

    def found(place: Place) -> Found:
        return _model(name, CASES[name](place), place)

    return found


def library(place: Place) -> Found:
    """The models of diffusers' own classes, where diffusers is."""
    if importlib.util.find_spec("diffusers") is None:
        return Found({}, "Left out: diffusers is not installed.", left_out=True)
    each = [_model(name, case(place), place) for name, case in library_models.CASES.items()]
    data = {"rows": [row for one in each for row in one.data["rows"]]}
    return Found(data, "\n\n".join(one.text for one in each), [wrong for one in each for wrong in one.wrong])


def _model(name: str, case: Case, place: Place) -> Found:
    made = rows(name, case, place.device, EFFORT.get(place.size, AT_TOY_SIZE))
    counts = {variant: measure.launches(step, place.device) for variant, step in case.steps().items()}
    loop = _loop(case, place)
    result = {"device": "GPU" if place.device.type == "cuda" else "CPU", "rows": made}
    text = [report.table(result), _costs(made, counts, place), _loop_text(loop)]
    if place.size == GPU and name in DEPTHS:
        here, there = DEPTHS[name]
        text.insert(0, f"{here} of {there} blocks, each of true size: a block's share is the model's.")
    if name.removesuffix("-library") in report.TARGETS and place.size == GPU:
        text.append(_target(name, made))
    return Found({"rows": made, "launches": counts, "loop": loop}, "\n\n".join(text))


def _costs(made: list[dict[str, Any]], counts: dict[str, int], place: Place) -> str:
    base = next(row["peak_bytes"] for row in made if row["variant"] == "baseline")
    lines = [
        (row["variant"], f"{row['seconds'] * 1e3:.2f}", counts[row["variant"]],
         f"{(row['peak_bytes'] - base) / 2**20:+.1f}") for row in made
    ]  # fmt: skip
    counted = "launches" if place.device.type == "cuda" else "operations"
    return table(("variant", "ms", counted, "memory, MiB"), lines)


def _loop(case: Case, place: Place) -> dict[str, float]:
    """Four steps of which the first is guided, in a pass of its own, over four without: End 0.25."""
    steps = case.steps()
    first, plain = steps.get("first", steps["ours"]), steps["baseline"]

    def guided() -> None:
        first()
        for _ in range(3):
            plain()

    def unguided() -> None:
        for _ in range(4):
            plain()

    loops = {"unguided": unguided, "guided": guided}
    seconds = measure.clock(place.device)
    cuda = place.device.type == "cuda"
    measure.warmed(loops.values(), seconds, 2 if cuda else 1)
    times = measure.interleaved(loops, seconds, 10 if cuda else 2, lambda: None)
    found = measure.overhead(times["guided"], times["unguided"])
    return {"overhead": found.overhead, "low": found.low, "high": found.high}


def _loop_text(loop: dict[str, float]) -> str:
    share, low, high = (f"{loop[name] * 100:+.1f} %" for name in ("overhead", "low", "high"))
    return f"A loop of four steps at End 0.25: {share} ({low} to {high})."


def _target(name: str, made: list[dict[str, Any]]) -> str:
    target, _ = report.TARGETS[name.removesuffix("-library")]
    ours = next(row for row in made if row["variant"] == "ours")
    noise = next(row for row in made if row["variant"] == "baseline")
    met = "met" if ours["overhead"] <= target else "**missed**"
    doubt = max(abs(noise["low"]), abs(noise["high"])) > 0.005
    return f"Target ≤ {target * 100:.0f} %: {met}.{' The noise (A/A) is above 0.5 %.' if doubt else ''}"
