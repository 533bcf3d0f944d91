"""Grids, and pictures as text and back."""

from __future__ import annotations

import base64
import io
import math
import os
from typing import Any

from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

LABEL_HEIGHT = 24


def image_grid(imgs: list[Image.Image], batch_size: int = 1, rows: int | None = None) -> Image.Image:
    """The pictures in rows of equal cells."""
    rows = min(rows or max(1, round(math.sqrt(len(imgs)))), len(imgs))
    columns = math.ceil(len(imgs) / rows)
    width, height = (max(image.size[axis] for image in imgs) for axis in (0, 1))
    grid = Image.new("RGB", (columns * width, rows * height), "black")
    for i, image in enumerate(imgs):
        grid.paste(image, (i % columns * width, i // columns * height))
    return grid


def blank(size: tuple[int, int]) -> Image.Image:
    """A cell without a picture."""
    return Image.new("RGB", size, "black")


def labelled(image: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text above it, or as it is without text."""
    if not text:
        return image
    result = Image.new("RGB", (image.width, image.height + LABEL_HEIGHT), "white")
    result.paste(image, (0, LABEL_HEIGHT))
    ImageDraw.Draw(result).text((4, 6), text, fill="black")
    return result


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict[str, Any]]:
    """The infotext of a picture and its other text fields."""
    items = {key: value for key, value in (image.info or {}).items() if isinstance(value, str)}
    return items.pop("parameters", None), items


def save_image(
    image: Image.Image,
    path: str,
    basename: str,
    seed: int | None = None,
    prompt: str | None = None,
    extension: str = "png",
    info: str | None = None,
    p: Any = None,
    suffix: str = "",
) -> tuple[str, None]:
    """Writes the picture under the next number into the folder; the file, and no text beside it."""
    os.makedirs(path, exist_ok=True)
    name = os.path.join(path, f"{len(os.listdir(path)):05}{basename}-{seed}{suffix}.{extension}")
    image.save(name, pnginfo=_text_fields({"parameters": info}))
    return name, None


def _text_fields(fields: dict[str, Any]) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    for key, value in fields.items():
        if isinstance(key, str) and isinstance(value, str):
            text.add_text(key, value)
    return text


def encode_png(image: Image.Image) -> str:
    """Base64 of the picture as PNG, its text fields included."""
    with io.BytesIO() as buffer:
        image.save(buffer, format="PNG", pnginfo=_text_fields(image.info))
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def read(file: Any) -> Image.Image:
    """The picture in a file, turned as its EXIF says, and with the transparency that its palette has."""
    image = ImageOps.exif_transpose(Image.open(file))
    return image.convert("RGBA") if isinstance(image.info.get("transparency"), bytes) else image


def decode_base64(encoded: str) -> Image.Image:
    """The picture in a base64 string or data URL; raises ValueError when there is none."""
    if encoded.startswith("data:image/"):
        encoded = encoded.split(",", 1)[-1]
    try:
        image = read(io.BytesIO(base64.b64decode(encoded)))
        image.load()
    except Exception as error:
        raise ValueError("Invalid encoded image") from error
    return image
