"""One sampling pass under NAG: what it applies, what it has done so far. Created before the pass, closed
after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nag_core.guidance import Method
from nag_core.negative import KeyValueCache, Negative
from nag_core.presets import Strength
from nag_core.schedule import Window

logger = logging.getLogger("nag")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the sampler is. `call`: model calls of the pass made so far, of `total`; prompt editing counts
    the same.
    """

    call: int
    total: int


@dataclass(slots=True)
class Session:
    """Settings, state and counters of one pass.

    Referenced only by the closures on the cloned patcher and by the job's record, so that it dies with the
    pass. `attention(q, k, v, extra)` is the host's own function; `weights()` identifies the LoRA patches in
    force.
    """

    strength: Strength
    method: Method
    window: Window
    negative: Negative
    progress: Callable[[], Progress]
    attention: Callable[[Tensor, Tensor, Tensor, dict], Tensor]
    attention_name: str
    pass_name: str = "first pass"
    cache: KeyValueCache = field(default_factory=KeyValueCache)
    calls: int = 0
    guided_calls: int = 0
    total_calls: int = 0
    layers: set[Hashable] = field(default_factory=set)
    tokens: int = 0
    clipped: Tensor | None = None
    problems: dict[str, None] = field(default_factory=dict)
    closed: bool = False

    def begin_call(self) -> Progress | None:
        """Counts one denoiser call; where the sampler is if NAG acts on this call, else None."""
        if self.closed:
            return None
        progress = self.progress()
        self.calls += 1
        self.total_calls = max(progress.total, self.calls)
        return progress if self.window.active(progress.call, progress.total) else None

    def count(self, layer: Hashable, tokens: int, clipped: Tensor) -> None:
        """Records one guided layer call. Sums stay on the device: reading them here would stall the GPU."""
        self.layers.add(layer)
        self.tokens += tokens
        self.clipped = clipped if self.clipped is None else self.clipped + clipped

    def problem(self, message: str, error: BaseException | None = None) -> None:
        """Notes, once per pass, why NAG stood aside somewhere; the traceback goes to the debug log only."""
        if message not in self.problems:
            self.problems[message] = None
            logger.debug("NAG: %s", message, exc_info=error)

    @property
    def clipped_share(self) -> float | None:
        """Share of guided tokens that tau shrank, None if nothing was guided. Waits for the device."""
        if not self.tokens or self.clipped is None:
            return None
        return float(self.clipped) / self.tokens

    def close(self) -> None:
        """Frees what the pass held; the counters stay readable. Safe to call twice."""
        if self.clipped is not None:
            self.clipped = torch.as_tensor(int(self.clipped))
        self.cache.clear()
        self.closed = True
        # The host keeps the patched clone, and with it this object, until its next job: let go of the job
        # here.
        self.progress = _after_the_pass
        self.negative = Negative(())


def _after_the_pass() -> Progress:
    return Progress(0, 0)
