"""Several negatives with weights, one per line: `text :: weight`. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

MOST = 16

# At the end of the line, so that prompt editing, [red::0.5], stays what it is. Behind a space anything is
# meant as a weight, directly behind the text only a number.
_WEIGHT = re.compile(
    r"^(?P<text>.*?)(?:\s+::|::(?=\s*-?(?:\d+\.?\d*|\.\d+)\s*$))\s*(?P<weight>[^\s\[\](){}<>]*)\s*$"
)


class Weighted(NamedTuple):
    """One negative and its share; only the weights' proportions matter."""

    text: str
    weight: float


def parse_negatives(text: str) -> list[Weighted]:
    """The lines of `text` that are not blank, each with its weight, 1 where it has none. `\\n` written out
    separates lines, too: a cell of a plot has only one.

    ValueError for a weight that is no number from 0 up.
    """
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines()]
    found = [_parsed(line) for line in lines if line]
    if len(found) > MOST:
        raise ValueError(f"{len(found)} negatives; there can be {MOST}")
    return [one for one in found if one.text]


def written(several: Iterable[Weighted]) -> str:
    """The text that `parse_negatives` reads as these."""
    return "\n".join(f"{text} :: {weight!r}" for text, weight in several)


def _parsed(line: str) -> Weighted:
    found = _WEIGHT.match(f" {line}")
    if found is None:
        return Weighted(line, 1.0)
    try:
        weight = float(found["weight"])
    except ValueError:
        weight = math.nan
    if not (0 <= weight < math.inf):
        raise ValueError(f"the weight {found['weight']!r:.22} is no number from 0 up")
    return Weighted(found["text"].strip(), weight)
