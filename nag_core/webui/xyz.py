"""The "[NAG] ..." axes of the host's X/Y/Z plot.

A cell is a job on a shallow copy of `p`. An axis writes only into that copy's arguments: into the overrides
slot of a new `script_args`, so that axes combine, win over everything else, and reach distributed workers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nag_core.hosts import asked, which
from nag_core.passes.report import OF_AN_UNKNOWN_HOST
from nag_core.settings import presets
from nag_core.settings.assignments import NotAssignmentsError, assignments, cells
from nag_core.settings.parse import ALIASES, FIELD, FIELDS, OVERRIDES_SLOT, SENDER, Field, parse
from nag_core.settings.presets import STRENGTHS
from nag_core.settings.values import json_object
from nag_core.webui import sender, spared

logger = logging.getLogger("nag")

TITLE = "NAG"
SWITCH = ("off", "on")
NO_EFFECT = "NAG is off: this axis changes nothing"
PLOT_MODULES = ("xyz_grid.py", "scripts.xyz_grid")
# One per setting that is worth a row of pictures; the others are reached through Override.
_AXES = ("enabled", "preset", "scale", "tau", "alpha", "start", "end", "method", "hires", "negative")
_LATER_AXES = tuple(field.name for field in FIELDS if field.axis)

Apply = Callable[[Any, Any, list[Any]], None]
UserPresets = Callable[[], Mapping[str, Mapping[str, Any]]]


def register(user_presets: UserPresets = dict) -> None:
    """Puts the axes into the plot's list, in place of earlier ones of ours. Any number of calls is as one.

    user_presets: their values by name as they are stored now; asked again at every plot.
    Called before the page is built and again from the script's ui(): a server without a page announces
    before_ui only after the scripts' controls exist (webui-conventions 1.8).
    """
    from modules import scripts

    for module in [d.module for d in scripts.scripts_data if d.script_class.__module__ in PLOT_MODULES]:
        options, option_class = (asked.attribute(module, name) for name in ("axis_options", "AxisOption"))
        ours = [_is_ours(option) for option in options]
        # At the same place: hosts build their scripts several times, and a page addresses axes by position.
        place = ours.index(True) if True in ours else len(options)
        kept = [option for option, own in zip(options, ours, strict=True) if not own]
        options[:] = [*kept[:place], *_axes(option_class, user_presets), *kept[place:]]


def _is_ours(option: Any) -> bool:
    """By the function, not by the label: also an axis of an earlier version, in a list that was kept."""
    return getattr(getattr(option, "apply", None), "__module__", None) == __name__


def tell_if_off(p: Any, args: Sequence[Any]) -> None:
    """For a job with NAG off: says that its NAG axes are without effect, once for all cells (they share
    `p.comments`). An axis that turned NAG off is no reason.
    """
    slot = args[OVERRIDES_SLOT] if len(args) > OVERRIDES_SLOT else None
    overrides = {*(json_object(slot) or ())} - {SENDER}
    if not overrides or "enabled" in overrides or NO_EFFECT in (getattr(p, "comments", None) or ()):
        return
    p.comment(NO_EFFECT)
    logger.info(NO_EFFECT)


def _axes(option: type, load: UserPresets) -> list[Any]:
    """One AxisOption per axis, made with nothing but what every host's class takes."""
    made = {}
    for field in (FIELD[name] for name in (*_AXES, *_LATER_AXES)):
        label = f"[NAG] {field.name.replace('_', ' ').capitalize().replace('Vsf', 'VSF')}"
        kind = float if field.kind == "float" else str
        read = partial(_value, field, load)
        more = {} if _choices(field, load) is None else {"choices": partial(_choices, field, load)}
        made[field.name] = option(
            label, kind, _apply(field.name, read, load), _format(field, read), _confirm(read), **more
        )
    settings = partial(_settings, load)
    override = [_apply_settings(settings, load), _format_override(settings), _confirm(settings)]
    return [
        *(made[name] for name in _AXES),
        option("[NAG] Negative S/R", str, _apply_search(load), _format_plain),
        # Where a host splits the text at every comma all the same, a cell with one is quoted as a whole.
        asked.call(option, "[NAG] Override", str, *override, where_taken={"prepare": cells}),
        *(made[name] for name in _LATER_AXES),
    ]


