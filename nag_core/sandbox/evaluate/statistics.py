"""Shares with 95 % intervals (Wilson) and paired differences on the same noise (McNemar's exact test)."""

from __future__ import annotations

import math
from typing import Any

from scipy.stats import binomtest, norm

MEASURES = ("unwanted", "honoured", "valid")
Z = float(norm.ppf(0.975))


def share(values: list[bool]) -> dict[str, float]:
    """`share` of n with `low` and `high` of its 95 % interval."""
    test = binomtest(sum(values), len(values))
    interval = test.proportion_ci(0.95, "wilson")
    return {"share": test.statistic, "low": float(interval.low), "high": float(interval.high)}


def difference(values: list[bool], base: list[bool]) -> dict[str, float]:
    """`points` that values are above base, picture by picture on the same noise, in [-1, 1]; 95 % interval
    (normal approximation for paired shares) and the two-sided `p` of McNemar's exact test.
    """
    gained = sum(value and not before for value, before in zip(values, base, strict=True))
    lost = sum(before and not value for value, before in zip(values, base, strict=True))
    n, changed = len(values), gained + lost
    points = (gained - lost) / n
    width = Z * math.sqrt(max(changed - (gained - lost) ** 2 / n, 0)) / n
    p = float(binomtest(gained, changed).pvalue) if changed else 1.0
    return {"points": points, "low": points - width, "high": points + width, "p": p}


def summary(row: dict[str, Any], seen: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the results: settings, shares, their intervals, and differences from the row without guidance
    of the same model and steps.
    """
    found = row | {"n": len(seen["valid"])}
    intervals = {name: share(seen[name]) for name in MEASURES}
    found |= {name: value["share"] for name, value in intervals.items()}
    found["rmse"] = sum(seen["error"]) / len(seen["error"])
    found["applied"] = seen["applied"]
    found["interval"] = {name: [value["low"], value["high"]] for name, value in intervals.items()}
    if base is not None and base is not seen:
        found["against_none"] = {name: difference(seen[name], base[name]) for name in MEASURES}
    return found
