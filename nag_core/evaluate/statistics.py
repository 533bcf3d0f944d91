"""Means and shares with their 95 % ranges, and paired differences. SciPy is imported where it is needed: a
WebUI's Python may lack it.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev


def interval(values: list[float]) -> dict[str, float | int | None]:
    """Mean and 95 % range (Student's t); no range for a single value, or where SciPy is missing."""
    found: dict[str, float | int | None] = {
        "n": len(values),
        "mean": fmean(values),
        "low": None,
        "high": None,
    }
    try:
        from scipy import stats
    except ImportError:
        return found
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
        found |= {"low": fmean(values) - half, "high": fmean(values) + half}
    return found


def share(values: list[bool]) -> dict[str, float]:
    """`share` of n with `low` and `high` of its 95 % interval (Wilson)."""
    from scipy.stats import binomtest

    test = binomtest(sum(values), len(values))
    range_ = test.proportion_ci(0.95, "wilson")
    return {"share": test.statistic, "low": float(range_.low), "high": float(range_.high)}


def difference(values: list[bool], base: list[bool]) -> dict[str, float]:
    """`points` that values are above base, picture by picture on the same noise, in [-1, 1]; 95 % interval
    (normal approximation for paired shares) and the two-sided `p` of McNemar's exact test.
    """
    from scipy.stats import binomtest, norm

    gained = sum(value and not before for value, before in zip(values, base, strict=True))
    lost = sum(before and not value for value, before in zip(values, base, strict=True))
    n, changed = len(values), gained + lost
    points = (gained - lost) / n
    width = float(norm.ppf(0.975)) * math.sqrt(max(changed - (gained - lost) ** 2 / n, 0)) / n
    p = float(binomtest(gained, changed).pvalue) if changed else 1.0
    return {"points": points, "low": points - width, "high": points + width, "p": p}
