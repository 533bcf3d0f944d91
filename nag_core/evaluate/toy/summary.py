"""A row of the results: shares of its pictures, and differences from the row without guidance."""

from __future__ import annotations

from typing import Any

from nag_core.evaluate.statistics import difference, share
from nag_core.evaluate.toy.draw import Seen

# The one number, and the three that it is made of.
PARTS = ("unwanted", "honoured", "valid")
MEASURES = ("good", *PARTS)


def summary(row: dict[str, Any], seen: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    """Settings, shares, their intervals, and differences from `base`: what was seen without guidance of the
    same model and steps.
    """
    found = row | {"n": len(seen["valid"])}
    seen = _judged(seen)
    intervals = {name: share(seen[name]) for name in MEASURES}
    found |= {name: value["share"] for name, value in intervals.items()}
    found["rmse"] = sum(seen["error"]) / len(seen["error"])
    found["applied"] = seen["applied"]
    found["interval"] = {name: [value["low"], value["high"]] for name, value in intervals.items()}
    if base is not None and row["method"] != "none":
        base = _judged(base)
        found["against_none"] = {name: difference(seen[name], base[name]) for name in MEASURES}
    return found


def parts(row: dict[str, Any]) -> str:
    """The three of a row that has each with its interval, in %."""
    return " / ".join(f"{100 * row[name]['share']:.0f}" for name in PARTS)


def _judged(seen: dict[str, Any]) -> dict[str, Any]:
    return seen | {"good": Seen(**seen).good}
