"""Pictures made with other NAG extensions: their parameters translated into ours when they are pasted."""

from __future__ import annotations

import math
from typing import Any

from nag_core.settings.parse import FIELD, HIRES_BOTH, HIRES_FIRST, HIRES_ONLY
from nag_core.webui import infotext

Parameters = dict[str, Any]


def translate(text: str, parameters: Parameters) -> None:
    """on_infotext_pasted: adds our keys to the parameters of a picture another NAG extension made.

    Scales become phi (the official code and ComfyUI count phi + 1). What cannot be read is left out;
    a picture of ours is left alone.
    """
    if infotext.present(parameters):
        return
    for read in (_forge_neo_nag, _perturbed_attention, _naguidance):
        values = read(parameters)
        if "scale" in values:
            parameters.update({FIELD[name].infotext: value for name, value in values.items()})
            return


def _forge_neo_nag(parameters: Parameters) -> Parameters:
    """sd-webui-forge-neo-nag: `Forge NAG`, `Forge NAG Phi` ...; phi as in the paper."""
    if str(parameters.get("Forge NAG")) != "True":
        return {}
    return _numbers(parameters, "Forge NAG Phi", "Forge NAG Tau", "Forge NAG Alpha", "Forge NAG Negative")


def _perturbed_attention(parameters: Parameters) -> Parameters:
    """sd-perturbed-attention's pull request 44: `nag_enabled` beside `nag_scale`, which is phi there; without
    `nag_enabled` the key is another tool's, in the official convention (phi + 1).
    """
    enabled = parameters.get("nag_enabled")
    if enabled is not None and str(enabled) != "True":
        return {}
    values = _numbers(
        parameters,
        "nag_scale",
        "nag_tau",
        "nag_alpha",
        "nag_negative",
        shift=0.0 if enabled is not None else -1.0,
    )
    mode = {"HRFix Off": HIRES_FIRST, "HRFix Only": HIRES_ONLY}.get(parameters.get("nag_hr_mode"), HIRES_BOTH)
    return values | ({"hires": mode} if mode != HIRES_BOTH else {})


def _naguidance(parameters: Parameters) -> Parameters:
    """sd-webui-NAGuidance: `NAG Scale`, `NAG Tau`, `NAG Alpha`; the scale is ComfyUI's (phi + 1)."""
    return _numbers(parameters, "NAG Scale", "NAG Tau", "NAG Alpha", shift=-1.0)


def _numbers(
    parameters: Parameters, scale: str, tau: str, alpha: str, negative: str = "", shift: float = 0.0
) -> Parameters:
    """Our names with what the foreign keys hold, numbers held within our ranges."""
    values: Parameters = {}
    for name, key, offset in (("scale", scale, shift), ("tau", tau, 0.0), ("alpha", alpha, 0.0)):
        number = _number(parameters.get(key))
        if number is not None:
            field = FIELD[name]
            values[name] = min(max(number + offset, field.minimum), field.maximum)
    text = parameters.get(negative)
    return values | ({"negative": str(text)} if text else {})


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
