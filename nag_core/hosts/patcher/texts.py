"""Whether prompt and negative are the same texts as in the step before, as far as a host lets us know."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

OURS = "nag_guidance.py"
# Functions that get the conditions before the network does (the second is reForge's).
HANDS = ("sampler_pre_cfg_function", "sampler_calc_cond_batch_function")


def texts_in_use(c: Any, uc: Sequence | None) -> Callable[[int], tuple[Hashable, Hashable]]:
    """Names for the texts of prompt and negative at a sampler step: the schedule entries that the host takes
    there.

    c: the prompt's MulticondLearnedConditioning; uc: the negative's schedules, one per image, None where the
        host has none. The rule is that of modules/prompt_parser.py: the first entry that has not ended, else
        the first of all.
    """
    prompts = [[part.schedules for part in image] for image in c.batch]
    negatives = list(uc or ())

    def at(step: int) -> tuple[Hashable, Hashable]:
        return (
            tuple(tuple(_entry(schedule, step) for schedule in image) for image in prompts),
            tuple(_entry(schedule, step) for schedule in negatives),
        )

    return at


def _entry(schedule: Sequence, step: int) -> int:
    return next((i for i, part in enumerate(schedule) if step <= part.end_at_step), 0)


def may_change(model_options: dict) -> bool:
    """Whether somebody else has a hand on the conditions between the schedules and the network (CADS adds
    noise to them in every step). Then a schedule's entry says nothing about the text that arrives.
    """
    from modules import script_callbacks

    modifiers = model_options.get("conditioning_modifiers", ())
    foreign = any(not hasattr(modifier, "nag_session") for modifier in modifiers)
    if foreign or any(model_options.get(name) for name in HANDS):
        return True
    replaces = model_options.get("transformer_options", {}).get("patches_replace", {})
    if replaces.get("attn2"):
        return True  # a replacer (IP-Adapter) could write into the kept keys and values
    listeners = getattr(script_callbacks, "callback_map", {}).get("callbacks_cfg_denoiser")
    return listeners is None or any(Path(str(one.script)).name != OURS for one in listeners)
