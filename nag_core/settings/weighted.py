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

# (words:1.3) without brackets within; \\( is a bracket to read.
_IN_BRACKETS = re.compile(r"(?<!\\)\(([^()\\]+?)\s*:\s*(\d+\.?\d*|\.\d+)\s*\)")


class Weighted(NamedTuple):
    """One negative and its share; only the weights' proportions matter."""

    text: str
    weight: float


def parse_negatives(text: str) -> list[Weighted]:
    """The lines of `text` that are not blank, each with its weight, 1 where it has none. `\\n` written out
    separates lines, too: a cell of a plot has only one. An infotext doubles its backslash.

    ValueError for a weight that is no number from 0 up.
    """
    lines = [line.strip() for line in re.sub(r"\\{1,2}n", "\n", text).splitlines()]
    found = [_parsed(line) for line in lines if line]
    if len(found) > MOST:
        raise ValueError(f"{len(found)} negatives; there can be {MOST}")
    return [one for one in found if one.text]


def written(several: Iterable[Weighted]) -> str:
    """The text that `parse_negatives` reads as these."""
    return "\n".join(f"{text} :: {weight!r}" for text, weight in several)


def has_weights(text: str) -> bool:
    """Whether a host that reads weights in a prompt would find one here: `(red:1.3)`."""
    return bool(_IN_BRACKETS.search(text))


def without_brackets(several: Iterable[Weighted]) -> str:
    """The same as several negatives, `red :: 1.3` for `(red:1.3)`, in one line as a cell of a plot has them;
    what has no weight of its own stays together. Empty where that cannot be: prompt editing, or too many.
    """
    found: list[Weighted] = []
    for text, weight in several:
        inside = _IN_BRACKETS.findall(text)
        around = (part.strip() for part in _IN_BRACKETS.sub(",", text).replace("\n", ",").split(","))
        rest = ", ".join(part for part in around if part)
        found += [Weighted(words.strip(), weight * float(own)) for words, own in inside]
        found += [Weighted(rest, weight)] if rest else []
    if len(found) > MOST or any(mark in text for text, _ in found for mark in "()[]"):
        return ""
    return "\\n".join(text if weight == 1 else f"{text} :: {weight:g}" for text, weight in found)


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
