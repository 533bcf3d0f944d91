"""What a part of the check found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Found:
    """data: for the JSON. text: Markdown. wrong: what is not as it must be, one sentence each."""

    data: dict[str, Any]
    text: str
    wrong: list[str] = field(default_factory=list)
    left_out: bool = False


def distance(found: Tensor, wanted: Tensor) -> float:
    """As a share of the norm, NaN where one is not finite. Counted in the largest value, so that squares near
    a dtype's limit stay finite.
    """
    size = wanted.double().abs().amax()
    return float(((found.double() - wanted.double()) / size).norm() / (wanted.double() / size).norm())
