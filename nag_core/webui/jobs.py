"""Which jobs are running: a script is asked about `p`, and may keep nothing on it."""

from __future__ import annotations

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

        ADetailer runs `process` on copies of p before the outer job's infotexts are written.
        """
        parameters = p.extra_generation_params
        outer = (reference() for reference, _ in self._jobs.values())
        return any(o is not None and o is not p and o.extra_generation_params is parameters for o in outer)

    def end(self, p: Any) -> None:
        self.start(p, None)
