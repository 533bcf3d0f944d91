"""How strong a job's guidance is, which strengths each method reads, and why settings ask for no guidance.
Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from nag_core.settings import presets
from nag_core.settings.families import CROSS, FAMILY
from nag_core.settings.parse import Settings
from nag_core.settings.presets import STRENGTHS, Strength
from nag_core.settings.weighted import parse_negatives

READS = {
    "NAG": STRENGTHS,
    "NASA": ("scale",),
    "No normalisation": ("scale", "alpha"),
    "No refinement": ("scale", "tau"),
    "VSF": ("scale",),
    "Orthogonal": ("scale",),
}
# Where the scale is no phi: scale and offset that Auto takes, by row; "" for every other. What is no author's
# did best on the sandbox's two models (nag_core.evaluate.toy).
_AUTHORS = presets.VARIANTS["SD3.5-L-Turbo VSF"].values
_OWN = {
    "VSF": {"SD3.5": (_AUTHORS["scale"], _AUTHORS["vsf_offset"]), "": (1.0, 1.0)},
    "Orthogonal": {"": (1.0, 0.0)},
}


def of(settings: Settings, family: str, mechanism: str = CROSS) -> Strength:
    """phi, tau, alpha for a model family: what was explicit, else the preset's, else the own values (the
    sliders under Custom; under a user preset `parse` has put its values there).
    """
    row = presets.values(settings.preset, family or "unknown", mechanism)
    own = {name: getattr(settings, name) for name in STRENGTHS}
    offset, (suits, _) = settings.vsf_offset, _of_rule(settings, family)
    if suits:
        row["scale"] = suits[0]
        offset = offset if "vsf_offset" in settings.explicit else offset or suits[1]
    row = {name: own[name] if name in settings.explicit else row.get(name, own[name]) for name in own}
    return Strength(row["scale"], row["tau"], row["alpha"], offset)


def _of_rule(settings: Settings, family: str) -> tuple[tuple[float, float] | None, bool]:
    """What Auto takes for this rule and family in place of the row's phi, and whether it is an author's."""
    rows = _OWN.get(settings.method)
    if rows is None or not presets.asks_model(settings.preset):
        return None, False
    row = presets.auto(family) if family in FAMILY else ""
    return rows.get(row, rows[""]), bool(row) and row in rows


def borrowed(settings: Settings, family: str) -> str:
    """What has to be said of the values that Auto takes for this rule; empty where they are an author's."""
    suits, known = _of_rule(settings, family)
    taken = [] if suits is None or known else [f"scale {suits[0]:g}"] * ("scale" not in settings.explicit)
    if suits and not known and suits[1] and not settings.vsf_offset and "vsf_offset" not in settings.explicit:
        taken.append(f"offset {suits[1]:g}")
    values = ", ".join(taken)
    return values and f"Auto has no {settings.method} values for this model and took a toy's: {values}"


def unread(settings: Settings) -> str:
    """Which strengths that were given by name the method does not read; empty where there are none."""
    names = [name for name in (*STRENGTHS, "vsf_offset") if name in settings.explicit]
    reads = (*READS[settings.method], *(["vsf_offset"] if settings.method == "VSF" else []))
    names = [name for name in names if name not in reads]
    return f"{settings.method} does not read {' and '.join(names)}" if names else ""


def remarks(settings: Settings, family: str, mechanism: str = CROSS) -> list[str]:
    """What has to be said of a job's values: whose Auto or Few-step takes for a model that the paper has none
    for, and which the method ignores.
    """
    own = borrowed(settings, family)
    said = (own, unread(settings), "" if own else _of_row(settings, family, mechanism))
    return [one for one in said if one]


def _of_row(settings: Settings, family: str, mechanism: str) -> str:
    """Whose row the values are from; empty for the paper's of this very model, and where none are taken."""
    row = presets.auto(family, mechanism)
    if not presets.asks_model(settings.preset) or row == family:
        return ""
    given = settings.explicit | presets.values(settings.preset).keys()  # Few-step has an End of its own
    given |= {"end"} if "start" in settings.explicit else set()
    if not presets.values(row).keys() & {*READS[settings.method], "end"} - given:
        return ""
    if row in presets.COMMUNITY:
        return f"{settings.preset} took the values of {row}"
    return f"{settings.preset} has no values for this model ({family}) and took {row}'s"


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
