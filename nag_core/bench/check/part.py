"""What a part of the check found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Found:
    """data: for the JSON. text: Markdown. wrong: what is not as it must be, one sentence each."""

    data: dict[str, Any]
    text: str
    wrong: list[str] = field(default_factory=list)
    left_out: bool = False


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
