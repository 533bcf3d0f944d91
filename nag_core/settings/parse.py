"""The settings of a job, parsed from what a host hands over. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
from nag_core.settings.values import json_object, quoted, reader

__all__ = [
    "ALIASES", "FIELD", "FIELDS", "HIRES_BOTH", "HIRES_FIRST", "HIRES_ONLY", "MASK_INSIDE", "MASK_OFF",
    "MASK_OUTSIDE", "METHODS", "OVERRIDES_SLOT", "SENDER", "Field", "Problem", "Request", "Settings", "named",
    "parse",
]  # fmt: skip

# The overrides slot brings along what another machine has saved under this name (webui/sender.py).
SENDER = "sender"
# Other names of a setting, and what is added to a number under them; nag_scale counts 1 as off.
ALIASES = {
    "phi": ("scale", 0.0),
    "nag_scale": ("scale", -1.0),
    "nag_tau": ("tau", 0.0),
    "nag_alpha": ("alpha", 0.0),
    "vsf_scale": ("scale", 0.0),
    "neg_method": ("method", 0.0),
}


class Problem(NamedTuple):
    """What has to be said about an argument. field: whose value in use is named behind it; "" for none."""

    text: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one job asked for.

    explicit: the fields given by dict or overrides; they win over a preset. each_negative: the NAG negatives
    of the job's images, where wildcards make them differ; `negative` is the first one's then.
    """

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
    vsf_offset: float = FIELD["vsf_offset"].default
    hires_tau: float = FIELD["hires_tau"].default
    hires_alpha: float = FIELD["hires_alpha"].default
    explicit: frozenset[str] = frozenset()
    each_negative: tuple[str, ...] = ()

    @property
    def window(self) -> Window:
        return Window(self.start, self.end)

    @property
    def strength_curve(self) -> Curve:
        return parse_curve(self.curve)

    def of_hires(self) -> Settings:
        """The settings of a hires pass: its own scale, tau and alpha where they are set. The points of a
        curve stand in for its scale, too.
        """
        own = {name: getattr(self, f"hires_{name}") for name in presets.STRENGTHS}
        own = {name: value for name, value in own.items() if value > 0}
        if self.strength_curve.points:
            own.pop("scale", None)
        return replace(self, **own, explicit=self.explicit | own.keys())


@dataclass(frozen=True, slots=True)
class Request:
    """Parsed settings and what had to be said about the input (clamped, unknown, unreadable)."""

    settings: Settings
    notes: tuple[str, ...] = ()


def parse(
    args: Sequence[Any],
    user_presets: Mapping[str, Mapping[str, Any]] | None = None,
    of_model: Callable[[Settings], presets.Strength] | None = None,
) -> Request:
    """Settings from a script's argument slots; never raises, whatever the slots hold.

    Precedence: overrides slot > dict (slot 0, or slot 1 after a bool) > positional values > preset, except
    that what a preset sets wins over the sliders. A dict without "enabled" means on, and may come as JSON
    text. Missing slots take the defaults, slots behind the last field are ignored. What cannot be read counts
    as not given. `user_presets`: values by field name, by preset name. `of_model`: the strength that settings
    come to on the loaded model; asked only where a message has to name it.
    """
    problems: list[Problem] = []
    own = user_presets or {}
    fields = {**FIELD, "preset": replace(FIELD["preset"], choices=(*FIELD["preset"].choices, *own))}
    slots = list(args)[: len(FIELDS) + 1]
    given: dict[Any, Any] = {}
    for index in (0, 1):
        named_values = json_object(slots[index]) if len(slots) > index else None
        if named_values is not None:
            given.update((key, value) for key, value in named_values.items() if value is not None)
            slots[index] = True if index == 0 else None  # a dict is an order by itself
    overrides = slots.pop(OVERRIDES_SLOT) if len(slots) > OVERRIDES_SLOT else None
    values = _readable(dict(zip(FIELD, slots, strict=False)), problems, fields)
    explicit: dict[str, Any] = {}
    for source in (given, _overrides(overrides, problems)):
        explicit.update(named(source, problems, fields))
    preset = {**values, **explicit}.get("preset", presets.AUTO)
    supplied = {**presets.values(preset), **named(own.get(preset, {}), problems)}
    settings = Settings(**{**values, **supplied, **explicit}, explicit=frozenset(explicit) - {"enabled"})
    return Request(settings, _notes(problems, settings, of_model))


