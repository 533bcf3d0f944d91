"""Draws the README's pictures of the advanced controls, through the sandbox's own API.

`python -m nag_core.sandbox.gallery .github/assets` writes advanced-curve.png and so on: a row for each
setting, the same seeds in each row.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from nag_core.sandbox.picture import CELL, GAP, NAG, SEEDS, draw

LEFT, TOP = 190, 26
OFF: dict[str, Any] = {"enabled": False}


def disc() -> Image.Image:
    """A mask over the middle of the picture, where the world draws its shapes."""
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).ellipse((22, 22, 106, 106), fill=255)
    return mask


def _text(mask: Image.Image) -> str:
    with io.BytesIO() as buffer:
        mask.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def sheets() -> dict[str, tuple[str, str, dict[str, dict[str, Any]]]]:
    """By name: prompt, negative, and the rows' settings by their labels."""
    mask = {"mask_image": _text(disc()), "mask_feather": 0}
    return {
        "curve": ("a circle", "red", {
            "NAG off": OFF, "constant": {}, "linear": {"curve": "linear"}, "cosine": {"curve": "cosine"},
            "0:4, 0.25:0": {"curve": "0:4, 0.25:0"},
        }),
        "blocks": ("a circle", "red", {
            "NAG off": OFF, "all": {}, "input": {"blocks": "input"}, "middle": {"blocks": "middle"},
            "output": {"blocks": "output"},
        }),
        "negatives": ("a circle", "", {
            "NAG off": OFF, "red": {"negatives": "red"}, "on gray": {"negatives": "on gray"},
            "red :: 1, on gray :: 1": {"negatives": "red :: 1\non gray :: 1"},
            "red :: 4, on gray :: 1": {"negatives": "red :: 4\non gray :: 1"},
        }),
        "mask": ("a circle on gray", "red", {
            "NAG off": OFF, "everywhere": {}, "inside a disc": {"mask": "Inside", **mask},
            "outside of it": {"mask": "Outside", **mask},
        }),
        "heat": ("a circle", "red", {"NAG off": OFF, "NAG on": {}, "heat map": {"heat_map": True}}),
    }  # fmt: skip


def main(folder: str) -> None:
    """Writes every sheet into `folder`."""
    from starlette.testclient import TestClient

    from nag_core.sandbox.app import create_app

    client = TestClient(create_app({"nowebui": True}))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, (prompt, negative, rows) in sheets().items():
        drawn = {label: draw(client, (prompt, negative), {**NAG, **nag}) for label, nag in rows.items()}
        about = f'"{prompt}"' + (f", negative: {negative}" if negative else "")
        sheet(about, drawn).save(Path(folder, f"advanced-{name}.png"), optimize=True)


def sheet(about: str, rows: dict[str, list[Image.Image]]) -> Image.Image:
    """The rows below each other, each behind its label."""
    size = (LEFT + SEEDS * (CELL + GAP), TOP + len(rows) * (CELL + GAP))
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    pen.text((LEFT, 4), about, "#a00000", font)
    for row, (label, pictures) in enumerate(rows.items()):
        y = TOP + row * (CELL + GAP)
        pen.text((6, y + CELL // 2 - 9), label, "black", font)
        for column, picture in enumerate(pictures):
            small = picture.resize((CELL, CELL), Image.Resampling.NEAREST)
            page.paste(small, (LEFT + column * (CELL + GAP), y))
    return page


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m nag_core.sandbox.gallery FOLDER")
    main(sys.argv[1])
