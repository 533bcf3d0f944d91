"""Which jobs are running: a script is asked about `p`, and may keep nothing on it."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any, NamedTuple

from nag_core.webui import infotext
from nag_core.webui.job import Job


class _Started(NamedTuple):
    p: weakref.ref
    job: Job
    thread: int

    def is_over(self, running: list[Any]) -> bool:
        """Whether it has ended without `postprocess`, as far as that is sure. running: this thread's."""
        p = self.p()
        return p is None or (self.thread == threading.get_ident() and not _among(running, p))


class Jobs:
    """The running jobs of a script by identity of `p` (an unhashable dataclass). Finished ones fall out."""

    def __init__(self) -> None:
        self._jobs: dict[int, _Started] = {}

    def start(self, p: Any, job: Job | None) -> None:
        """Replaces p's job; None if NAG is off. Also clears what jobs that ended in an exception left."""
        running = _running()
        for key, one in list(self._jobs.items()):
            if one.p() is p or one.is_over(running):
                self._drop(key)
        if job is not None:
            key = id(p)
            gone = weakref.ref(p, lambda reference: self._gone(key, reference))
            self._jobs[key] = _Started(gone, job, threading.get_ident())

    def of(self, p: Any) -> Job | None:
        started = self._jobs.get(id(p))
        return started.job if started is not None and started.p() is p else None

    def inside_another(self, p: Any) -> bool:
        """Whether p is a copy made in the middle of another running job and shares that one's infotext.

        ADetailer runs `process` on copies of p before the outer job's infotexts are written. A plot's cells
        share one as well, but one after the other: none of them is inside another. `nested` knows the jobs
        that share nothing.
        """
        parameters, running = p.extra_generation_params, _running()
        # One in another thread may be waiting for this one.
        others = [one.p() for one in list(self._jobs.values()) if not one.is_over(running)]
        return any(
            one.extra_generation_params is parameters for one in others if one is not None and one is not p
        )

    def end(self, p: Any) -> None:
        self.start(p, None)

    def _drop(self, key: int) -> None:
        started = self._jobs.pop(key, None)  # None: garbage was collected meanwhile, and `_gone` was here
        if started is None:
            return
        started.job.close()
        p = started.p()
        if p is not None and not self.inside_another(p):
            infotext.forget_unread(p.extra_generation_params)

    def _gone(self, key: int, reference: weakref.ref) -> None:
        """A job that failed was held by its traceback: its keys and values need not wait for the next one."""
        started = self._jobs.get(key)
        if started is not None and started.p is reference:
            self._drop(key)


def nested(p: Any) -> bool:
    """Whether the host is in the middle of another job than `p`, in this thread: extensions draw parts of a
    picture anew by jobs of their own, which tell nobody whose they are. NAG on or off in the other one.
    """
    return any(one is not p for one in _running())


_RUNS_JOBS = ("process_images", "process_images_inner")


def _running() -> list[Any]:
    """The jobs that the host is in the middle of in this thread, the innermost first.

    Every WebUI has the running job as `p` in a function of this name, whatever extensions put in front of it.
    """
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _RUNS_JOBS and "p" in frame.f_locals:
            found.append(frame.f_locals["p"])
        frame = frame.f_back
    return found


def _among(jobs: list[Any], p: Any) -> bool:
    """Jobs are compared by identity: dataclasses are equal where their fields are."""
    return any(one is p for one in jobs)
