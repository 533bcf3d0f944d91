"""The mask of a job: the one in its arguments (a picture in base64, arguments stay JSON), else the inpaint
mask.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nag_core.hosts import asked
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.region import Region
from nag_core.settings.parse import MASK_OFF, MASK_OUTSIDE, Request, Settings

# A mask is recorded in the picture's parameters, so it is kept small: finer than any layer's tokens on
# pictures up to 1024 pixels, and no heavier than a long prompt.
LARGEST_SIDE = 128
LARGEST_TEXT = 30_000_000


def compacted(request: Request) -> Request:
    """The request with its mask picture as it will be recorded and used; none, with a note, where no mask is
    asked for and where it cannot be read. The page's picture stays with NAG off, and is nothing to speak of.
    """
    asked = request.settings
    if not asked.mask_image:
        return request
    none = replace(asked, mask_image="")
    if asked.enabled and asked.mask == MASK_OFF:
        return Request(none, (*request.notes, "mask image ignored: Mask is Off"))
    try:
        if asked.enabled:
            return replace(request, settings=replace(asked, mask_image=encoded(decoded(asked.mask_image))))
        _begun(asked.mask_image)
    except ValueError as reason:
        return Request(none, (*request.notes, f"mask image ignored: {reason}"))
    return replace(request, settings=none)


def decoded(text: str) -> Any:
    """The picture (PIL, mode L) in base64 text or a data URL, read as the host reads its own `mask`.
    ValueError if it is none.
    """
    return _read(text, lambda file: flat(_opened(file)))


def _begun(text: str) -> Any:
    """The picture as its first bytes tell it: that it is one costs little."""
    from PIL import Image

    return _read(text, Image.open)


def _read(text: str, reader: Callable[[io.BytesIO], Any]) -> Any:
    from PIL import Image

    if len(text) > LARGEST_TEXT:
        raise ValueError(f"larger than {LARGEST_TEXT // 1_000_000} MB")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return reader(io.BytesIO(base64.b64decode(text, validate=False)))
    except (ValueError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError("it is no picture in base64") from error


def _opened(file: io.BytesIO) -> Any:
    """Turned as its EXIF says and with the transparency of a palette, where the host opens pictures so."""
    from PIL import Image, ImageOps

    try:
        from modules import images
    except ImportError:
        picture = ImageOps.exif_transpose(Image.open(file))
        return picture.convert("RGBA") if isinstance(picture.info.get("transparency"), bytes) else picture
    return asked.call(getattr(images, "read", Image.open), file)


def flat(picture: Any) -> Any:
    """The picture (PIL) as the host's inpainting takes it for a mask, mode L: its alpha channel where that is
    not opaque, else its gray.
    """
    try:
        from modules.processing import create_binary_mask
    except ImportError:
        alpha = picture.mode == "RGBA" and picture.getextrema()[-1] != (255, 255)
        if not alpha:
            return picture.convert("L")
        return picture.getchannel("A").point(lambda value: 255 if value > 128 else 0)
    return asked.call(create_binary_mask, picture)


def encoded(picture: Any) -> str:
    """Base64 of the picture as a small gray PNG, at most LARGEST_SIDE pixels along each side."""
    from PIL import Image

    small = picture.convert("L")
    scale = LARGEST_SIDE / max(small.size)
    if scale < 1:
        sides = (max(1, round(side * scale)) for side in small.size)
        small = small.resize(tuple(sides), Image.Resampling.BOX)
    with io.BytesIO() as buffer:
        small.save(buffer, format="PNG", optimize=True)
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def region(settings: Settings, p: Any) -> Region | None:
    """Where the pass is guided; None for everywhere. `UnsupportedHost` where the mask is missing or leaves
    nothing.
    """
    if settings.mask == MASK_OFF:
        return None
    mask = _uploaded(settings.mask_image, p) if settings.mask_image else _inpaint_mask(p)
    if settings.mask == MASK_OUTSIDE:
        mask = 1 - mask
    if not bool((mask > 0).any()):
        raise UnsupportedHost(f"the mask leaves nothing {settings.mask.lower()}")
    return Region(mask, settings.mask_feather)


def _uploaded(text: str, p: Any) -> Tensor:
    """(h, w) in [0, 1]; the host stretches nothing else over a picture of other proportions, and so it is
    here.
    """
    if getattr(p, "inpaint_full_res", False) and getattr(p, "nmask", None) is not None:
        raise UnsupportedHost(
            "a mask image covers the whole picture, and this job paints a part of it (Only masked); "
            "without one the inpaint mask is taken"
        )
    picture = decoded(text)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width).float() / 255


def _inpaint_mask(p: Any) -> Tensor:
    """The host's own, as it masks the latent: inverted, blurred and cropped the way the job asks for."""
    mask = getattr(p, "nmask", None)
    if not isinstance(mask, Tensor) or mask.dim() < 2:
        raise UnsupportedHost("there is no mask: the job has no inpaint mask and no mask image")
    while mask.dim() > 2:
        mask = mask[0]
    return mask.detach().float().cpu().clamp(0, 1)
