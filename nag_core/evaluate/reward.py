"""ImageReward (Xu et al., arXiv 2304.05977), the score of people's taste that the paper takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.scorer import Choice, MissingScorerError

MODEL, FILES = "ImageReward-v1.0", ("ImageReward.pt", "med_config.json")


class RewardScorer:
    """Raises MissingScorerError where package or weights are missing."""

    name = "imagereward"
    identity = MODEL

    def __init__(self, choice: Choice) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import ImageReward
        except Exception as error:
            # An old package: beside newer transformers its import fails in other ways than ImportError.
            raise MissingScorerError(
                f"ImageReward is missing ({type(error).__name__}: {error}): pip install -e '.[imagereward]' "
                "in an environment of its own, and run --score-only there"
            ) from error
        folder = Path.home() / ".cache/ImageReward"
        weights, config = (folder / name for name in FILES)
        if not weights.is_file() or not config.is_file():
            raise MissingScorerError(
                f"ImageReward is missing: {' or '.join(FILES)} is not in {folder}. "
                f"`python -c \"import ImageReward; ImageReward.load('{MODEL}')\"` fetches them"
            )
        device = {"device": choice.device} if choice.device else {}
        try:
            self._model = ImageReward.load(str(weights), med_config=str(config), **device)
        except Exception as error:
            raise MissingScorerError(
                f"ImageReward is missing: its model does not load ({type(error).__name__}: {error})"
            ) from error

    def score(self, picture: Any, pair: Pair) -> dict[str, float]:
        return {"imagereward": float(self._model.score(pair.prompt, picture))}
