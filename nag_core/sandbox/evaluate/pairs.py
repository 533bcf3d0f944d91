"""Prompts with the attribute that is not wanted, built in or from a file of lines `prompt | negative`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nag_core.sandbox.model.world import COLOURS, GROUNDS, SHAPES, words_in

ATTRIBUTES = (*COLOURS, *SHAPES, *GROUNDS, "framed")


class Pair(NamedTuple):
    """A prompt, the negative prompt, and the attribute it names."""

    prompt: str
    negative: str
    attribute: str


def pair(prompt: str, negative: str) -> Pair:
    """The pair; ValueError where the negative is not exactly one attribute of the world."""
    found = [word for word in words_in(negative) if word in ATTRIBUTES]
    if len(found) != 1:
        raise ValueError(f"the negative {negative!r} must name one attribute of {', '.join(ATTRIBUTES)}")
    return Pair(prompt, negative, found[0])


# Favourite colours, shapes that a colour brings with it, and what any picture may have.
BUILT_IN = tuple(
    pair(*both)
    for both in (
        ("a circle", "red"),
        ("a square", "blue"),
        ("a triangle", "yellow"),
        ("a cross", "green"),
        ("a red shape", "circle"),
        ("a blue shape", "square"),
        ("a circle", "framed"),
        ("a square", "on tan"),
    )
)


def read(path: Path) -> tuple[Pair, ...]:
    """The pairs of a file; blank lines and lines that start with # are passed over. ValueError says what is
    wrong in which line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}, line {number}: expected `prompt | negative`, found {line.strip()!r}")
        try:
            found.append(pair(*parts))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"{path} holds no pair")
    return tuple(found)
