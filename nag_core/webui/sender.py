"""What the machine that a job was started on has saved, in the job's arguments.

Extensions hand a script's arguments to other machines as JSON (stable-diffusion-webui-distributed does), and
those have saved other presets and another default negative. So both are taken along in the overrides slot, as
soon as a job has arguments: when they are packed depends on the names of folders. A job that brings a sender
is not asked what is saved here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nag_core.settings.parse import OVERRIDES_SLOT, SENDER, parse
from nag_core.settings.values import json_object
from nag_core.webui import options

Presets = Mapping[str, Mapping[str, Any]]


class Sender(NamedTuple):
    """presets: values by name, of the user's own; in arguments those alone that are named there.
    default_negative: that of the settings page.
    """

    presets: Presets
    default_negative: str


def of(args: Sequence[Any], saved: Presets) -> Sender:
    """The sender in a script's arguments; where there is none, this machine with the presets `saved`."""
    found = _overrides(args).get(SENDER)
    if not isinstance(found, Mapping):
        return Sender(saved, options.read(options.NEGATIVE))
    presets, negative = found.get("presets"), found.get("default_negative")
    named = presets.items() if isinstance(presets, Mapping) else ()
    return Sender(
        {name: values for name, values in named if isinstance(values, Mapping)},
        negative if isinstance(negative, str) else "",
    )


def taken_along(p: Any, start: int, end: int, load: Callable[[], Presets]) -> None:
    """Puts this machine into the job's arguments from `start` to `end`, which are a script's, where NAG is on
    and they bring no sender. With NAG off nothing is touched, and no file is read.

    load: gives the presets that are saved here.
    """
    args = list(p.script_args)
    own = args[start:end]
    if SENDER in _overrides(own) or not parse(own).settings.enabled:
        return
    if note(p, args, start, end, load()):
        p.script_args = tuple(args) if isinstance(p.script_args, tuple) else args


def note(p: Any, args: list[Any], start: int, end: int, saved: Presets) -> bool:
    """Whether this machine was written into `args`, which are of job `p`: the presets of `saved` that are
    named there beside those that a former call has noted. NAG is on there, and the slot can be read.
    """
    own, slot = args[start:end], start + OVERRIDES_SLOT
    settings = parse(own, saved).settings
    if not settings.enabled or slot >= end or (args[slot] and json_object(args[slot]) is None):
        return False
    overrides = _overrides(own)
    known = of(own, {}).presets
    named = {name: dict(saved[name]) for name in (settings.preset,) if name in saved}
    # The host puts the job's own settings in force later than this.
    negative = options.of_job(p, options.NEGATIVE)
    sender = Sender({**known, **named}, negative)
    args[slot] = json.dumps({**overrides, SENDER: sender._asdict()})
    return True


def _overrides(args: Sequence[Any]) -> Mapping[Any, Any]:
    slot = args[OVERRIDES_SLOT] if len(args) > OVERRIDES_SLOT else None
    return json_object(slot) or {}
