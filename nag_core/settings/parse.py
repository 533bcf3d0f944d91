"""The settings of a job, parsed from what a host hands over. Standard library only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nag_core.settings import presets
from nag_core.settings.fields import (
    FIELD,
    FIELDS,
    HIRES_BOTH,
    HIRES_FIRST,
    HIRES_ONLY,
    MASK_INSIDE,
    MASK_OFF,
    MASK_OUTSIDE,
    METHODS,
    OVERRIDES_SLOT,
    Field,
)
from nag_core.settings.schedule import Curve, Window, parse_curve

__all__ = [
    "FIELD", "FIELDS", "HIRES_BOTH", "HIRES_FIRST", "HIRES_ONLY", "MASK_INSIDE", "MASK_OFF",
    "MASK_OUTSIDE", "METHODS", "OVERRIDES_SLOT", "Field", "Request", "Settings", "named", "parse",
]  # fmt: skip

# phi and the official code's nag_scale are accepted in the dict form; nag_scale counts 1 as off.
_ALIASES = {
    "phi": ("scale", 0.0),
    "nag_scale": ("scale", -1.0),
    "nag_tau": ("tau", 0.0),
    "nag_alpha": ("alpha", 0.0),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What one job asked for. `explicit`: the fields given by dict or overrides; they win over a preset."""

    enabled: bool = FIELD["enabled"].default
    preset: str = FIELD["preset"].default
    scale: float = FIELD["scale"].default
    tau: float = FIELD["tau"].default
    alpha: float = FIELD["alpha"].default
    start: float = FIELD["start"].default
    end: float = FIELD["end"].default
    negative: str = FIELD["negative"].default
    method: str = FIELD["method"].default
    hires: str = FIELD["hires"].default
    hires_scale: float = FIELD["hires_scale"].default
    curve: str = FIELD["curve"].default
    blocks: str = FIELD["blocks"].default
    negatives: str = FIELD["negatives"].default
    mask: str = FIELD["mask"].default
    mask_feather: float = FIELD["mask_feather"].default
    mask_image: str = FIELD["mask_image"].default
    heat_map: bool = FIELD["heat_map"].default
    explicit: frozenset[str] = frozenset()

    @property
    def window(self) -> Window:
        return Window(self.start, self.end)

    @property
    def strength_curve(self) -> Curve:
        return parse_curve(self.curve)


@dataclass(frozen=True, slots=True)
class Request:
    """Parsed settings and what had to be said about the input (clamped, unknown, unreadable)."""

    settings: Settings
    notes: tuple[str, ...] = ()


def parse(args: Sequence[Any], user_presets: Mapping[str, Mapping[str, Any]] | None = None) -> Request:
    """Settings from a script's argument slots; never raises, whatever the slots hold.

    Precedence: overrides slot > dict (slot 0, or slot 1 after a bool) > positional values > preset, except
    that what a preset sets wins over the sliders. A dict without "enabled" means on. Missing slots take the
    defaults, slots behind the last field are ignored. `user_presets`: values by field name, by preset name.
    """
    notes: list[str] = []
    own = user_presets or {}
    fields = {**FIELD, "preset": replace(FIELD["preset"], choices=(*FIELD["preset"].choices, *own))}
    slots = list(args)[: len(FIELDS) + 1]
    given: dict[str, Any] = {}
    for index in (0, 1):
        if len(slots) > index and isinstance(slots[index], Mapping):
            given.update({"enabled": True} if index == 0 else {})
            given.update((key, value) for key, value in slots[index].items() if value is not None)
            slots[index] = None
    overrides = _read_overrides(slots.pop(OVERRIDES_SLOT) if len(slots) > OVERRIDES_SLOT else None, notes)
    positional = dict(zip(FIELD, slots, strict=False))
    values = {name: _coerce(fields[name], value, notes) for name, value in positional.items()}
    explicit: dict[str, Any] = {}
    for source in (given, overrides):
        explicit.update(named(source, notes, fields))
    values.update(explicit)
    preset = values.get("preset", presets.AUTO)
    values.update({**presets.values(preset), **named(own.get(preset, {}), notes), **explicit})
    settings = replace(Settings(**values), explicit=frozenset(explicit) - {"enabled"})
    return Request(settings, tuple(dict.fromkeys(notes)))


def named(source: Mapping[Any, Any], notes: list[str], fields: Mapping[str, Field] = FIELD) -> dict[str, Any]:
    """Coerced values by field name; unknown names and None are left out, unknown names with a note."""
    values: dict[str, Any] = {}
    for key, value in source.items():
        name, shift = _ALIASES.get(key, (key, 0.0)) if isinstance(key, str) else (key, 0.0)
        if name not in fields:
            notes.append(f"unknown setting {_short(key)} ignored")
        elif value is not None:
            number = _number(value) if shift else None
            values[name] = _coerce(fields[name], value if number is None else number + shift, notes)
    return values


def _read_overrides(slot: Any, notes: list[str]) -> Mapping[Any, Any]:
    """The hidden overrides slot: a JSON object as text (what XYZ writes), or a dict."""
    if isinstance(slot, Mapping):
        return slot
    if slot is None or slot == "":
        return {}
    try:
        value = json.loads(slot) if isinstance(slot, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        notes.append(f"overrides {_short(slot)} is not a JSON object, ignored")
        return {}
    return value


def _coerce(field: Field, value: Any, notes: list[str]) -> Any:
    """`value` as the field's type within its range; None and unreadable values become the default, with a
    note.
    """
    if value is None:
        return field.default
    reader = {"bool": _boolean, "float": _number, "choice": _choice(field), "text": _text}[field.kind]
    read = reader(value)
    if read is None:
        notes.append(f"{field.name} {_short(value)} not understood, {field.default!r} used")
        return field.default
    if field.check is not None:
        try:
            field.check(read)
        except ValueError as reason:
            notes.append(f"{field.name} {_short(value)} ignored: {reason}")
            return field.default
    if field.kind != "float":
        return read
    held = min(max(read, field.minimum), field.maximum)
    if held != read:
        notes.append(f"{field.name} {read:g} is outside {field.minimum:g}–{field.maximum:g}, {held:g} used")
    return held


_WORDS = dict.fromkeys(("true", "on", "yes", "1"), True) | dict.fromkeys(("false", "off", "no", "0"), False)


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower()) if value.strip() else False
    return bool(value) if isinstance(value, (bool, int, float)) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _choice(field: Field):
    known = {choice.lower(): choice for choice in field.choices}
    return lambda value: known.get(value.strip().lower()) if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python converts
        return None
    # A lone surrogate is legal JSON, and no host can write it into a file.
    return text.encode("utf-8", "replace").decode("utf-8")


def _short(value: Any) -> str:
    """`value` as a quotation of bounded length for a message."""
    try:
        text = repr(value) if isinstance(value, (str, int, float)) else f"of type {type(value).__name__}"
    except ValueError:
        text = "of very many digits"
    return text if len(text) <= 40 else text[:37] + "..."
