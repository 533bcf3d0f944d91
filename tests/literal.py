"""What an argument list says, read by hand-labelled tables and not by the parser; and what an answer leaves
unsaid of it.
"""

import json
import math

from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT

# The literal forms that mean off on purpose; a list without a first argument does, too.
OFF = (False, 0, 0.0, None, "")
OFF_WORDS = ("off", "no", "false", "0")
ON_WORDS = ("on", "yes", "true", "1")
# Texts that are numbers although Python's float() or a reader of English would not say so.
NUMBERS = {"١٢": 12.0, "４": 4.0, "４，５": 4.5}
NAMES = {"phi": ("scale", 0), "nag_scale": ("scale", -1), "nag_tau": ("tau", 0), "nag_alpha": ("alpha", 0)}
_NOTHING = object()


def _object(slot):
    """A JSON object, as itself or as text."""
    if isinstance(slot, str) and slot.strip().startswith("{"):
        try:
            slot = json.loads(slot)
        except ValueError:
            return None
    return slot if isinstance(slot, dict) else None


def sources(args):
    """The objects in an argument list in falling precedence: overrides, second slot, first slot."""
    found = [args[place] for place in (OVERRIDES_SLOT, 1, 0) if len(args) > place]
    return [one for one in map(_object, found) if one is not None]


def literal(field, args):
    """What was written for a field, with what its name adds to a number; `_NOTHING` for nothing."""
    for source in sources(args):
        for key, value in reversed(source.items()):  # of two names for one setting the later one counts
            name, shift = NAMES.get(key, (key, 0))
            if name == field.name and value is not None:
                return value, shift
    if field.name == "enabled" and args and _object(args[0]) is not None:
        return True, 0
    places = [place for place in range(len(FIELDS) + 1) if place != OVERRIDES_SLOT]
    place = places[FIELDS.index(field)]
    value = args[place] if len(args) > place else _NOTHING
    if place in (0, 1) and _object(value) is not None:
        value = _NOTHING
    return (_NOTHING if value is None and field.name != "enabled" else value), 0


def meant(field, value, shift):
    """The value that a literal plainly is; None where it is none."""
    if field.kind == "bool":
        if isinstance(value, str):
            word = value.strip().lower()
            return True if word in ON_WORDS else False if value == "" or word in OFF_WORDS else None
        return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None
    if field.kind == "float":
        return _number(value, shift)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if field.kind == "choice":
        named = {choice.lower(): choice for choice in field.choices}
        return named.get(str(value).strip().lower()) if isinstance(value, str) else None
    return str(value)


def _number(value, shift):
    if isinstance(value, str):
        plain = value.strip()
        if plain in NUMBERS:
            return NUMBERS[plain] + shift
        if not plain.isascii() or "_" in plain or plain.lower().strip("+-") in ("nan", "inf", "infinity"):
            return None
        value = plain.replace(",", ".", 1)
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number + shift if math.isfinite(number) else None


def unsaid(args, used, said):
    """Fields whose value in use is not what was written, and of which the answer says nothing.

    used: values by field name, as /nag/v1/status gives them. said: the report in the picture's parameters.
    """
    notes = said.strip('"').split("; ")
    preset, _ = literal(FIELDS[1], args)
    given = [key for source in sources(args) for key, value in source.items() if value is not None]
    by_name = {NAMES.get(key, (key, 0))[0] for key in given}
    missing = []
    for field in FIELDS:
        value, shift = literal(field, args)
        # A preset wins over the sliders: that is the rule, and no news.
        slider = field.name in ("scale", "tau", "alpha", "end") and field.name not in by_name
        if value is _NOTHING or (slider and meant(FIELDS[1], preset, 0) != "Custom"):
            continue
        if field.name == "enabled" and not used["enabled"] and _off_on_purpose(value):
            continue
        wanted = meant(field, value, shift)
        others = [name for name, (meant_by, _) in NAMES.items() if meant_by == field.name]
        about = [f"{name} " for name in (field.name, field.name.replace("_", " "), *others)]
        if field.name in ("negative", "negatives"):
            about += ["LoRA tags in the NAG negative", "wildcards in the NAG negative", "the NAG negative"]
        if wanted != used[field.name] and not any(note.startswith(tuple(about)) for note in notes):
            missing.append((field.name, value, used[field.name]))
    return missing


def _off_on_purpose(value):
    if isinstance(value, str):
        return value == "" or value.strip().lower() in OFF_WORDS
    return value in OFF if isinstance(value, (bool, int, float, type(None))) else False
