"""The one table of model families. Standard library only."""

from __future__ import annotations

from typing import NamedTuple

CROSS, JOINT = "cross", "joint"


class Family(NamedTuple):
    """One architecture, named as presets and reports name it."""

    name: str
    mechanism: str  # how text reaches the image: CROSS, or JOINT in one sequence
    row: str  # of the presets, which Auto takes
    # Of Forge's and Neo's engines (backend/diffusion_engine), of diffusers' models.
    classes: tuple[str, ...] = ()


FAMILIES = (
    Family("SD1.5", CROSS, "SD1.5"),
    Family("SD2", CROSS, "SD1.5"),
    Family("SDXL", CROSS, "SDXL"),
    Family("PixArt-Sigma", CROSS, "PixArt-Sigma", ("PixArtTransformer2DModel",)),
    Family("SANA", CROSS, "SANA", ("SanaTransformer2DModel",)),
    Family("Wan2.1", CROSS, "Wan2.1", ("Wan", "WanTransformer3DModel")),
    Family("Anima", CROSS, "Anima Turbo (community)", ("Anima",)),
    Family("SD3", JOINT, "SD3.5"),
    Family("SD3.5", JOINT, "SD3.5", ("SD3Transformer2DModel",)),
    Family("Flux", JOINT, "Flux", ("Flux", "FluxTransformer2DModel")),
    Family("Chroma", JOINT, "Flux", ("Chroma", "ChromaTransformer2DModel")),
    Family("Flux.2 Klein", JOINT, "Flux.2 Klein (community)", ("Flux2", "Flux2Transformer2DModel")),
    Family("Qwen-Image", JOINT, "Flux", ("QwenImage", "QwenImageTransformer2DModel")),
    Family("Qwen-Image 2.1", JOINT, "Flux", ("QwenImage21Transformer2DModel",)),
    Family("Z-Image", JOINT, "Z-Image Turbo (community)", ("ZImage", "ZImageTransformer2DModel")),
    Family("Lumina 2", JOINT, "Flux", ("Lumina2",)),
    Family("Krea 2", JOINT, "Krea 2 (community)", ("Krea2",)),
    Family("Ernie", JOINT, "Flux", ("ErnieImage",)),
)
FAMILY = {family.name: family for family in FAMILIES}
_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def of_class(kind: type) -> Family | None:
    """The family of an engine's or a model's class, by the name of it or of a base class."""
    return next((_BY_CLASS[one.__name__] for one in kind.__mro__ if one.__name__ in _BY_CLASS), None)
