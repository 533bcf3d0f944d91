"""Means, 95 % ranges and paired differences of a scored run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nag_core.evaluate.answer import LABEL
from nag_core.evaluate.good import good as counted
from nag_core.evaluate.plan import NAG, OFF, Plan, Spot
from nag_core.evaluate.scores import METRICS
from nag_core.evaluate.statistics import interval
from nag_core.evaluate.store import Record

Scores = Mapping[Spot, Mapping[str, float]]


def summary(
    plan: Plan, records: Mapping[Spot, Record], scores: Scores, models: dict[str, str], missing: list[str]
) -> dict[str, Any]:
    """The results as JSON. Pictures with a problem are listed and count nowhere; a difference takes the seeds
    of which both pictures count. Ranges are over the pictures: they speak for these prompts, not for others.
    """
    good = {spot: scores[spot] for spot, record in records.items() if not record.problems and spot in scores}
    flagged = [
        {"picture": f"pictures/{spot.name}.png", "arm": spot.arm, "problems": list(record.problems)}
        for spot, record in records.items()
        if record.problems
    ]
    return {
        "settings": plan.record(),
        "asked": len(plan.spots()),
        "drawn": len(records),
        "drawn_with": _drawn_with(records),
        "nag_reports": dict(Counter(_report(record) for spot, record in records.items() if spot.arm == NAG)),
        "flagged": flagged,
        "models": models,
        "missing": missing,
        "good": counted(good),
        "arms": {arm: _arm(arm, good) for arm in plan.arms},
        "pairs": [
            {
                "prompt": pair.prompt,
                "negative": pair.negative,
                "arms": {
                    arm: _arm(arm, {spot: values for spot, values in good.items() if spot.pair == number})
                    for arm in plan.arms
                },
            }
            for number, pair in enumerate(plan.pairs)
        ],
    }


def _report(record: Record) -> str:
    return record.report or "no report"


def _drawn_with(records: Mapping[Spot, Record]) -> dict[str, dict[str, int]]:
    """What the pictures' texts name, counted: a run should show one model and one sampler."""
    keys = ("Model", "Model hash", "Sampler", "Schedule type", LABEL)
    found = {key: Counter(record.parameters.get(key, "") for record in records.values()) for key in keys}
    return {key: dict(counts) for key, counts in found.items() if set(counts) != {""}}


def _arm(arm: str, good: Scores) -> dict[str, Any]:
    own = {spot: values for spot, values in good.items() if spot.arm == arm}
    found: dict[str, Any] = {"n": len(own), "mean": {}, "difference": {}}
    for metric in METRICS:
        values = [values[metric] for values in own.values() if metric in values]
        if values:
            found["mean"][metric] = interval(values)
        paired = [
            values[metric] - off[metric]
            for spot, values in own.items()
            if arm != OFF and metric in values
            for off in [good.get(Spot(spot.pair, spot.seed, OFF), {})]
            if metric in off
        ]
        if paired:
            found["difference"][metric] = interval(paired)
    return found
