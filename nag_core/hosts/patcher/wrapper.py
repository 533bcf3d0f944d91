"""The patchers' single slot around a model call (`model_function_wrapper`), shared with whoever is in it
already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nag_core.hosts.compiled import uncompiled
from nag_core.method.joint import NotGuided

ApplyModel = Callable[..., Tensor]


def wrapped(model_options: dict, run: Callable[[ApplyModel, Tensor, Tensor, dict[str, Any]], Tensor]) -> dict:
    """A copy of `model_options` whose model calls go through `run(apply, x, timestep, c)`.

    A wrapper that is there already (MultiDiffusion) is called as before, around ours: it sees the plain call,
    and we see what it makes of it. Closures only: the patchers deep-copy anything else.
    """
    theirs = model_options.get("model_function_wrapper")

    def wrapper(apply: ApplyModel, arguments: dict) -> Tensor:
        def ours(x: Tensor, timestep: Tensor, **c: Any) -> Tensor:
            return run(apply, x, timestep, c)

        if theirs is not None:
            return theirs(ours, arguments)
        return ours(arguments["input"], arguments["timestep"], **arguments["c"])

    return {**model_options, "model_function_wrapper": wrapper}


def as_written(model_options: dict, plain: Callable[[ApplyModel], ApplyModel]) -> dict:
    """A copy of `model_options` whose model calls run uncompiled. plain: the call to make in place of one."""

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        with uncompiled():
            return plain(apply)(x, timestep, **c)

    return wrapped(model_options, run)


def reason(error: Exception) -> str:
    """Why a call under NAG could not be prepared, for the report."""
    known = isinstance(error, NotGuided)
    return str(error) if known else f"{type(error).__name__}: {str(error)[:120]}"