def _choices(field: Field, load: UserPresets) -> list[str] | None:
    """The words an axis takes; None where it takes numbers or text."""
    if field.kind == "bool":
        return list(SWITCH)
    if field.kind != "choice":
        return None
    return [*field.choices, *(load() if field.name == "preset" else ())]


def _apply(name: str, read: Callable[[Any], Any], load: UserPresets) -> Apply:
    # Several negatives would take the place of the one that is swept.
    alone = {"negatives": ""} if name == "negative" else {}

    def apply(p: Any, x: Any, xs: list[Any]) -> None:
        _override(p, {**alone, name: read(x)}, load)

    return apply


def _apply_settings(read: Callable[[str], dict[str, Any]], load: UserPresets) -> Apply:
    def apply(p: Any, x: str, xs: list[str]) -> None:
        _override(p, read(x), load)

    return apply


def _confirm(read: Callable[[Any], Any]) -> Callable[[Any, list[Any]], None] | None:
    """Reads all values before the first picture. None where the host (SD.Next) keeps what this raises to
    itself and answers without a picture (its scripts/xyz_grid.py, process_axis): there the cells' labels,
    which are made before the first picture as well, raise it.
    """
    host = which.detected()
    if host is not None and not host.confirms_axes:
        return None

    def confirm(p: Any, xs: list[Any]) -> None:
        for x in xs:
            read(x)

    return confirm


def _format(field: Field, read: Callable[[Any], Any]) -> Callable[[Any, Any, Any], str]:
    def format_value(p: Any, opt: Any, x: Any) -> str:
        value = read(x)
        if field.kind == "bool":
            return f"{field.label} {SWITCH[value]}"
        if field.kind == "text" and not value.strip():
            return f"{field.infotext}: {'the main one' if field.name == 'negative' else '-'}"
        return f"{field.infotext}: {value:g}" if field.kind == "float" else f"{field.infotext}: {value}"

    return format_value


def _format_override(read: Callable[[str], Any]) -> Callable[[Any, Any, str], str]:
    def format_value(p: Any, opt: Any, x: str) -> str:
        read(x)
        return x

    return format_value


def _format_plain(p: Any, opt: Any, x: str) -> str:
    return x


def _apply_search(load: UserPresets) -> Apply:
    """Search and replace in the job's several negatives, else in its NAG negative. Where both are empty, in
    the main negative, whose text then becomes the NAG negative (the main one stays what it is: it is CFG's).
    """

    def apply(p: Any, x: str, xs: list[str]) -> None:
        args, start = _arguments(p)
        settings = parse(args[start : start + len(FIELDS) + 1]).settings
        name = "negatives" if settings.negatives.strip() else "negative"
        text = getattr(settings, name)
        if not text.strip():
            text = p.negative_prompt if isinstance(p.negative_prompt, str) else ""
        if not xs[0] or xs[0] not in text:
            raise RuntimeError(
                f"[NAG] Negative S/R did not find {xs[0]} in the NAG negative prompt: {text!r}"
            )
        replaced = text.replace(xs[0], x)
        if not replaced.strip():
            raise RuntimeError(
                f"[NAG] Negative S/R: {x!r} leaves nothing of {text!r}, and empty means the main negative"
            )
        _override(p, {name: replaced}, load)

    return apply


def _settings(load: UserPresets, cell: str) -> dict[str, Any]:
    """`scale=4 tau=2.5; method=No refinement` as values by field name, names as in the API."""

    def words(name: str) -> list[str]:
        return _choices(FIELD[name], load) or [] if name in FIELD else []

    try:
        found = assignments(cell, words)
    except NotAssignmentsError:
        raise RuntimeError(
            f"[NAG] Override: {cell!r} is not of the form scale=4 tau=2.5; a value that holds = or ; stands "
            'in double quotes, and a double quote in it is written twice: preset="a=b"'
        ) from None
    values: dict[str, Any] = {}
    for name, value in found:
        field = FIELD.get(ALIASES.get(name, (name,))[0])
        if field is None:
            known = ", ".join((*FIELD, *ALIASES))
            raise RuntimeError(f"[NAG] Override: no setting {name!r}; allowed are {known}")
        read = _value(field, load, value, name)
        if values.setdefault(field.name, read) != read:
            raise RuntimeError(f"[NAG] Override: {cell!r} sets {field.name} twice")
    return values


