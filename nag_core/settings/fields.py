"""The one table of user-facing fields.

The accordion, the API, infotext, schema, XYZ and the user's presets all read `FIELDS`; no name, range or
default stands anywhere else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nag_core.settings import blocks, presets, schedule, weighted

METHODS = ("NAG", "NASA", "No normalisation", "No refinement", "VSF", "Orthogonal")
HIRES_BOTH, HIRES_FIRST, HIRES_ONLY = "Both", "First pass", "Hires only"
MASK_OFF, MASK_INSIDE, MASK_OUTSIDE = "Off", "Inside", "Outside"


@dataclass(frozen=True, slots=True)
class Field:
    """One setting. `kind` is bool, float, choice or text; `infotext` is the key in a picture's parameters.

    check: raises ValueError with the reason for a text that means nothing. advanced: stands under "Advanced".
    in_presets: the user's presets hold it where it is not at its default (the strengths they hold always).
    axis: an X/Y/Z axis of its own, behind the older ones. gap: the least value above the minimum, which then
    has a meaning of its own.
    """

    name: str
    label: str
    kind: str
    default: bool | float | str
    infotext: str
    help: str
    minimum: float = 0.0
    maximum: float = 1.0
    step: float = 0.05
    choices: tuple[str, ...] = ()
    lines: int = 1
    check: Callable[[str], object] | None = None
    advanced: bool = False
    in_presets: bool = False
    axis: bool = False
    gap: float = 0.0


# The order is the positional API: never reordered, never shortened.
FIELDS: tuple[Field, ...] = (
    Field("enabled", "NAG", "bool", False, "NAG enabled", "Turn NAG on for this job."),
    Field(
        "preset", "Preset", "choice", presets.AUTO, "NAG preset",
        "Auto takes the values for the loaded model; Custom takes the sliders.",
        choices=presets.CHOICES,
    ),
    Field(
        "scale", "Scale (φ)", "float", 2.0, "NAG scale",
        "How hard to push away from the negative prompt; 0 is off. ComfyUI's nag_scale is this + 1.",
        maximum=20.0, step=0.25,
    ),
    Field(
        "tau", "Tau (τ)", "float", 2.5, "NAG tau",
        "Largest growth of a token's attention output; what exceeds it is scaled back.", minimum=1.0,
        maximum=10.0, step=0.1,
    ),
    Field(
        "alpha", "Alpha (α)", "float", 0.5, "NAG alpha",
        "Share of the guided result in the mix; 0 is off, 1 is all.", step=0.025,
    ),
    Field(
        "start", "Start", "float", 0.0, "NAG start", "Begin at this fraction of the steps.",
        in_presets=True,
    ),
    Field(
        "end", "End", "float", 1.0, "NAG end",
        "Stop at this fraction of the steps; 0.25 keeps most of the effect on few-step models.",
        in_presets=True,
    ),
    Field(
        "negative", "NAG negative prompt", "text", "", "NAG negative",
        "What to steer away from; empty takes the main negative prompt.", lines=2,
    ),
    Field(
        "method", "Method", "choice", METHODS[0], "NAG method",
        "VSF may be worth a try on UNets (SD1.5, SDXL); on a toy of Flux's kind it was no better than NAG.",
        choices=METHODS, in_presets=True,
    ),
    Field(
        "hires", "Hires pass", "choice", HIRES_BOTH, "NAG hires", "Which pass of a hires job is guided.",
        choices=(HIRES_BOTH, HIRES_FIRST, HIRES_ONLY), in_presets=True,
    ),
    Field(
        "hires_scale", "Hires scale (φ)", "float", 0.0, "NAG hires scale",
        "Another scale for the hires pass; 0 keeps the first pass's.", maximum=20.0, step=0.25,
        in_presets=True,
    ),
    # Behind the overrides slot.
    Field(
        "curve", "Strength over the steps", "text", "", "NAG curve",
        "constant, linear or cosine (falling to 0 at End), or points such as 0:4, 0.5:2, 1:0 (steps:scale).",
        check=schedule.parse_curve, advanced=True, in_presets=True, axis=True,
    ),
    Field(
        "blocks", "Blocks", "text", "", "NAG blocks",
        "Only these: input, middle, output, input.4-8 (UNets); double.0-18, single.20-, joint (others).",
        check=blocks.parse_blocks, advanced=True, in_presets=True, axis=True,
    ),
    Field(
        "negatives", "Several negatives", "text", "", "NAG negatives",
        "One per line, with a weight: text :: weight. Used instead of the other negatives.", lines=3,
        check=weighted.parse_negatives, advanced=True, axis=True,
    ),
    Field(
        "mask", "Mask", "choice", MASK_OFF, "NAG mask",
        "Guide only inside or only outside of the inpaint mask, or of the mask image.",
        choices=(MASK_OFF, MASK_INSIDE, MASK_OUTSIDE), advanced=True, in_presets=True, axis=True,
    ),
    Field(
        "mask_feather", "Mask feather", "float", 16.0, "NAG mask feather",
        "Pixels over which the guidance fades in, from the mask's edge inwards.", maximum=256.0, step=8,
        advanced=True, in_presets=True, axis=True,
    ),
    Field(
        "mask_image", "Mask image", "text", "", "NAG mask image",
        "A picture in base64, white is inside; empty takes the inpaint mask.", advanced=True,
    ),
    Field(
        "heat_map", "Heat map", "bool", False, "NAG heat map",
        "Add a picture of where NAG changed the attention, and how much.", advanced=True, in_presets=True,
    ),
    Field(
        "vsf_offset", "VSF offset", "float", 0.0, "NAG VSF offset",
        "By how much VSF lowers the negative's weight; under Auto 0 takes what suits the model.",
        maximum=10.0, step=0.05, in_presets=True, axis=True,
    ),
    Field(
        "hires_tau", "Hires tau (τ)", "float", 0.0, "NAG hires tau",
        "Another tau for the hires pass, from 1; 0 keeps the first pass's.", maximum=10.0, step=0.1,
        in_presets=True, gap=1.0,
    ),
    Field(
        "hires_alpha", "Hires alpha (α)", "float", 0.0, "NAG hires alpha",
        "Another alpha for the hires pass; 0 keeps the first pass's.", step=0.025, in_presets=True,
    ),
)  # fmt: skip
FIELD = {field.name: field for field in FIELDS}
# The hidden overrides slot stands here for good; a field that is added later takes the slot behind it.
OVERRIDES_SLOT = 11
