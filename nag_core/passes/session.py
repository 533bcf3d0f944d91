"""One sampling pass under NAG: what has been done so far. Made before the pass, closed after it.

Nothing else writes to it. Only the closures on the cloned patcher and the job's record refer to it, so that
it dies with the pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nag_core.method.heat import HeatMap
from nag_core.method.joint import JointCall
from nag_core.method.negative import Counts, KeyValueCache, Negative
from nag_core.method.rows import Batch
from nag_core.method.rule import Rule
from nag_core.passes import report
from nag_core.passes.plan import Plan, Progress
from nag_core.passes.report import OF_AN_UNKNOWN_HOST, PassReport
from nag_core.settings.blocks import Block

logger = logging.getLogger("nag")

MOST_PROBLEMS = 6


@dataclass(slots=True)
class Session:
    """State and counters of one pass."""

    plan: Plan
    negative: Negative
    blocks: frozenset[Block] | None = None  # to guide, of the model that samples; None for all
    path: str = ""  # the attention path taken, for the report
    heat: HeatMap | None = None
    cache: KeyValueCache = field(default_factory=KeyValueCache)
    batches: dict[Hashable, Batch] = field(default_factory=dict)  # arrangements seen, by what they hold for
    # Reference images' tokens before and behind the picture's, by model call.
    places: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    at_close: list[Callable[[], None]] = field(default_factory=list)  # free what a host keeps for the pass
    counts: Counts = field(default_factory=Counts)  # of the negative's images
    phi: float = 0.0  # of the running call
    calls: int = 0
    due_calls: int = 0  # to be guided
    armed: int = 0  # NAG was installed for
    faded: int = 0  # of the window, at which the curve is 0
    guided_calls: int = 0
    last_guided: int = 0
    layers: dict[Hashable, str] = field(default_factory=dict)  # guided at least once; the kind of each
    tokens: int = 0
    picture: tuple[int, int] = (0, 0)  # image tokens of the picture itself, of all: the rest are references
    counters: dict[torch.device, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # on what was guided
    complete: bool = True  # nothing that was to be guided was left out so far
    closed: bool = False
    stopped: bool = False
    may_merge: bool = True  # no kernel with a log-sum-exp has failed in this pass
    beside: bool = False  # all that was to be guided is another extension's, which is named
    unknown: bool = False  # something of the host was not as NAG knows it

    def __post_init__(self) -> None:
        self.phi, self.path = self.plan.strength.phi, self.path or self.plan.attention_name
        self.heat = HeatMap() if self.plan.with_heat else None
        self.counts = self.negative.counts

    def move(self, negative: Negative, blocks: frozenset[Block] | None) -> None:
        """Another model samples from now on: its encoder's negative, its blocks."""
        self.negative, self.counts, self.blocks = negative, negative.counts, blocks

    def begin_call(self) -> Progress | None:
        """Counts one denoiser call; where the sampler is if NAG acts on this call, else None."""
        if self.closed:
            return None
        progress = self.plan.progress()
        self.calls += 1
        if not self.plan.window.active(progress.call, progress.total):
            return None
        self.phi = self.plan.phi(progress)
        self.faded += not self.phi
        self.due_calls += bool(self.phi)
        return progress if self.phi and not self.stopped else None

    def batch(self, entries: tuple, tiled: bool = False, regional: bool = False) -> Batch | None:
        """The images of the call that has begun, and their negatives; None where there is nobody to guide.
        Kept for the pass: an index tensor made anew in every step would stall a GPU.
        """
        if not any(entries):
            self.due_calls -= 1
            return None
        self.armed += 1
        return self.batches.setdefault((entries, tiled, regional), Batch(entries, tiled, regional))

    def chosen(self, block: Block | None) -> bool:
        """Whether this block is to be guided."""
        return self.blocks is None or block in self.blocks

    def rule(self, device: torch.device, counter: Tensor | None = None) -> Rule:
        """The guidance rule, counting clipped tokens into `counter`, or into the pass's own on that device.

        The sums stay on the device: reading them during the pass would stall a GPU.
        """
        if counter is None and device not in self.counters:
            self.counters[device] = torch.zeros((), dtype=torch.int64, device=device)
        counter = self.counters[device] if counter is None else counter
        plan, strength = self.plan, self.plan.strength
        return plan.rule(
            self.phi, strength.tau, strength.alpha, plan.method, counter, plan.may_fuse, strength.offset
        )

    def count(self, layer: Hashable, tokens: int, kind: str = "", path: str = "") -> None:
        """Records one guided layer call. kind: of transformer block ("double"), where the report counts
        blocks by kind. path: how it attended, where that comes with the call.
        """
        self.path = path or self.path
        self.guided_calls += self.last_guided != self.calls
        self.last_guided = self.calls
        self.layers[layer] = kind
        self.tokens += tokens

    def took(self, call: JointCall) -> None:
        """Takes over what a joint call has counted and found out."""
        self.rule(call.rule.counter.device).counter.add_(call.rule.counter)
        self.path = call.path or self.path
        if call.heat is not None:
            self.heat.add(call.heat)
        if call.refused:
            self.may_merge = False
            self.problem(*call.refused, partly=False)

    def problem(self, message: str, error: BaseException | None = None, partly: bool = True) -> None:
        """Notes, once per pass, why NAG stood aside somewhere; the traceback goes to the debug log only.

        partly: off for remarks on a pass in which nothing was left out.
        """
        self.complete = self.complete and not partly
        self.unknown = self.unknown or isinstance(error, OF_AN_UNKNOWN_HOST)
        if message not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(message)
            logger.debug("NAG: %s", message, exc_info=error)

    def remark(self, message: str) -> None:
        """Notes, once per pass, what is to be said if anything is guided."""
        if message not in self.remarks:
            self.remarks.append(message)

    def stop(self, reason: str, error: BaseException | None = None) -> None:
        """No guidance for the rest of the pass; its calls are still counted."""
        self.problem(reason, error)
        self.stopped = True

    def off(self, reason: str, error: BaseException | None = None) -> None:
        """The same in the middle of a call."""
        self.stop(f"off from call {self.calls} on: {reason}", error)

    def report(self) -> PassReport:
        """What the pass did. Waits for the device."""
        return report.of(self, sum(map(int, self.counters.values())))

    def close(self) -> None:
        """Frees what the pass held; the counters stay readable. Safe twice, and after a device error."""
        self.closed = True
        self.cache.clear()
        self.batches.clear()
        while self.at_close:
            self.at_close.pop()()
        # The host keeps the patched clone, and with it this object, until its next job.
        self.plan = replace(self.plan, progress=Progress, region=None)
        self.negative = Negative(())
        counters, self.counters = self.counters, {}
        try:
            if self.heat is not None:
                self.heat.bring_home()
            self.counters = {device: counter.cpu() for device, counter in counters.items()}
        except RuntimeError as error:
            self.problem("the share of clipped tokens could not be read from the device", error, partly=False)