def _value(field: Field, load: UserPresets, x: Any, name: str = "") -> Any:
    """`x` as the field's value, read as the arguments of a job are. RuntimeError where those would be held or
    not understood: the plot shall not show a picture under a value it was not made with. name: what the
    setting is called, where that is not the field's name.
    """
    # Ranges of the hosts arrive as 0.30000000000000004 and may end a rounding error above the maximum.
    x = round(x, 8) if isinstance(x, float) else x
    request = parse([{name or field.name: x}], load() if field.name == "preset" else None)
    if request.notes and field.check is not None:
        raise RuntimeError("; ".join(request.notes))
    if request.notes or (x == "" and field.kind != "text"):
        shift = ALIASES.get(name, ("", 0.0))[1]
        allowed = ", ".join(
            _choices(field, load) or [f"{field.minimum - shift:g} to {field.maximum - shift:g}"]
        )
        raise RuntimeError(f"{name if shift else field.infotext} {x!r}: allowed are {allowed}")
    return getattr(request.settings, field.name)


def _script(p: Any) -> Any:
    """Our script among the job's."""
    scripts = asked.attribute(p.scripts, "alwayson_scripts") if p.scripts is not None else ()
    for script in scripts or ():
        if script.name == TITLE.lower() and script.args_from != script.args_to:
            return script
    raise RuntimeError("NAG is not among the scripts of this job")


@spared.hook("an axis of the plot has no effect", place=0, spares=OF_AN_UNKNOWN_HOST)
def _override(p: Any, values: dict[str, Any], load: UserPresets) -> None:
    """Merges `values` into the overrides of this cell. What holds the arguments is replaced: all cells share
    it.
    """
    args, start = _arguments(p)
    while len(args) <= start + OVERRIDES_SLOT:
        slot = len(args) - start
        args.append(FIELDS[slot].default if 0 <= slot < OVERRIDES_SLOT else None)
    preset = values.get("preset", presets.CUSTOM)
    if preset != presets.CUSTOM:
        supplied = {*STRENGTHS, *presets.values(preset), *load().get(preset, ())}
        args[start : start + 2] = [_without(slot, supplied) for slot in args[start : start + 2]]
    slot = start + OVERRIDES_SLOT
    # The new values last: an older one under another name (phi for scale) must not be read after them.
    kept = {key: value for key, value in (json_object(args[slot]) or {}).items() if key not in values}
    args[slot] = json.dumps({**kept, **values})
    sender.note(p, args, start, start + len(FIELDS) + 1, load())
    if _by_title(p) is not None:
        p.per_script_args = {**p.per_script_args, TITLE: args}
    else:
        p.script_args = tuple(args) if isinstance(p.script_args, tuple) else args


def _arguments(p: Any) -> tuple[list[Any], int]:
    """A copy of the list that the host takes our arguments of this job from, and where in it they begin."""
    script, own = _script(p), _by_title(p)
    return (list(p.script_args), script.args_from) if own is None else (list(own), 0)


def _by_title(p: Any) -> Sequence[Any] | None:
    """SD.Next keeps what the API gave a script under its title, and looks there first
    (modules/scripts_manager.py); None where it was given nothing so, and on every other host.
    """
    return (getattr(p, "per_script_args", None) or {}).get(TITLE)


def _without(slot: Any, names: set[str]) -> Any:
    """The dict form without these settings, whatever they are called there: they win over a preset, and an
    axis of presets would show the same picture in every cell.
    """
    given = json_object(slot)
    if given is None:
        return slot
    return {key: value for key, value in given.items() if not parse([{key: value}]).settings.explicit & names}
