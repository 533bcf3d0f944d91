"""The stand-in WebUI in several makes: what its functions take, as releases of the real ones differ in it.

"forge" is what nag_core/sandbox/host has: four parameters of the schedule function, 18 arguments of the plot.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

FORGE, NEO, WRAPPED = "forge", "neo", "wrapped"
MAKES = (FORGE, NEO, WRAPPED)

_ENCODERS = (
    "get_learned_conditioning_prompt_schedules",
    "get_learned_conditioning",
    "get_multicond_learned_conditioning",
)
# What the plot asks for besides, before its last two arguments: (label, value).
_PLOT = {
    FORGE: (),
    NEO: (("Row Count", 0),),
    WRAPPED: (("Include time", False), ("Include text", False), ("Create video", False)),
}


def apply(make: str) -> None:
    """Changes the stand-in's modules, before any script is loaded.

    neo: the schedule function and the encoders lost `use_old_scheduling`, and the settings the option (Forge
    Neo); the plot takes 19 arguments. wrapped: somebody put a wrapper in front of each of them, which takes
    anything, and of the job's caching; the plot takes 21.
    """
    from modules import processing, prompt_parser, shared, xyz_values

    xyz_values.MORE_ARGUMENTS = _PLOT[make]
    if make == NEO:
        del shared.opts.data["use_old_scheduling"], shared.opts.data_labels["use_old_scheduling"]
    change = {NEO: _without_old_scheduling, WRAPPED: _behind_a_wrapper}.get(make)
    if change is None:
        return
    for name in _ENCODERS:
        setattr(prompt_parser, name, change(getattr(prompt_parser, name)))
    if make == WRAPPED:
        job = processing.StableDiffusionProcessing
        job.get_conds_with_caching = change(job.get_conds_with_caching)


def _without_old_scheduling(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    kept = [one for one in signature.parameters.values() if one.name != "use_old_scheduling"]
    signature = signature.replace(parameters=kept)

    def shorter(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)  # TypeError for one argument too many, as of any function
        return function(*bound.args, **bound.kwargs)

    shorter.__name__, shorter.__signature__ = function.__name__, signature
    return shorter


def _behind_a_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper
