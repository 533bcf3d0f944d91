"""What a model that scores pictures is, how it is chosen, and what it raises where it cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from nag_core.evaluate.pairs import Pair


class Scorer(Protocol):
    """One model. `identity` names model and weights: scores of another identity are made anew."""

    name: str
    identity: str

    def score(self, picture: Any, pair: Pair) -> dict[str, float]:
        """Numbers of METRICS for one PIL picture (RGB)."""
        ...


class MissingScorerError(Exception):
    """A score cannot be had here; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class Choice:
    """Models as the command line names them; `weights` is an open_clip tag or a file."""

    clip_model: str = "ViT-L-14"
    clip_weights: str = "openai"
    device: str = ""
