"""Whose call a model call is, and at which of its steps: asked of the pipeline that makes it."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from types import FrameType
from typing import Any, NamedTuple

from torch import nn

_MARK = "nag_call"


def caller() -> Any | None:
    """The pipeline whose `__call__` runs nearest around the caller of this; None where none does.

    Two pipelines may share a network and be given the same prompt: neither text nor network tells whose call
    it is.
    """
    return _call().get("self")


def images_per_prompt() -> int:
    """How many images the pipeline call around makes of each prompt."""
    return int(_call().get("num_images_per_prompt") or 1)


def mark() -> object | None:
    """Stands for the pipeline call around: the same in all of that call, and never in another; None where
    none runs.

    Kept among the call's own locals, so that nothing of a call outlives it: its frame would hold its latents.
    """
    call = _call()
    return call.setdefault(_MARK, object()) if call else None


def is_over(call: object) -> bool:
    """Whether the pipeline call of that mark has ended."""
    return not any(frame.f_locals.get(_MARK) is call for frame in _frames())


def came_out(error: BaseException, call: object | None) -> bool:
    """Whether the error, or one that it arose from, was raised in the pipeline call of that mark; taken for
    granted without one.
    """
    found: BaseException | None = error
    seen: list[BaseException] = []  # an error may be its own cause
    while found is not None and call is not None and found not in seen:
        seen.append(found)
        if any(frame.f_locals.get(_MARK) is call for frame, _ in traceback.walk_tb(found.__traceback__)):
            return True
        found = found.__cause__ or found.__context__
    return call is None


class Own(NamedTuple):
    """What a pipeline's call has of its own CFG: whether it guides by it, None where it does not say; and the
    encoded negative and prompt that it holds, None without.
    """

    cfg: bool | None
    negative: Any = None
    prompt: Any = None


def own_cfg() -> Own:
    """Of the pipeline's call around."""
    call, name = _call(), "do_classifier_free_guidance"
    cfg = call.get(name, getattr(call.get("self"), name, None))
    return Own(cfg, call.get("negative_prompt_embeds"), call.get("prompt_embeds"))


def _call() -> MutableMapping[str, Any]:
    """What the pipeline's `__call__` nearest around has at hand; empty where none runs."""
    return next((frame.f_locals for frame in _frames()), {})


def _frames() -> Iterator[FrameType]:
    """Those of the pipelines' calls around, the nearest first."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            owner = frame.f_locals.get("self")
            if hasattr(owner, "encode_prompt") and not isinstance(owner, nn.Module):
                yield frame
        frame = frame.f_back


class Steps:
    """Counts a pipeline's steps by its scheduler: every step ends with one call of `scheduler.step`, however
    many model calls it takes (skipped layers, self-attention guidance).
    """

    def __init__(self) -> None:
        self.taken = 0
        self._scheduler: Any = None
        self._before: Any = None

    @property
    def counts(self) -> bool:
        """Whether there is a scheduler to count by."""
        return self._scheduler is not None

    def fewer_than(self, total: int) -> bool:
        """Whether fewer were taken, as far as is known: the pipeline's own mark of an interrupt is gone when
        its next call begins.
        """
        return self.counts and self.taken < total

    def begin(self, scheduler: Any) -> None:
        """Counts from 0, by this scheduler."""
        self.end()
        self.taken = 0
        step = getattr(scheduler, "step", None)
        if step is None:
            return

        @functools.wraps(step)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.taken += 1
            return step(*args, **kwargs)

        self._scheduler, self._before = scheduler, vars(scheduler).get("step")
        vars(scheduler)["step"] = counted

    def end(self) -> None:
        """Leaves the scheduler as it was; the count stays."""
        if self._scheduler is None:
            return
        if self._before is None:
            del vars(self._scheduler)["step"]
        else:
            vars(self._scheduler)["step"] = self._before
        self._scheduler = self._before = None