def named(
    source: Mapping[Any, Any], problems: list[Problem], fields: Mapping[str, Field] = FIELD
) -> dict[str, Any]:
    """The values that can be read, by field name and held within their ranges; None is left out."""
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in _by_vsf(source).items():
        name, shift = ALIASES.get(key, (key, 0.0)) if isinstance(key, str) else (key, 0.0)
        if name not in fields:
            problems.append(Problem(f"unknown setting {quoted(key)} ignored"))
            continue
        before = values.get(name)
        values.update(_readable({name: value}, problems, fields, key, shift))
        if before is not None and values[name] != before:
            problems.append(Problem(f"{keys[name]} and {key} are the same setting", name))
        keys[name] = key
    return values


def _by_vsf(source: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Of tools that hand over a scale for VSF beside NAG's: the method's own, and VSF where none is named."""
    if source.get("vsf_scale") is None:
        return source
    method = source.get("method", source.get("neg_method"))
    if method is not None and str(method).strip().lower() != "vsf":
        return {key: value for key, value in source.items() if key != "vsf_scale"}
    others = {key: value for key, value in source.items() if ALIASES.get(key, (key,))[0] != "scale"}
    return {**({} if method else {"method": "VSF"}), **others, "vsf_scale": source["vsf_scale"]}


def _readable(
    source: Mapping[str, Any],
    problems: list[Problem],
    fields: Mapping[str, Field],
    key: str = "",
    shift: float = 0.0,
) -> dict[str, Any]:
    """Of values by field name, those that can be read. key: what a single one was called. shift: is added."""
    values: dict[str, Any] = {}
    for name, value in source.items():
        field = fields[name]
        read = None if value is None else reader(field)(value)
        if read is not None:
            read, problem = _held(field, read + shift if shift else read, value, key or name)
        else:
            problem = "" if value is None else f"{key or name} {quoted(value)} not understood"
        if problem:
            problems.append(Problem(problem, name))
        if read is not None:
            values[name] = read
    return values


def _held(field: Field, read: Any, value: Any, key: str) -> tuple[Any, str]:
    """The value within its field's range, None for a text that means nothing; and what is wrong with it."""
    if field.check is not None:
        try:
            field.check(read)
        except ValueError as reason:
            return None, f"{key} {quoted(value)} ignored: {reason}"
    if field.kind != "float":
        return read, ""
    least = field.gap if read > field.minimum else field.minimum
    held = min(max(read, least), field.maximum)
    if held == read:
        return read, ""
    shown = f"{key} {read:g}" if key == field.name else f"{key} {quoted(value)} ({field.name} {read:g})"
    return held, f"{shown} is outside {least:g}–{field.maximum:g}"


def _overrides(slot: Any, problems: list[Problem]) -> Mapping[Any, Any]:
    """The hidden overrides slot: a JSON object as text (what XYZ writes), or a dict."""
    if slot is None or slot == "":
        return {}
    found = json_object(slot)
    if found is None:
        problems.append(Problem(f"overrides {quoted(slot)} is not a JSON object, ignored"))
        return {}
    return {key: value for key, value in found.items() if key != SENDER}


def _notes(
    problems: list[Problem], settings: Settings, of_model: Callable[[Settings], presets.Strength] | None
) -> tuple[str, ...]:
    """The problems as sentences, each with the value that is used in the end."""
    used = {field.name: _shown(getattr(settings, field.name)) for field in FIELDS}
    of_row = {*presets.STRENGTHS} - settings.explicit if presets.asks_model(settings.preset) else set()
    if of_row & {problem.field for problem in problems}:
        row = ("the model's own",) * len(presets.STRENGTHS)
        if of_model is not None:
            strength = of_model(settings)
            row = tuple(map(_shown, (strength.phi, strength.tau, strength.alpha)))
        used |= {name: shown for name, shown in zip(presets.STRENGTHS, row, strict=True) if name in of_row}
    said = (f"{text}, {used[name]} used" if name else text for text, name in problems)
    return tuple(dict.fromkeys(said))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else quoted(value)
