"""Reading a WebUI's answer: which picture has which seed, and what its text says NAG did.

Behind stable-diffusion-webui-distributed a batch is drawn by several machines. A grid may come first, more
pictures than asked for may come, the texts may be in another order than the pictures, and the text inside a
worker's picture is written by the main WebUI, which does not know what the worker did. So pictures are told
by their seed, never by their place, and a worker's own text, which names it, wins.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nag_core.evaluate.plan import NAG, Plan

_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
LABEL, REPORT, APPLIED = "Worker Label", "NAG report", "NAG applied"
# What reports of 0.1, which had the sentence only, said of a picture that was guided in a part only.
PARTLY = re.compile(
    r"unguided|off from call|off after the refiner|could not be installed|negatives for \d+ images"
)
LOST_TEXT = "not confirmed: drawn by a worker whose own text was lost on the way"


class BadAnswerError(Exception):
    """The answer holds no pictures that can be used; the text says why."""


@dataclass(frozen=True)
class Picture:
    """PNG bytes, seed and infotext. `lost`: the text is not that of the machine that drew it."""

    png: bytes
    seed: int
    infotext: str
    lost: bool = False


def parameters(infotext: str) -> dict[str, str]:
    """The `Key: value` line of an infotext; empty for a text without one."""
    lines = [line for line in infotext.splitlines() if re.match(r"\s*Steps: \d", line)]
    found = {}
    for key, value in _PARAMETER.findall(lines[-1] if lines else ""):
        found[key] = _unquoted(value) if value.startswith('"') else value.strip()
    return found


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _seed(infotext: str) -> int | None:
    text = parameters(infotext).get("Seed", "")
    return int(text) if text.isdigit() else None


def pictures(answer: Any, size: tuple[int, int]) -> dict[int, Picture]:
    """The answer's pictures of `size` (width, height) by seed; grids have another size and are left out.

    Raises BadAnswerError.
    """
    encoded = answer.get("images") if isinstance(answer, Mapping) else None
    if not isinstance(encoded, list) or not encoded:
        raise BadAnswerError("the answer holds no pictures")
    info = _info(answer.get("info"))
    decoded = [_decoded(one) for one in encoded]
    single = [index for index, (_, text, its_size) in enumerate(decoded) if its_size == size]
    if not single:
        width, height = decoded[0][2]
        raise BadAnswerError(f"pictures came in {width}x{height} instead of {size[0]}x{size[1]}")
    texts = [text for text in info.get("infotexts") or [] if isinstance(text, str)]
    own: dict[int | None, str] = {}
    for text in texts:
        if _seed(text) not in own or LABEL in parameters(text):
            own[_seed(text)] = text
    split = any(LABEL in parameters(text) for text in texts)
    found: dict[int, Picture] = {}
    for place, index in enumerate(single):
        png, inside, _ = decoded[index]
        seed = _seed(inside)
        if seed is None:
            seed = _listed_seed(info, texts, place, len(single), index, len(decoded))
        if seed is not None and seed not in found:
            found[seed] = Picture(png, seed, own.get(seed, inside), lost=split and seed not in own)
    if not found:
        raise BadAnswerError("the pictures carry no seed: neither in their text nor in the answer's info")
    return found


def _listed_seed(
    info: Mapping[str, Any], texts: list[str], place: int, singles: int, index: int, count: int
) -> int | None:
    """The seed of a picture without a text inside, from the lists beside the pictures where they fit."""
    seeds = info.get("all_seeds")
    if isinstance(seeds, list) and len(seeds) == singles and isinstance(seeds[place], int):
        return seeds[place]
    return _seed(texts[index]) if len(texts) == count else None


def _info(text: Any) -> Mapping[str, Any]:
    try:
        info = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        info = None
    return info if isinstance(info, Mapping) else {}


def _decoded(encoded: Any) -> tuple[bytes, str, tuple[int, int]]:
    """PNG bytes, the text inside, and the size."""
    from PIL import Image

    try:
        data = base64.b64decode(str(encoded).rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            text, size, kind = str(image.info.get("parameters", "")), image.size, image.format
            if kind != "PNG":
                # The WebUI is set to another format; the pixels are kept as they came.
                out = io.BytesIO()
                image.convert("RGB").save(out, "PNG")
                data = out.getvalue()
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise BadAnswerError("a picture cannot be decoded") from error
    return data, text, size


def applied(said: Mapping[str, str]) -> bool:
    """Whether a picture's parameters say that it was guided wherever its job asked for it."""
    if APPLIED in said:
        return said[APPLIED] == "fully"
    return not (said[REPORT].startswith("not applied") or PARTLY.search(said[REPORT]))


def problems(picture: Picture, arm: str, plan: Plan) -> list[str]:
    """Why a picture is not what its arm asked for; empty when it is. A NAG that was not is one reason."""
    said = parameters(picture.infotext)
    worker = f" (worker {said[LABEL]})" if LABEL in said else ""
    found = []
    if picture.lost:
        found.append(LOST_TEXT)
    elif arm == NAG and REPORT not in said:
        found.append(f"no NAG report{worker}: the WebUI that drew it lacks the extension, or an old one")
    elif arm == NAG and not applied(said):
        found.append(f"{said[REPORT]}{worker}")
    elif arm != NAG and "NAG scale" in said:
        found.append(f"NAG was on although it was asked to be off{worker}")
    for key, wanted in (("Steps", plan.steps), ("CFG scale", plan.cfg_of(arm))):
        if key in said and _number(said[key]) != float(wanted):
            found.append(f"drawn with {key} {said[key]} instead of {wanted:g}{worker}")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
