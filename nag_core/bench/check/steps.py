"""Steps of whole models: time beside the unguided step, and a loop of four steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nag_core.bench import library_models, measure, report
from nag_core.bench.check.graph import captured
from nag_core.bench.check.part import Found, distance
from nag_core.bench.models import CASES, GPU, Place
from nag_core.bench.rows import Case, Effort, rows
from nag_core.evaluate import tables

USUAL, AT_TOY_SIZE = Effort(12, 40, 5.0), Effort(2, 2, 1.0)
EFFORT = {"wan": Effort(4, 6, 8.0), "wan-library": Effort(4, 6, 8.0)}
# Of bf16 after a model's layers: how far variants may be apart that compute the same.
ROUNDING = 5e-2
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
    cuda, effort = place.device.type == "cuda", EFFORT.get(name, USUAL) if place.size == GPU else AT_TOY_SIZE
    wrong = _agreement(case)
    made = rows(name, case, place.device, effort)
    loop = _loop(case, place.device, effort.least)
    data: dict[str, Any] = {"rows": made, "loop": loop}
    text = [
        report.table({"device": "GPU" if cuda else "CPU", "rows": made}),
        _milliseconds(made),
        _loop_text(loop),
    ]
    judged = made
    if cuda:
        data["ordered"] = _ordered(case)
        data["graph"], refused = _as_graphs(name, case, place.device, effort)
        judged = data["graph"] or made
        wrong += [f"{variant} cannot be a CUDA graph ({why})" for variant, why in refused.items()]
        text += [_ordered_text(data["ordered"], made)]
        text += [f"From CUDA graphs:\n\n{_overheads(judged)}"] if data["graph"] else []
    if place.size == GPU:
        text.insert(0, _depth(name))
        text.append(_target(name, judged))
    return Found(data, "\n\n".join(filter(None, text)), wrong)


def _agreement(case: Case) -> list[str]:
    """What is wrong with what the steps compute: the variants of ours and official-style are one rule."""
    outs = {variant: _first_row(step()) for variant, step in case.steps().items()}
    wanted = outs.get("official", outs["ours"])
    wrong = [f"{variant} is not finite" for variant, out in outs.items() if not bool(out.isfinite().all())]
    errors = {name: distance(out, wanted) for name, out in outs.items() if name.startswith(("ours", "first"))}
    return wrong + [f"{name} is {error:.1e} off" for name, error in errors.items() if not error < ROUNDING]


def _first_row(out: Any) -> Tensor:
    return (out if isinstance(out, Tensor) else out[0])[:1]


def _ordered(case: Case) -> dict[str, float]:
    """Seconds that Python takes to order each step's work; the second time, when nothing is made anew."""
    found = {}
    for variant, step in case.steps().items():
        step()
        found[variant] = measure.enqueued(step)
    return found


def _ordered_text(ordered: dict[str, float], made: list[dict[str, Any]]) -> str:
    bound = [row["variant"] for row in made if ordered[row["variant"]] > 0.9 * row["seconds"]]
    if not bound:
        return ""
    return f"Bound by Python here, and not by the GPU: {', '.join(bound)}."


def _as_graphs(
    name: str, case: Case, device: torch.device, effort: Effort
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of the variants that can be captured, and why the others cannot; no rows without baseline."""
    made = {variant: captured(step) for variant, step in case.steps().items() if variant != "first"}
    refused = {variant: why for variant, (_, why) in made.items() if why}
    kept = {variant: step for variant, (step, why) in made.items() if not why}
    if not {"baseline", "baseline again", "ours"} <= set(kept):
        return [], refused

    class Replayed:
        def steps(self) -> dict[str, Any]:
            return kept

    return rows(name, Replayed(), device, effort), refused


def _overheads(made: list[dict[str, Any]]) -> str:
    lines = [
        ("noise (A/A)" if row["variant"] == "baseline" else row["variant"], f"{row['seconds'] * 1e3:.2f}",
         *(f"{row[share] * 100:+.1f} %" for share in ("overhead", "low", "high"))) for row in made
    ]  # fmt: skip
    return tables.markdown(("variant", "ms", "over the baseline", "from", "to"), lines)


def _milliseconds(made: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['variant']} {row['seconds'] * 1e3:.2f} ms" for row in made)


def _loop(case: Case, device: torch.device, rounds: int) -> dict[str, float]:
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

    loops, seconds = {"unguided": unguided, "guided": guided}, measure.clock(device)
    measure.warmed(loops.values(), seconds, 1)
    times = measure.interleaved(loops, seconds, max(2, rounds // 2), lambda: None)
    found = measure.overhead(times["guided"], times["unguided"])
    return {"overhead": found.overhead, "low": found.low, "high": found.high}


def _loop_text(loop: dict[str, float]) -> str:
    share, low, high = (f"{loop[name] * 100:+.1f} %" for name in ("overhead", "low", "high"))
    return f"A loop of four steps at End 0.25: {share} ({low} to {high})."


def _depth(name: str) -> str:
    if name not in DEPTHS:
        return ""
    here, there = DEPTHS[name]
    return f"{here} of {there} blocks, each of true size: a block's share is the model's."


def _target(name: str, made: list[dict[str, Any]]) -> str:
    target, _ = report.TARGETS[name.removesuffix("-library")]
    ours = next(row for row in made if row["variant"] == "ours")
    noise = next(row for row in made if row["variant"] == "baseline")
    met = "met" if ours["overhead"] <= target else "**missed**"
    doubt = max(abs(noise["low"]), abs(noise["high"])) > 0.005
    return f"Target ≤ {target * 100:.0f} %: {met}.{' The noise (A/A) is above 0.5 %.' if doubt else ''}"
