"""Which jobs are running: a script is asked about `p`, and may keep nothing on it."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from nag_core.webui.job import Job


class Jobs:
    """The running jobs of a script by identity of `p` (an unhashable dataclass). Finished ones fall out."""

    def __init__(self) -> None:
        self._jobs: dict[int, tuple[weakref.ref, Job]] = {}

    def start(self, p: Any, job: Job | None) -> None:
        """Replaces p's job; None if NAG is off. Also clears what jobs that ended in an exception left."""
        for key, (reference, stale) in list(self._jobs.items()):
            if reference() is None or reference() is p:
                stale.close()
                del self._jobs[key]
        if job is not None:
            self._jobs[id(p)] = (weakref.ref(p), job)

    def of(self, p: Any) -> Job | None:
        reference, job = self._jobs.get(id(p), (None, None))
        return job if reference is not None and reference() is p else None

    def inside_another(self, p: Any) -> bool:
        """Whether p is a copy made in the middle of another running job and shares that one's infotext.

        ADetailer runs `process` on copies of p before the outer job's infotexts are written. `nested` knows
        the jobs that share nothing.
        """
        parameters = p.extra_generation_params
        outer = (reference() for reference, _ in self._jobs.values())
        return any(o is not None and o is not p and o.extra_generation_params is parameters for o in outer)

    def end(self, p: Any) -> None:
        self.start(p, None)


def nested(p: Any) -> bool:
    """Whether the host is in the middle of another job than `p`, in this thread: extensions draw parts of a
    picture anew by jobs of their own, which tell nobody whose they are. NAG on or off in the other one.

    Every WebUI has the running job as `p` in a function of this name, whatever extensions put in front of it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _RUNS_JOBS and frame.f_locals.get("p", p) is not p:
            return True
        frame = frame.f_back
    return False


_RUNS_JOBS = ("process_images", "process_images_inner")
