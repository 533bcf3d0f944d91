"""The built-in presets: strengths per model family (the paper's Table 5, and what users have published),
variants of them, and which row Auto takes. Standard library only.
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
class Community:
    """Values that users of a model have published; nobody has measured them.

    end: the part of the steps, where the source leaves the last ones out. made_with: what they are for.
    source, address: whose they are, and where they stand. base: whether for the undistilled model, too.
    """

    strength: Strength
    end: float
    made_with: str
    source: str
    address: str
    base: bool = True


# For models that the paper does not have. Of several sources the one with the smaller phi times alpha.
COMMUNITY: dict[str, Community] = {
    # nag_scale 1.5 to 2.3, sigma end 0.7 to 0.9: at the model's shift of 3 half of the steps are above 0.75.
    "Z-Image Turbo (community)": Community(
        Strength(1.0, 2.5, 0.25), 0.5, "Turbo", "scottmudge, ComfyUI-NAG pull request 64",
        "https://github.com/ChenDarYen/ComfyUI-NAG/pull/64", base=False,
    ),
    # Its largest nag_scale, 1.5. Others publish phi 4 with alpha 0.25 (ComfyUI-Krea2-NAG) or 0.125.
    "Krea 2 (community)": Community(
        Strength(0.5, 3.5, 0.5), 1.0, "Turbo and Raw without CFG", "Wan2GP, models/krea2",
        "https://github.com/deepbeepmeep/Wan2GP/tree/8681e9f777f9f847f74a0bdefd13d5b9a6efe12d/models/krea2",
    ),
    # nag_scale 6 until sigma 0.75: on the workflows' own schedules 4 of 4 and 8 of 10 steps.
    "Flux.2 Klein (community)": Community(
        Strength(5.0, 2.0, 0.25), 0.8, "4B and 9B at 4 steps, base with Turbo LoRA at 10",
        "BigStationW, ComfyUi-TextEncodeEditAdvanced, workflows",
        "https://github.com/BigStationW/ComfyUi-TextEncodeEditAdvanced/tree/"
        "93a508d09918c2c624a267bc9b9f33535ca72ee6/workflow",
    ),
    "Anima Turbo (community)": Community(
        Strength(2.0, 2.5, 0.5), 0.5, "Turbo LoRA at CFG 1, 8–12 steps",
        "hybskgks28275, ComfyUI-Anima-NAG, README",
        "https://github.com/hybskgks28275/ComfyUI-Anima-NAG", base=False,
    ),
}  # fmt: skip


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

CHOICES: tuple[str, ...] = (AUTO, CUSTOM, *TABLE_5, *COMMUNITY, *VARIANTS)

_NEAREST = {CROSS: "SDXL", JOINT: "Flux"}


def auto(family: str, mechanism: str = CROSS) -> str:
    """The row for a model family; unknown families take the row of their mechanism ("cross" or "joint")."""
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
    return {**_row(row_name), **(variant.values if variant else {})}


def _row(name: str) -> dict[str, float]:
    published = COMMUNITY.get(name)
    row = published.strength if published else TABLE_5.get(name)
    if row is None:
        return {}
    end = {"end": published.end} if published and published.end < 1 else {}
    return {"scale": row.phi, "tau": row.tau, "alpha": row.alpha, **end}
