"""A job's settings into the picture's parameters, and back into the accordion when they are pasted.

The readers are module-level functions on purpose: the hosts match a field of one tab with the same field of
the other by equality, and the same function object in both tabs is what lets "Send to img2img" carry NAG
while pasting a picture without NAG still switches it off (webui-conventions 1.6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from nag_core.settings import presets
from nag_core.settings.parse import FIELD, FIELDS, Field, Settings, named
from nag_core.webui import negative_text

REPORT = "NAG report"
# What a picture was made with, however it was chosen: always written. Their presence means NAG was on.
_CORE = ("scale", "tau", "alpha")


def clear(parameters: dict[str, Any]) -> None:
    """Removes our keys: XYZ cells share one dict, a neighbour's values would end up in this picture."""
    for key in (REPORT, *(field.infotext for field in FIELDS)):
        parameters.pop(key, None)


def write(parameters: dict[str, Any], settings: Settings, strength: presets.Strength) -> None:
    """Records an enabled job. Auto and the user's presets are recorded as their values: a picture must not
    depend on what they were. The name of a built-in one is added where its values stand unchanged.
    """
    core = {"scale": strength.phi, "tau": strength.tau, "alpha": strength.alpha}
    for field in FIELDS:
        value = core.get(field.name, getattr(settings, field.name))
        if field.name in _CORE or (field.name not in ("enabled", "preset") and value != field.default):
            parameters[field.infotext] = _writable(value, field.infotext)
    fixed = presets.values(settings.preset)
    if set(_CORE) <= set(fixed) and all(
        fixed[name] == core.get(name, getattr(settings, name)) for name in fixed
    ):
        parameters["NAG preset"] = settings.preset


def write_negatives(parameters: dict[str, Any], texts: Sequence[str]) -> None:
    """Records the NAG negatives of a batch's images that differ, as the list that hosts read by image."""
    key = FIELD["negative"].infotext
    parameters[key] = [_writable(text, key) for text in texts]


def _writable(value: Any, key: str) -> Any:
    """The value as the hosts' parameter line brings it back: that line loses blanks around a text and quotes
    around it, unless the text is quoted; the hosts do that themselves only where a comma, a colon or a line
    end is in it. Of a text that is its own key they write the key alone.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    text = str(value)
    safe = text == text.strip() != key and not (text.startswith('"') and text.endswith('"'))
    return text if safe or any(mark in text for mark in ",:\n") else json.dumps(text, ensure_ascii=False)


def present(parameters: dict[str, Any]) -> bool:
    """Whether the picture was made with NAG on."""
    return any(f"NAG {name}" in parameters for name in _CORE)


def _read(field: Field, parameters: dict[str, Any]) -> Any:
    """The field's value for the accordion; what was not written was at its default. None leaves the control
    alone.
    """
    if field.name == "enabled":
        return present(parameters)
    if not present(parameters):
        return None
    value = _found(field.infotext, parameters)
    if field.name == "preset":
        return value if value in field.choices else presets.CUSTOM
    # As arguments are read: held within the range, the default where it is none.
    value = named({field.name: value}, []).get(field.name, field.default)
    return _WITHOUT_STYLES[field.name](value, parameters) if field.name in _WITHOUT_STYLES else value


_WITHOUT_STYLES = {
    "negative": negative_text.without_styles,
    "negatives": negative_text.lines_without_styles,
}


def _found(key: str, parameters: dict[str, Any]) -> Any:
    """What stands under `key`; the hosts take any 3x4 for a size and put it under two keys."""
    size = [parameters.get(f"{key}-{side}") for side in (1, 2)]
    return parameters.get(key, "x".join(map(str, size)) if None not in size else None)


def _reader(field: Field) -> Callable[[dict[str, Any]], Any]:
    def read(parameters: dict[str, Any]) -> Any:
        return _read(field, parameters)

    read.__name__ = read.__qualname__ = f"nag_{field.name}"
    return read


READERS: dict[str, Callable[[dict[str, Any]], Any]] = {field.name: _reader(field) for field in FIELDS}
