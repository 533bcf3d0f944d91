"""The contact sheet: rows of pictures behind their labels, columns below their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Lines of text with their colours; a picture's negative is red everywhere.
Caption = Sequence[tuple[str, str]]
NEGATIVE = "#a00000"


@dataclass(frozen=True)
class Look:
    """Sizes of a sheet in pixels."""

    cell: int  # a picture's side
    gap: int  # behind and below each picture
    left: int  # room for the labels
    top: int  # room for a caption
    size: int  # of the letters
    line: int  # from one line of a caption to the next
    between: int = 0  # behind the last picture of a column
    margin: int = 4  # left of a label


def sheet(
    captions: Sequence[Caption],
    rows: Sequence[tuple[str, Sequence[Sequence[Any]]]],
    look: Look,
    columns: int | None = None,
) -> Any:
    """A PIL picture.

    captions: one for each column. rows: a label and, for each column, its pictures: PIL, `look.cell` pixels
    square, of one number everywhere. columns: more than this go on below; all stand side by side without.
    """
    from PIL import Image, ImageDraw

    columns = min(columns or len(captions), len(captions))
    step = look.cell + look.gap
    width, height = len(rows[0][1][0]) * step + look.between, look.top + len(rows) * step
    size = (look.left + columns * width, -(-len(captions) // columns) * height)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for number, caption in enumerate(captions):
        x, y = look.left + number % columns * width, number // columns * height
        for index, (text, colour) in enumerate(caption):
            write(pen, (x, y + look.line // 4 + look.line * index), text, colour, look.size)
        for row, (label, pictures) in enumerate(rows):
            below = y + look.top + row * step
            if number % columns == 0:
                at = (look.margin, below + look.cell // 2 - (look.size + 4) // 2)
                write(pen, at, label, "black", look.size)
            for index, picture in enumerate(pictures[number]):
                page.paste(picture, (x + index * step, below))
    return page


def write(pen: Any, at: tuple[int, int], text: str, colour: str, size: int) -> None:
    """Text in letters of `size` pixels, where this Pillow has them."""
    from PIL import ImageFont

    try:
        font = ImageFont.load_default(size=size)
    except TypeError:
        # Pillow before 10.1 has one small font, without letters beyond Latin-1.
        font, text = ImageFont.load_default(), text.encode("latin-1", "replace").decode("latin-1")
    pen.text(at, text, colour, font)
