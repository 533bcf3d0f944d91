"""What one sampling pass was asked for, and of whom. Frozen: what happens in the pass is the session's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from nag_core.method.guidance import Method
from nag_core.method.region import Region
from nag_core.method.rule import Rule
from nag_core.settings.presets import Strength
from nag_core.settings.schedule import CONSTANT_CURVE, Curve, Window

FIRST, HIRES, REFINER = "first pass", "hires pass", "refiner pass"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the sampler is. `call`: model calls of the pass made so far, of `total`; prompt editing counts
    the same.
    """

    call: int = 0
    total: int = 0


def no_attention(*_: object) -> Tensor:
    """Stands for the host's attention where that comes with every call."""
    raise NotImplementedError("the attention comes with every call here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One pass's settings, resolved for the loaded model, and the host's functions that it needs."""

    strength: Strength
    method: Method
    progress: Callable[[], Progress]
    window: Window = field(default_factory=Window)
    curve: Curve = CONSTANT_CURVE
    region: Region | None = None  # where in the picture; None for everywhere
    with_heat: bool = False  # whether a map of what NAG changes is wanted
    pass_name: str = FIRST
    attention: Callable[[Tensor, Tensor, Tensor, dict], Tensor] = no_attention  # the host's, for the negative
    attention_name: str = "attention"  # what the report calls it
    rule: type[Rule] = Rule
    may_fuse: bool = True

    def phi(self, progress: Progress) -> float:
        """The strength at this place of the pass; 0 outside of the window."""
        found = self.curve.at(progress.call, progress.total, self.window)
        return found if self.curve.points else self.strength.phi * found
