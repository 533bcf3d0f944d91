"""How strong a job's guidance is, which strengths each method reads, and why settings ask for no guidance.
Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from nag_core.settings import presets
from nag_core.settings.families import CROSS
from nag_core.settings.parse import Settings
from nag_core.settings.presets import STRENGTHS, Strength
from nag_core.settings.weighted import parse_negatives

READS = {
    "NAG": STRENGTHS,
    "NASA": ("scale",),
    "No normalisation": ("scale", "alpha"),
    "No refinement": ("scale", "tau"),
}


def of(settings: Settings, family: str, mechanism: str = CROSS) -> Strength:
    """phi, tau, alpha for a model family: what was explicit, else the preset's, else the own values (the
    sliders under Custom; under a user preset `parse` has put its values there).
    """
    row = presets.values(settings.preset, family or "unknown", mechanism)
    own = {name: getattr(settings, name) for name in STRENGTHS}
    row = {name: own[name] if name in settings.explicit else row.get(name, own[name]) for name in own}
    return Strength(row["scale"], row["tau"], row["alpha"])


def ended(settings: Settings, family: str, mechanism: str = CROSS) -> Settings:
    """The settings with the End of the row that Auto takes for a model family, where that has one and nobody
    has set Start or End.
    """
    whole = (settings.start, settings.end) == (0, 1) and not settings.explicit & {"start", "end"}
    row = presets.values(settings.preset, family or "unknown", mechanism)
    return replace(settings, end=row["end"]) if whole and "end" in row else settings


def asks_nothing(settings: Settings, strength: Strength) -> str:
    """Why the settings themselves ask for no guidance; empty if they do ask for it."""
    if settings.window.empty:
        return f"the window {settings.start:g}–{settings.end:g} is empty"
    negatives = parse_negatives(settings.negatives)
    if negatives and not any(one.weight for one in negatives):
        return "the weights of the negatives sum to 0"
    curve = settings.strength_curve
    if curve.zero:
        return "the strength over the steps is 0 everywhere"
    if strength.phi == 0 and not curve.points:  # points take the place of the scale
        return "scale φ is 0"
    return "alpha is 0" if strength.alpha == 0 and "alpha" in READS[settings.method] else ""
