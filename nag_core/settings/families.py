"""The one table of model families. Standard library only."""

from __future__ import annotations

from typing import NamedTuple

CROSS, JOINT = "cross", "joint"
PAPER, RELATIVE = "paper, Table 5", "its nearest relative's"


class Family(NamedTuple):
    """One architecture, named as presets and reports name it."""

    name: str
    mechanism: str  # how text reaches the image: CROSS, or JOINT in one sequence
    row: str  # of Table 5, which Auto takes
    source: str = RELATIVE  # of these values
    classes: tuple[
        str, ...
    ] = ()  # of Forge's and Neo's engines (backend/diffusion_engine), of diffusers' models


FAMILIES = (
    Family("SD1.5", CROSS, "SD1.5", PAPER),
    Family("SD2", CROSS, "SD1.5"),
    Family("SDXL", CROSS, "SDXL", PAPER),
    Family("SDXL refiner", CROSS, "SDXL"),
    Family("Playground", CROSS, "Playground", PAPER),
    Family("PixArt-Sigma", CROSS, "PixArt-Sigma", PAPER, ("PixArtTransformer2DModel",)),
    Family("SANA", CROSS, "SANA", PAPER, ("SanaTransformer2DModel",)),
    Family("Wan2.1", CROSS, "Wan2.1", PAPER, ("Wan", "WanTransformer3DModel")),
    Family("Anima", CROSS, "Wan2.1", classes=("Anima",)),
    Family("SD3", JOINT, "SD3.5"),
    Family("SD3.5", JOINT, "SD3.5", PAPER, ("SD3Transformer2DModel",)),
    Family("Flux", JOINT, "Flux", PAPER, ("Flux", "FluxTransformer2DModel")),
    Family("Chroma", JOINT, "Flux", classes=("Chroma", "ChromaTransformer2DModel")),
    Family("Flux.2", JOINT, "Flux", classes=("Flux2",)),
    Family("Qwen-Image", JOINT, "Flux", classes=("QwenImage", "QwenImageTransformer2DModel")),
    Family("Z-Image", JOINT, "Flux", classes=("ZImage",)),
    Family("Lumina 2", JOINT, "Flux", classes=("Lumina2",)),
    Family("Krea 2", JOINT, "Flux", classes=("Krea2",)),
    Family("Ernie", JOINT, "Flux", classes=("ErnieImage",)),
)
FAMILY = {family.name: family for family in FAMILIES}
_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def of_class(kind: type) -> Family | None:
    """The family of an engine's or a model's class, by the name of it or of a base class."""
    return next((_BY_CLASS[one.__name__] for one in kind.__mro__ if one.__name__ in _BY_CLASS), None)
