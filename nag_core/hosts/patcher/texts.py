"""Whether prompt and negative are the same texts as in the step before, as far as a host lets us know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from nag_core.method.negative import entry_number

logger = logging.getLogger("nag")

OURS = "nag_guidance.py"
# Functions that get the conditions before the network does (the second is reForge's).
HANDS = ("sampler_pre_cfg_function", "sampler_calc_cond_batch_function")


def texts_in_use(p: Any, schedules: tuple | None) -> Callable[[int], tuple[Hashable, Hashable]] | None:
    """Names for the texts of prompt and negative at a sampler step: the schedule entries that the host takes
    there. None where its schedules are not what they are known to be: then nothing is reused.

    schedules: of the prompt (MulticondLearnedConditioning) and of the negative, one per image, None where the
        host has none.
    """
    if schedules is None or getattr(p, "dynamic_clip_skip_sets", None):
        return None  # reForge changes the conditions of every step itself (its clip skip ramp)
    try:
        return _named(*schedules)
    except Exception as error:
        logger.debug("NAG: the prompt's schedules cannot be read", exc_info=error)
        return None


def _named(c: Any, uc: Sequence | None) -> Callable[[int], tuple[Hashable, Hashable]]:
    prompts = [[part.schedules for part in image] for image in c.batch]
    negatives = list(uc or ())

    def at(step: int) -> tuple[Hashable, Hashable]:
        return (
            tuple(tuple(entry_number(schedule, step) for schedule in image) for image in prompts),
            tuple(entry_number(schedule, step) for schedule in negatives),
        )

    return at


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
