"""Pictures of a row, drawn by the extension through the sandbox's API, and what the decoder sees in them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nag_core.evaluate import answer
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.toy.pairs import attribute
from nag_core.evaluate.toy.plan import Row
from nag_core.sandbox.model.decoder import decode
from nag_core.sandbox.model.world import SIZE

BATCH = 64
SEEDS_APART = 1_000_000


@dataclass(frozen=True)
class Seen:
    """Of every picture: is the unwanted attribute there, is the prompt honoured, is it a picture of the world
    (all bool), and how far from the nearest one it is. `applied`: the share that NAG reports for itself.
    """

    unwanted: list[bool]
    honoured: list[bool]
    valid: list[bool]
    error: list[float]
    applied: float | None

    @property
    def good(self) -> list[bool]:
        """What a user feels of it: valid, the prompt honoured, the unwanted attribute absent."""
        return [v and h and not u for v, h, u in zip(self.valid, self.honoured, self.unwanted, strict=True)]


class Sandbox:
    """The stand-in WebUI `app` of this process, without a port."""

    def __init__(self, app: Any) -> None:
        from modules.sd_models import KIND_OF
        from starlette.testclient import TestClient

        self.client = TestClient(app)
        self.checkpoints = {kind: name for name, kind in KIND_OF.items()}

    @classmethod
    def start(cls, weights: dict[str, Path] | None = None) -> Sandbox:
        """A sandbox of its own, with other weights for some models; ValueError where any are missing."""
        from nag_core.sandbox.app import create_app

        sandbox = cls(create_app({"nowebui": True, "weights": weights or {}}))
        logging.getLogger("nag").setLevel(logging.WARNING)  # its report is read from the pictures
        return sandbox

    def draw(self, pair: Pair, nag: dict[str, Any], **job: Any) -> tuple[list[Image.Image], list[str]]:
        """The pictures of a txt2img job and their infotexts."""
        job |= {
            "prompt": pair.prompt, "negative_prompt": pair.negative, "width": 8 * SIZE, "height": 8 * SIZE,
            "do_not_save_grid": True, "alwayson_scripts": {"NAG": {"args": [nag]}},
        }  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):  # the host's own lines, one a job
            response = self.client.post("/sdapi/v1/txt2img", json=job)
        response.raise_for_status()
        found = response.json()
        pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in found["images"]]
        return pictures, json.loads(found["info"])["infotexts"]

    def row(self, row: Row, pair: Pair, seed: int, count: int) -> tuple[list[Image.Image], list[str]]:
        """`count` pictures of consecutive seeds as the row has them."""
        checkpoint = {"sd_model_checkpoint": self.checkpoints[row.model]}
        return self.draw(
            pair, row.nag(), seed=seed, batch_size=count, steps=row.steps, cfg_scale=row.cfg,
            sampler_name="Euler", override_settings=checkpoint,
        )  # fmt: skip

    def see(self, row: Row, pairs: tuple[Pair, ...], n: int, seed: int) -> Seen:
        """Draw the row's n pictures, spread evenly over the pairs, and judge them.

        Picture i starts from the same noise in every row.
        """
        columns: list[list] = [[], [], [], []]
        applied, start = 0, seed * SEEDS_APART
        for pair, count in zip(pairs, shares(n, len(pairs)), strict=True):
            for first in range(0, count, BATCH):
                size = min(BATCH, count - first)
                pictures, texts = self.row(row, pair, start + first, size)
                decoded = decode(torch.stack([_latent(picture) for picture in pictures]))
                found = (decoded.attributes.has(attribute(pair)), decoded.attributes.honours(pair.prompt))
                for column, values in zip(columns, (*found, decoded.valid, decoded.error), strict=True):
                    column.extend(values.tolist())
                applied += sum(map(_applied, texts))
            start += count
        return Seen(*columns, applied / n if row.nag()["enabled"] else None)


def _applied(infotext: str) -> bool:
    """A picture without a report was drawn without NAG."""
    return answer.applied({answer.REPORT: "not applied", **answer.parameters(infotext)})


def shares(n: int, parts: int) -> list[int]:
    """n in nearly equal parts."""
    return [n // parts + (i < n % parts) for i in range(parts)]


def _latent(picture: Image.Image) -> Tensor:
    """The model's own pixels (3, 32, 32) in [-1, 1] of a picture that shows each as 8 x 8."""
    values = np.asarray(picture, dtype=np.float32)[4::8, 4::8]
    return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1)
