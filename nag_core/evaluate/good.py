"""The one number of a run on a real checkpoint: the share of pictures that guidance made good, by CLIP.

A picture is good beside the off picture of its seed where the prompt's score fell by no more than `EPSILON`
and the negative's by at least that. What the seed alone does is the floor: off pictures beside the off
picture of the next seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nag_core.evaluate.plan import OFF, Spot
from nag_core.evaluate.statistics import difference, share

EPSILON = 0.5  # of 100 x cosine
FLOOR = "another seed"

Values = Mapping[str, float]


def is_good(values: Values, off: Values) -> bool:
    """Of a picture and the one it is compared with."""
    kept = values["clip_prompt"] >= off["clip_prompt"] - EPSILON
    return kept and values["clip_negative"] <= off["clip_negative"] - EPSILON


def good(scores: Mapping[Spot, Values]) -> dict[str, Any]:
    """`share` with its 95 % interval by arm and for the floor, and the arms' paired differences from the
    floor; empty without CLIP's scores, or without SciPy.
    """
    known = {spot: one for spot, one in scores.items() if {"clip_prompt", "clip_negative"} <= one.keys()}
    found: dict[str, dict[Spot, bool]] = {}
    for spot, values in known.items():
        off = known.get(Spot(spot.pair, spot.seed, OFF))
        if spot.arm == OFF:
            off = known.get(_next(spot, known))
        if off is not None:
            base = Spot(spot.pair, spot.seed, OFF)
            found.setdefault(FLOOR if spot.arm == OFF else spot.arm, {})[base] = is_good(values, off)
    try:
        return _counted(found)
    except ImportError:
        return {}


def _next(spot: Spot, known: Mapping[Spot, Values]) -> Spot | None:
    """The off picture of the pair's next seed, of the last the first; None where it is the only one."""
    seeds = sorted(one.seed for one in known if (one.pair, one.arm) == (spot.pair, OFF))
    behind = seeds[(seeds.index(spot.seed) + 1) % len(seeds)]
    return None if behind == spot.seed else Spot(spot.pair, behind, OFF)


def _counted(found: Mapping[str, Mapping[Spot, bool]]) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    floor = found.get(FLOOR, {})
    for arm, by_spot in found.items():
        arms[arm] = share(list(by_spot.values())) | {"n": len(by_spot)}
        both = [spot for spot in by_spot if spot in floor]
        if arm != FLOOR and both:
            arms[arm]["against_floor"] = difference(
                [by_spot[spot] for spot in both], [floor[spot] for spot in both]
            )
    return {"epsilon": EPSILON, "arms": arms} if arms else {}


def sentence(found: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """For the report; empty where nothing was counted."""
    if not found:
        return ""
    floor = f"off beside {FLOOR} (the floor)"
    order = sorted(found["arms"].items(), key=lambda item: item[0] == FLOOR)
    parts = [f"{names.get(arm, floor)} {_shown(one)}" for arm, one in order]
    epsilon = found["epsilon"]
    return (
        f"**Good pictures** (CLIP's score of the prompt at most {epsilon:g} below the off picture's, the "
        f"negative's at least {epsilon:g} below): {'; '.join(parts)}."
    )


def _shown(one: Mapping[str, Any]) -> str:
    text = f"{100 * one['share']:.0f} % ({100 * one['low']:.0f}–{100 * one['high']:.0f} of {one['n']})"
    beside = one.get("against_floor")
    if beside is None:
        return text
    range_ = f"{100 * beside['low']:+.0f} to {100 * beside['high']:+.0f}"
    return f"{text}, {100 * beside['points']:+.0f} points ({range_}) beside the floor"
