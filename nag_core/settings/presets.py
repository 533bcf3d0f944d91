"""The built-in presets: strengths per model family (paper, Table 5), variants of them, and which row Auto
takes. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nag_core.settings.families import CROSS, FAMILY, JOINT

AUTO = "Auto"
CUSTOM = "Custom"
STRENGTHS = ("scale", "tau", "alpha")  # the fields that every preset sets


@dataclass(frozen=True, slots=True)
class Strength:
    """phi, tau and alpha of eq. 7-10; phi is the paper's scale (0 = off). offset: VSF's."""

    phi: float
    tau: float
    alpha: float
    offset: float = 0.0


# arXiv 2505.21179, Table 5.
TABLE_5: dict[str, Strength] = {
    "SDXL": Strength(2.0, 2.5, 0.5),
    "SD1.5": Strength(2.0, 2.5, 0.375),
    "Flux": Strength(4.0, 2.5, 0.25),
    "SD3.5": Strength(4.0, 2.5, 0.125),
    "Playground": Strength(2.0, 2.5, 0.5),
    "SANA": Strength(4.0, 2.5, 0.375),
    "PixArt-Sigma": Strength(4.0, 2.5, 0.375),
    "Wan2.1": Strength(4.0, 2.5, 0.25),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A named deviation from a family's row; `family` Auto takes the row of the loaded model."""

    family: str
    values: Mapping[str, float | str]


VARIANTS: dict[str, Variant] = {
    # Table 9, theta = 0.25: few-step models keep nearly the whole effect at less than half of the extra cost.
    "Few-step": Variant(AUTO, {"end": 0.25}),
    # The authors in ComfyUI-NAG#10: nag_scale above 6, that is phi above 5, for SDXL at 20 steps and more.
    "SDXL 20+ steps": Variant("SDXL", {"scale": 6.0}),
    # The authors again: tau 2.5 and alpha 0.125 for v-prediction SDXL, which high strengths wreck.
    "SDXL v-pred": Variant("SDXL", {"alpha": 0.125}),
    # arXiv 2508.10931 and its code, for SD3.5-Large-Turbo at 8 steps.
    "SD3.5-L-Turbo VSF": Variant("SD3.5", {"method": "VSF", "scale": 3.5, "vsf_offset": 0.1}),
}

CHOICES: tuple[str, ...] = (AUTO, CUSTOM, *TABLE_5, *VARIANTS)

_NEAREST = {CROSS: "SDXL", JOINT: "Flux"}


def auto(family: str, mechanism: str = CROSS) -> str:
    """The row of Table 5 for a model family; unknown families take the row of their mechanism ("cross" or
    "joint").
    """
    return FAMILY[family].row if family in FAMILY else _NEAREST[mechanism]


def asks_model(name: str) -> bool:
    """Whether the strength under this preset is that of the loaded model's row."""
    variant = VARIANTS.get(name)
    return AUTO in (name, variant.family if variant else name)


def values(name: str, family: str = "", mechanism: str = CROSS) -> dict[str, float | str]:
    """What a built-in preset sets, by field name; empty for every other name. Without a `family` what depends
    on the loaded model is left out.
    """
    variant = VARIANTS.get(name)
    row_name = variant.family if variant else name
    if row_name == AUTO:
        row_name = auto(family, mechanism) if family else ""
    row = TABLE_5.get(row_name)
    strength = {"scale": row.phi, "tau": row.tau, "alpha": row.alpha} if row else {}
    return {**strength, **(variant.values if variant else {})}
