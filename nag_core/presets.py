"""Strengths per model family (paper, Table 5) and which of them Auto takes. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "Auto"
CUSTOM = "Custom"


@dataclass(frozen=True, slots=True)
class Strength:
    """phi, tau and alpha of eq. 7-10; phi is the paper's scale (0 = off)."""

    phi: float
    tau: float
    alpha: float


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

CHOICES: tuple[str, ...] = (AUTO, CUSTOM, *TABLE_5)

# Families without a row of their own: the paper gives no value, so the nearest relative's is taken.
_RELATIVES: dict[str, str] = {"SD2": "SD1.5", "SDXL refiner": "SDXL", "SD3": "SD3.5", "Chroma": "Flux"}
_NEAREST = {"cross": "SDXL", "joint": "Flux"}


def auto(family: str, mechanism: str = "cross") -> str:
    """The row of Table 5 for a model family; unknown families take the row of their mechanism ("cross" or
    "joint").
    """
    if family in TABLE_5:
        return family
    return _RELATIVES.get(family) or _NEAREST[mechanism]
