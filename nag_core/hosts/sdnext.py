"""SD.Next: an A1111 fork on diffusers, which loads A1111's scripts but announces no sampling to them.

Its processing prepares every pipeline call by one function and tidies up after it by another, both looked up
among the globals of modules.processing_diffusers. For the length of a batch ours stand in front of these two;
the models themselves are hooked only between them (hosts/diffusers).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

logger = logging.getLogger("nag")

MODULE = "modules.processing_diffusers"
BEFORE, AFTER = "set_pipeline_args", "process_post"
FIRST, HIRES, REFINER = "first pass", "hires pass", "refiner pass"


class PipelineCall(NamedTuple):
    """A pipeline that is about to be called: for which pass, and with which negatives of the WebUI's own."""

    pipe: Any
    name: str
    negatives: list[str]


# What surrounds a pipeline call.
Around = Callable[[PipelineCall], AbstractContextManager]


def present() -> bool:
    """Whether this process runs in SD.Next."""
    try:
        return importlib.util.find_spec(MODULE) is not None
    except (ImportError, ValueError):
        return False


def await_calls(p: Any, around: Around) -> Callable[[], None]:
    """Puts `around` around each pipeline call of the job `p` from now on; the function returned ends that.

    One job at a time is waited for: what an earlier one left (SD.Next tells no script of an interrupt) goes.
    Other jobs' calls pass. `p` is referred to weakly.
    """
    module = importlib.import_module(MODULE)
    before, after = (getattr(module, name) for name in (BEFORE, AFTER))
    leave = getattr(before, "nag_leave", None)
    if leave is not None:
        leave()
        return await_calls(p, around)
    job, signature, running = weakref.ref(p), inspect.signature(before), ExitStack()

    @functools.wraps(before)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        arguments = before(*args, **kwargs)
        running.close()
        given = signature.bind(*args, **kwargs).arguments
        if given.get("p") is job():
            running.enter_context(around(_call(given)))
        return arguments

    @functools.wraps(after)
    def tidied(*args: Any, **kwargs: Any) -> Any:
        running.close()
        return after(*args, **kwargs)

    def remove() -> None:
        running.close()
        for name, ours, theirs in ((BEFORE, prepared, before), (AFTER, tidied, after)):
            if getattr(module, name) is ours:
                setattr(module, name, theirs)

    prepared.nag_leave = remove
    setattr(module, BEFORE, prepared)
    setattr(module, AFTER, tidied)
    return remove


def _call(given: dict[str, Any]) -> PipelineCall:
    p, pipe = given["p"], given["model"]
    negatives = given.get("negative_prompts") or ""
    texts = [negatives] if isinstance(negatives, str) else [str(text) for text in negatives]
    name = HIRES if getattr(p, "is_hr_pass", False) else FIRST
    if getattr(p, "is_refiner_pass", False):
        name = REFINER
    return PipelineCall(getattr(pipe, "pipe", None) or pipe, name, texts)
