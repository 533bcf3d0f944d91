"""Values as people and their programs write them: numbers, switches, names, texts, JSON objects.

Every reader gives None for what it cannot read, and raises for nothing. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from nag_core.settings.fields import Field

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# What keyboards of other scripts give for the signs of a number.
_SIGNS = {"．": ".", "٫": ".", "，": ",", "＋": "+", "－": "-", "−": "-"}
_WORDS = dict.fromkeys(("true", "on", "yes"), True) | dict.fromkeys(("false", "off", "no"), False)


def json_object(value: Any) -> Mapping[Any, Any] | None:
    """A mapping, or the one in JSON text; None for everything else."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else None


def number(value: Any) -> float | None:
    """A finite number; in text with blanks around it, digits of any script, a comma before the decimals."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        value = "".join(map(_plain, value.strip()))
        if _NUMBER.fullmatch(value) is None:
            return None
        value = value.replace(",", ".")
    try:
        read = float(value)
    except OverflowError:
        return None
    return read if math.isfinite(read) else None


def _plain(character: str) -> str:
    return str(unicodedata.decimal(character, _SIGNS.get(character, character)))


def switch(value: Any) -> bool | None:
    """A boolean, 0 or 1, or one of these in text or as a word; an empty text is off."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if value == "" or word in _WORDS:
            return _WORDS.get(word, False)
    return {0: False, 1: True}.get(number(value))


def choice(value: Any, choices: tuple[str, ...]) -> str | None:
    """One of the `choices`, in whatever case it is written."""
    known = {one.lower(): one for one in choices}
    return known.get(value.strip().lower()) if isinstance(value, str) else None


def text(value: Any) -> str | None:
    """A text, also of a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        read = str(value)
    except ValueError:  # an integer of more digits than Python converts
        return None
    # A lone surrogate is legal JSON, and no host can write it into a file.
    return read.encode("utf-8", "replace").decode("utf-8")


def reader(field: Field) -> Callable[[Any], Any]:
    """The reader for the field's kind."""
    if field.kind == "choice":
        return lambda value: choice(value, field.choices)
    return {"bool": switch, "float": number, "text": text}[field.kind]


def quoted(value: Any) -> str:
    """`value` as a quotation of bounded length, for a message."""
    try:
        shown = repr(value) if isinstance(value, (str, int, float)) else f"of type {type(value).__name__}"
    except ValueError:
        shown = "of very many digits"
    return shown if len(shown) <= 40 else shown[:37] + "..."
