"""Draws the README's picture: the same seeds with NAG off and on, through the sandbox's own API.

`python -m nag_core.sandbox.picture .github/assets/off-on.png`
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PAIRS = (("a circle", "red"), ("a square", "blue"), ("a triangle", "on gray"))
SEEDS = 6
CELL, GAP, LEFT, TOP = 72, 4, 86, 44
NAG = {"enabled": True, "scale": 4, "tau": 2.5, "alpha": 0.5}


def main(path: str) -> None:
    """Writes the picture to `path`."""
    # The sandbox's own page code is not needed, only its API: no port is opened.
    from starlette.testclient import TestClient

    from nag_core.sandbox.app import create_app

    client = TestClient(create_app({"nowebui": True}))
    sheet = _sheet([[draw(client, pair, NAG | {"enabled": nag}) for pair in PAIRS] for nag in (False, True)])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def draw(client: Any, pair: tuple[str, str], nag: dict[str, Any]) -> list[Image.Image]:
    """One prompt and negative, 4 steps, CFG 1, the first seeds there are: none are chosen. With a heat map:
    the maps, which the host returns last.
    """
    prompt, negative = pair
    job = {
        "prompt": prompt,
        "negative_prompt": negative,
        "seed": 1,
        "n_iter": SEEDS,
        "steps": 4,
        "cfg_scale": 1,
    }
    job |= {"width": 256, "height": 256, "do_not_save_grid": True}
    job["alwayson_scripts"] = {"NAG": {"args": [nag]}}
    response = client.post("/sdapi/v1/txt2img", json=job)
    response.raise_for_status()
    pictures = response.json()["images"][-SEEDS:]
    return [Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB") for picture in pictures]


def _sheet(rows: list[list[list[Image.Image]]]) -> Image.Image:
    group = SEEDS * (CELL + GAP) + 4 * GAP
    sheet = Image.new("RGB", (LEFT + group * len(PAIRS), TOP + len(rows) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for column, (prompt, negative) in enumerate(PAIRS):
        x = LEFT + column * group
        draw.text((x, 4), prompt, "black", font)
        draw.text((x, 22), f"negative: {negative}", "#a00000", font)
    for row, (name, pairs) in enumerate(zip(("NAG off", "NAG on"), rows, strict=True)):
        y = TOP + row * (CELL + GAP)
        draw.text((6, y + CELL // 2 - 9), name, "black", font)
        for column, pictures in enumerate(pairs):
            for index, picture in enumerate(pictures):
                small = picture.resize((CELL, CELL), Image.Resampling.NEAREST)
                sheet.paste(small, (LEFT + column * group + index * (CELL + GAP), y))
    return sheet


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].endswith(".png"):
        sys.exit("usage: python -m nag_core.sandbox.picture FILE.png")
    main(sys.argv[1])
