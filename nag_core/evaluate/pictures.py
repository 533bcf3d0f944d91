"""A run's pictures side by side: rows off, NAG and CFG, the first seed of each pair; none are chosen."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

from nag_core.evaluate import sheet
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.plan import CFG, NAG, OFF, Plan, Spot
from nag_core.evaluate.store import Record

LOOK = sheet.Look(cell=160, gap=4, left=76, top=68, size=12, line=15)
COLUMNS = 8


def contact_sheet(plan: Plan, records: Mapping[Spot, Record]) -> bytes:
    """A PNG. What is not drawn is grey; what does not count has a red frame and says so."""
    names = {OFF: "NAG off", NAG: "NAG on", CFG: f"CFG {plan.cfg_of(CFG):g}"}
    places, seed = range(len(plan.pairs)), plan.seeds[0]
    rows = [
        (names[arm], [[_cell(records.get(Spot(place, seed, arm)))] for place in places]) for arm in plan.arms
    ]
    out = io.BytesIO()
    image = sheet.sheet([_caption(pair) for pair in plan.pairs], rows, LOOK, COLUMNS)
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _cell(record: Record | None) -> Any:
    from PIL import Image, ImageDraw

    side = LOOK.cell
    cell = Image.new("RGB", (side, side), "white" if record else "#dddddd")
    pen = ImageDraw.Draw(cell)
    if record is None:
        sheet.write(pen, (6, 6), "not drawn", "black", LOOK.size)
        return cell
    with Image.open(record.path) as picture:
        scale = side / max(picture.size)
        size = [max(1, round(length * scale)) for length in picture.size]
        resample = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        small = picture.convert("RGB").resize(size, resample)
    cell.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    if record.problems:
        pen.rectangle((0, 0, side - 1, side - 1), outline="#d00000", width=4)
        sheet.write(pen, (8, 8), "does not count", "#d00000", LOOK.size)
    return cell


def _caption(pair: Pair) -> sheet.Caption:
    negative = _wrapped(f"negative: {pair.negative}")
    return [(line, "black") for line in _wrapped(pair.prompt)] + [(line, sheet.NEGATIVE) for line in negative]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 24, max_lines=2, placeholder=" …") or [""]
