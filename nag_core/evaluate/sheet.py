"""The contact sheet: rows off, NAG and CFG, a column for each pair, the first seed of each; none chosen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from nag_core.evaluate.plan import CFG, NAG, OFF, Pair, Plan, Spot
from nag_core.evaluate.store import Record

CELL, GAP, LEFT, TOP = 160, 4, 76, 68
# More pairs than this go on below.
COLUMNS = 8


def sheet(plan: Plan, records: Mapping[Spot, Record]) -> bytes:
    """A PNG. What is not drawn is grey; what does not count has a red frame and says so."""
    from PIL import Image, ImageDraw

    columns = min(len(plan.pairs), COLUMNS)
    bands = -(-len(plan.pairs) // COLUMNS)
    band = TOP + len(plan.arms) * (CELL + GAP)
    image = Image.new("RGB", (LEFT + columns * (CELL + GAP), bands * band), "white")
    draw = ImageDraw.Draw(image)
    names = {OFF: "NAG off", NAG: "NAG on", CFG: f"CFG {plan.cfg_of(CFG):g}"}
    for number, pair in enumerate(plan.pairs):
        x, y = LEFT + number % COLUMNS * (CELL + GAP), number // COLUMNS * band
        _caption(draw, x, y, pair)
        for row, arm in enumerate(plan.arms):
            at = (x, y + TOP + row * (CELL + GAP))
            if number % COLUMNS == 0:
                _write(draw, (4, at[1] + CELL // 2 - 8), names[arm], "black")
            _place(image, draw, at, records.get(Spot(number, plan.seeds[0], arm)))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _place(image: Any, draw: Any, at: tuple[int, int], record: Record | None) -> None:
    from PIL import Image

    box = (*at, at[0] + CELL - 1, at[1] + CELL - 1)
    if record is None:
        draw.rectangle(box, fill="#dddddd")
        _write(draw, (at[0] + 6, at[1] + 6), "not drawn", "black")
        return
    with Image.open(record.path) as picture:
        scale = CELL / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        small = picture.convert("RGB").resize(size, resample)
    image.paste(small, (at[0] + (CELL - small.width) // 2, at[1] + (CELL - small.height) // 2))
    if record.problems:
        draw.rectangle(box, outline="#d00000", width=4)
        _write(draw, (at[0] + 8, at[1] + 8), "does not count", "#d00000")


def _caption(draw: Any, x: int, y: int, pair: Pair) -> None:
    lines = _wrapped(pair.prompt, 2)
    for index, line in enumerate(lines):
        _write(draw, (x, y + 3 + 15 * index), line, "black")
    for index, line in enumerate(_wrapped(f"negative: {pair.negative}", 2)):
        _write(draw, (x, y + 3 + 15 * (len(lines) + index)), line, "#a00000")


def _wrapped(text: str, lines: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 24, max_lines=lines, placeholder=" …") or [""]


def _write(draw: Any, at: tuple[int, int], text: str, colour: str) -> None:
    from PIL import ImageFont

    try:
        font = ImageFont.load_default(size=12)
    except TypeError:
        # Pillow before 10.1 has one small font, without letters beyond Latin-1.
        font, text = ImageFont.load_default(), text.encode("latin-1", "replace").decode("latin-1")
    draw.text(at, text, colour, font)
