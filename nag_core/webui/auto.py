"""What Auto takes for the model that is loaded, and what may fit better, for the accordion's header."""

from __future__ import annotations

import math
from typing import Any

from nag_core.hosts import model, which
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings import presets, strength
from nag_core.settings.hints import hint
from nag_core.settings.parse import Settings
from nag_core.settings.reading import number

UNKNOWN = "values known after the first picture"


def answer(
    preset: str = presets.AUTO, steps: str = "", cfg_scale: str = "", start: str = "", end: str = ""
) -> dict[str, Any]:
    """The values that a preset takes from the model that is loaded (none is for this), the same as a line to
    show, and a hint. steps, cfg_scale: of the page. start, end: NAG's; where they are set, the row's End is
    not taken.
    """
    try:
        sd_model, host = model.loaded(), which.detect()
    except UnsupportedHost:
        sd_model = None
    if sd_model is None:
        shown = UNKNOWN if presets.asks_model(preset) else ""
        return {"family": None, "row": None, "strength": None, "line": shown, "hint": ""}
    family, mechanism = model.family(sd_model), model.mechanism(sd_model, host)
    found = {"family": family, "row": None, "strength": None, "line": ""}
    if presets.asks_model(preset):
        found |= _values(preset, family, mechanism, _number(start, 0.0), _number(end, 1.0))
    name = model.checkpoint(sd_model)
    return {
        **found,
        "hint": hint(preset, family, name, _number(steps, math.nan), _number(cfg_scale, math.nan)),
    }


def _values(preset: str, family: str, mechanism: str, start: float, end: float) -> dict[str, Any]:
    row = presets.auto(family, mechanism)
    asked = Settings(preset=preset, start=start, end=end)
    used, ended = strength.of(asked, family, mechanism), strength.ended(asked, family, mechanism)
    values = {"scale": used.phi, "tau": used.tau, "alpha": used.alpha, "end": ended.end}
    whose = row if row == family or row in presets.COMMUNITY else f"{row}'s, none for {family}"
    parts = [f"{whose}: φ {used.phi:g} τ {used.tau:g} α {used.alpha:g}"]
    parts += [f"{ended.start:g}–{ended.end:g}"] if ended != asked else []
    return {"row": row, "strength": values, "line": " · ".join(parts)}


def _number(text: str, otherwise: float) -> float:
    read = number(text)
    return otherwise if read is None else read
