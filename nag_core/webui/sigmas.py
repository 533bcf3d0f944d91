"""An end by sigma, as other tools record it, in steps of the schedule that the picture was sampled on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

logger = logging.getLogger("nag")


def share_until(sigma: float, parameters: Mapping[str, Any]) -> float | None:
    """The part of the picture's steps whose sigma is `sigma` or more, by the host's own sampler for the model
    that is loaded; None where it cannot tell (no model yet, a sampler that counts in timesteps, SD.Next).

    parameters: those of a pasted picture.
    """
    try:
        steps = int(parameters["Steps"])
        schedule = _schedule(str(parameters.get("Sampler") or ""), _scheduler(parameters), steps)
    except Exception as error:
        logger.debug("NAG: the schedule of a pasted picture cannot be read", exc_info=error)
        return None
    guided = sum(one >= sigma for one in schedule[:-1])
    # Rounded down: a window of 0.6667 of three steps would reach into the third.
    return math.floor(guided / (len(schedule) - 1) * 10**4) / 10**4


def _scheduler(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("Schedule type") or "Automatic")


def _schedule(sampler: str, scheduler: str, steps: int) -> list[float]:
    """One sigma for each step, falling, and the last one's end."""
    from modules import sd_models, sd_samplers

    made = sd_samplers.create_sampler(sampler, sd_models.model_data.sd_model)
    job = SimpleNamespace(
        steps=steps, sampler_name=sampler, scheduler=scheduler, hr_scheduler=None, is_hr_pass=False,
        sampler_noise_scheduler_override=None, extra_generation_params={},
    )  # fmt: skip
    return [float(one) for one in made.get_sigmas(job, steps)]
