"""Draws the pictures of the pages through the sandbox's own API: the same seeds in each row, none picked out.

`python -m nag_core.evaluate.toy.gallery .github/assets` writes off-on.png, and a picture of each advanced
control.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from nag_core.evaluate import sheet
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.toy.draw import Sandbox
from nag_core.evaluate.toy.pictures import caption, small

SEEDS = 6
PAIRS = (Pair("a circle", "red"), Pair("a square", "blue"), Pair("a triangle", "on gray"))
NAG = {"enabled": True, "scale": 4, "tau": 2.5, "alpha": 0.5}
OFF: dict[str, Any] = {"enabled": False}
OFF_ON = sheet.Look(cell=72, gap=4, left=86, top=44, size=15, line=18, between=16, margin=6)
ADVANCED = sheet.Look(cell=72, gap=4, left=190, top=26, size=15, line=18, margin=6)


def disc() -> Image.Image:
    """A mask over the middle of the picture, where the world draws its shapes."""
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).ellipse((22, 22, 106, 106), fill=255)
    return mask


def _text(mask: Image.Image) -> str:
    with io.BytesIO() as buffer:
        mask.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def sheets() -> dict[str, tuple[Pair, dict[str, dict[str, Any]]]]:
    """By name: the pair, and the rows' settings by their labels."""
    circle, mask = Pair("a circle", "red"), {"mask_image": _text(disc()), "mask_feather": 0}
    return {
        "curve": (circle, {
            "NAG off": OFF, "constant": {}, "linear": {"curve": "linear"}, "cosine": {"curve": "cosine"},
            "0:4, 0.25:0": {"curve": "0:4, 0.25:0"},
        }),
        "blocks": (circle, {
            "NAG off": OFF, "all": {}, "input": {"blocks": "input"}, "middle": {"blocks": "middle"},
            "output": {"blocks": "output"},
        }),
        "negatives": (Pair("a circle", ""), {
            "NAG off": OFF, "red": {"negatives": "red"}, "on gray": {"negatives": "on gray"},
            "red :: 1, on gray :: 1": {"negatives": "red :: 1\non gray :: 1"},
            "red :: 4, on gray :: 1": {"negatives": "red :: 4\non gray :: 1"},
        }),
        "mask": (Pair("a circle on gray", "red"), {
            "NAG off": OFF, "everywhere": {}, "inside a disc": {"mask": "Inside", **mask},
            "outside of it": {"mask": "Outside", **mask},
        }),
        "heat": (circle, {"NAG off": OFF, "NAG on": {}, "heat map": {"heat_map": True}}),
    }  # fmt: skip


def main(folder: str) -> None:
    """Writes every sheet into `folder`."""
    sandbox, to = Sandbox.start(), Path(folder)
    to.mkdir(parents=True, exist_ok=True)
    rows = {"NAG off": OFF, "NAG on": {}}
    sheet.sheet(
        [caption(pair) for pair in PAIRS],
        [(label, [_drawn(sandbox, pair, nag, OFF_ON) for pair in PAIRS]) for label, nag in rows.items()],
        OFF_ON,
    ).save(to / "off-on.png", optimize=True)
    for name, (pair, rows) in sheets().items():
        about = f'"{pair.prompt}"' + (f", negative: {pair.negative}" if pair.negative else "")
        sheet.sheet(
            [[(about, sheet.NEGATIVE)]],
            [(label, [_drawn(sandbox, pair, nag, ADVANCED)]) for label, nag in rows.items()],
            ADVANCED,
        ).save(to / f"advanced-{name}.png", optimize=True)


def _drawn(sandbox: Sandbox, pair: Pair, nag: dict[str, Any], look: sheet.Look) -> list[Image.Image]:
    """4 steps, CFG 1, the first seeds there are. With a heat map: the maps, which the host returns last."""
    pictures, _ = sandbox.draw(pair, {**NAG, **nag}, seed=1, n_iter=SEEDS, steps=4, cfg_scale=1)
    return [small(picture, look) for picture in pictures[-SEEDS:]]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m nag_core.evaluate.toy.gallery FOLDER")
    main(sys.argv[1])
