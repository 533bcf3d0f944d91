"""The line in the accordion's header: what Auto takes for the model that is loaded, what may fit better."""

from __future__ import annotations

import math
from typing import Any

from nag_core.hosts import model, which
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings import presets, strength
from nag_core.settings.fields import FIELD
from nag_core.settings.hints import hint
from nag_core.settings.parse import Settings
from nag_core.settings.values import number

UNKNOWN = "values known after the first picture"


def answer(
    preset: str = presets.AUTO, steps: str = "", cfg_scale: str = "", start: str = "", end: str = "",
    method: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The values that a preset takes from the model that is loaded (none is for this), the same as a line to
    show, and a hint. steps, cfg_scale: of the page. start, end, method: NAG's; where the first two are set,
    the row's End is not taken.
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
        method = method if method in strength.READS else FIELD["method"].default
        asked = Settings(preset=preset, method=method, start=_number(start, 0.0), end=_number(end, 1.0))
        found |= _values(asked, family, mechanism)
    name = model.checkpoint(sd_model)
    return {
        **found,
        "hint": hint(preset, family, name, _number(steps, math.nan), _number(cfg_scale, math.nan)),
    }


def _values(asked: Settings, family: str, mechanism: str) -> dict[str, Any]:
    row = presets.auto(family, mechanism)
    used, ended = strength.of(asked, family, mechanism), strength.ended(asked, family, mechanism)
    values = {"scale": used.phi, "tau": used.tau, "alpha": used.alpha, "end": ended.end}
    whose = row if row == family or row in presets.COMMUNITY else f"{row}'s, none for {family}"
    whose = "a toy's" if strength.borrowed(asked, family) else whose
    named = zip(presets.STRENGTHS, "φτα", strict=True)
    read = [f"{letter} {values[name]:g}" for name, letter in named if name in strength.READS[asked.method]]
    read += [f"offset {used.offset:g}"] if asked.method == "VSF" else []
    parts = [f"{whose}: {' '.join(read)}"]
    parts += [f"{ended.start:g}–{ended.end:g}"] if ended != asked else []
    return {"row": row, "strength": values, "line": " · ".join(parts)}


def _number(text: str, otherwise: float) -> float:
    read = number(text)
    return otherwise if read is None else read
