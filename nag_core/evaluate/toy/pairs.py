"""Prompts with the attribute of the toys' world that is not wanted."""

from __future__ import annotations

from nag_core.evaluate.pairs import Pair
from nag_core.sandbox.model.world import COLOURS, GROUNDS, SHAPES, words_in

ATTRIBUTES = (*COLOURS, *SHAPES, *GROUNDS, "framed")

# Favourite colours, shapes that a colour brings with it, and what any picture may have.
BUILT_IN = (
    Pair("a circle", "red"),
    Pair("a square", "blue"),
    Pair("a triangle", "yellow"),
    Pair("a cross", "green"),
    Pair("a red shape", "circle"),
    Pair("a blue shape", "square"),
    Pair("a circle", "framed"),
    Pair("a square", "on tan"),
)


def attribute(pair: Pair) -> str:
    """The attribute that the negative names. ValueError where that is not exactly one of the world."""
    if not pair.negative or "|" in pair.prompt:
        raise ValueError(f"expected `prompt | negative`, found {pair.prompt!r}")
    found = [word for word in words_in(pair.negative) if word in ATTRIBUTES]
    if len(found) != 1:
        raise ValueError(f"the negative {pair.negative!r} must name one attribute of {', '.join(ATTRIBUTES)}")
    return found[0]
