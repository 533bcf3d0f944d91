"""What the running job is doing, and the flags that ask it to stop."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

SHOWN = (
    "skipped",
    "interrupted",
    "stopping_generation",
    "job",
    "job_count",
    "job_timestamp",
    "job_no",
    "sampling_step",
    "sampling_steps",
)


class State:
    """Written by the job, read by progress routes; `interrupt` and `skip` may come from any thread."""

    def __init__(self) -> None:
        self.time_start: float | None = None
        self.processing_has_refined_job_count = False
        self._reset("")
        self.job_count = 0

    def _reset(self, job: str) -> None:
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job, self.job_no, self.job_count = job, 0, -1
        self.job_timestamp = datetime.now().strftime("%Y%m%d%H%M%S")
        self.sampling_step = self.sampling_steps = 0
        self.current_latent: Any = None
        self.textinfo: str | None = None

    def begin(self, job: str = "(unknown)") -> None:
        """Start of a job: every flag is cleared."""
        self._reset(job)
        self.processing_has_refined_job_count = False
        self.time_start = time.time()

    def end(self) -> None:
        """End of a job."""
        self.job, self.job_count = "", 0

    def nextjob(self) -> None:
        """One sampling pass or batch is done."""
        self.job_no += 1
        self.sampling_step = 0

    def interrupt(self) -> None:
        """Stop the job after the current model call; what is there so far is returned."""
        self.interrupted = True

    def skip(self) -> None:
        """Stop the current batch only."""
        self.skipped = True

    def progress(self) -> float:
        """Share of the job that is done, 0 to 1."""
        if self.job_count <= 0:
            return 0.0
        inner = self.sampling_step / self.sampling_steps if self.sampling_steps else 0.0
        return min(1.0, 0.01 + (self.job_no + inner) / self.job_count)

    def dict(self) -> dict[str, Any]:
        """The part of the state that the API publishes."""
        return {name: getattr(self, name) for name in SHOWN}
