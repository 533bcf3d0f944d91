"""One sampling pass under NAG: what it applies, what it has done so far. Created before the pass, closed
after it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nag_core.method.focus import Focus, focus_on
from nag_core.method.guidance import Method
from nag_core.method.heat import HeatMap
from nag_core.method.negative import KeyValueCache, Negative
from nag_core.method.region import Region
from nag_core.method.rule import Rule
from nag_core.passes.report import OF_AN_UNKNOWN_HOST, PassReport
from nag_core.settings.blocks import Block
from nag_core.settings.parse import Settings
from nag_core.settings.presets import Strength
from nag_core.settings.schedule import CONSTANT_CURVE, Curve, Window
from nag_core.settings.weighted import parse_negatives

logger = logging.getLogger("nag")

MOST_PROBLEMS = 6


def asks_nothing(settings: Settings, strength: Strength) -> str:
    """Why the settings themselves ask for no guidance; empty if they do ask for it."""
    if settings.window.empty:
        return f"the window {settings.start:g}–{settings.end:g} is empty"
    negatives = parse_negatives(settings.negatives)
    if negatives and not any(one.weight for one in negatives):
        return "the weights of the negatives sum to 0"
    curve = settings.strength_curve
    if curve.zero:
        return "the strength over the steps is 0 everywhere"
    # Points take the place of the scale.
    return Method(settings.method).inert(1.0 if curve.points else strength.phi, strength.alpha)


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
    pass. `attention(q, k, v, extra)` is the host's own function; `attention_name` is what the report calls
    the path taken. `blocks`: the ones to guide, None for all. `region`: where in the picture, None for
    everywhere. `heat`: gathers what NAG changes, None where nobody wants to see it. `texts`: names of
    prompt's and negative's texts at a step, None where nobody can tell. `phi`: the strength of the running
    call. `batches`: the arrangements seen, by what they hold for.
    `at_close`: what a host keeps for the pass is freed by these. `guided_images` of `images` have a
    negative. `armed`: calls that NAG was installed for; `faded`: calls of the window at which the curve is 0.
    `two_calls`: a log-sum-exp kernel has failed in this
    pass. `unknown`: something of the host was not as NAG knows it.
    """

    strength: Strength
    method: Method
    window: Window
    negative: Negative
    progress: Callable[[], Progress]
    attention: Callable[[Tensor, Tensor, Tensor, dict], Tensor]
    attention_name: str
    pass_name: str = "first pass"
    curve: Curve = CONSTANT_CURVE
    blocks: frozenset[Block] | None = None
    region: Region | None = None
    heat: HeatMap | None = None
    texts: Callable[[int], tuple[Hashable, Hashable]] | None = None
    cache: KeyValueCache = field(default_factory=KeyValueCache)
    at_close: list[Callable[[], None]] = field(default_factory=list)
    phi: float = 0.0
    calls: int = 0
    guided_calls: int = 0
    last_guided: int = 0
    layers: dict[Hashable, str] = field(default_factory=dict)
    tokens: int = 0
    counters: dict[torch.device, Tensor] = field(default_factory=dict)
    batches: dict[Hashable, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    images: int = 0
    guided_images: int = 0
    alike_images: int = 0
    negatives: tuple[int, int] = (1, 0)
    armed: int = 0
    faded: int = 0
    closed: bool = False
    stopped: bool = False
    unknown: bool = False
    two_calls: bool = False
    may_fuse: bool = True

    def __post_init__(self) -> None:
        self.phi = self.strength.phi
        self.take(self.negative)

    def take(self, negative: Negative) -> None:
        """Guides by this negative from now on: the pass's first, or that of another model's encoder."""
        self.negative = negative
        self.images = len(negative.images)
        self.negatives = negative.most
        self.guided_images = sum(schedule is not None for schedule in negative.images)
        self.alike_images = negative.alike

    def begin_call(self) -> Progress | None:
        """Counts one denoiser call; where the sampler is if NAG acts on this call, else None."""
        if self.closed:
            return None
        progress = self.progress()
        self.calls += 1
        if self.stopped or not self.window.active(progress.call, progress.total):
            return None
        self.phi = self.curve.phi(self.strength.phi, progress.call, progress.total, self.window)
        self.faded += not self.phi
        return progress if self.phi else None

    def stop(self, reason: str, error: BaseException | None = None) -> None:
        """No guidance for the rest of the pass; its calls are still counted."""
        self.problem(reason, error)
        self.stopped = True

    def focus(
        self,
        tokens: int,
        size: tuple[int, int] | None,
        device: torch.device,
        tiled: bool = False,
        heat: HeatMap | None = None,
    ) -> Focus:
        """Which tokens of a layer are guided, see `focus_on`; what is left out is noted. heat: gathers the
        changes, the pass's own unless told.
        """
        found = focus_on(self.region, heat or self.heat, tokens, size, device, tiled)
        if found.problem:
            self.problem(found.problem)
        return found

    def rule(self, device: torch.device, counter: Tensor | None = None) -> Rule:
        """The guidance rule, counting clipped tokens into `counter`, or into the pass's own on that device.

        The sums stay on the device: reading them during the pass would stall a GPU.
        """
        if counter is None:
            counter = self.counters.get(device)
        if counter is None:
            counter = self.counters[device] = torch.zeros((), dtype=torch.int64, device=device)
        strength = self.strength
        return Rule(self.phi, strength.tau, strength.alpha, self.method, counter, self.may_fuse)

    def count(self, layer: Hashable, tokens: int, kind: str = "") -> None:
        """Records one guided layer call. kind: of transformer block ("double"), where the report counts
        blocks by kind.
        """
        self.guided_calls += self.last_guided != self.calls
        self.last_guided = self.calls
        self.layers[layer] = kind
        self.tokens += tokens

    def problem(self, message: str, error: BaseException | None = None) -> None:
        """Notes, once per pass, why NAG stood aside somewhere; the traceback goes to the debug log only."""
        self.unknown = self.unknown or isinstance(error, OF_AN_UNKNOWN_HOST)
        if message not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(message)
            logger.debug("NAG: %s", message, exc_info=error)

    def report(self) -> PassReport:
        """What the pass did. Waits for the device."""
        clipped = sum(int(counter) for counter in self.counters.values())
        share = clipped / self.tokens if self.tokens and self.counters else None
        faded = self.faded > 0 and not self.armed and not self.layers
        return PassReport(
            self.pass_name,
            "the strength over the steps is 0 in every step of the window" if faded else "",
            layers=tuple(Counter(self.layers.values()).items()),
            guided_calls=self.guided_calls,
            total_calls=self.calls,
            clipped_share=share,
            attention=self.attention_name,
            strength=self.strength,
            negatives=self.negatives,
            images=(self.guided_images, self.images),
            alike=self.alike_images,
            problems=tuple(self.problems),
            bypassed=self.armed > 0 and not self.layers,
            unknown=self.unknown,
        )

    def close(self) -> None:
        """Frees what the pass held; the counters stay readable. Safe twice, and after a device error."""
        self.closed = True
        self.cache.clear()
        while self.at_close:
            self.at_close.pop()()
        self.batches.clear()
        self.texts = None
        # The host keeps the patched clone, and with it this object, until its next job.
        self.progress = _after_the_pass
        self.negative = Negative(())
        counters, self.counters = self.counters, {}
        if self.region is not None:
            self.region.spots.clear()
        try:
            if self.heat is not None:
                self.heat.bring_home()
            self.counters = {device: counter.cpu() for device, counter in counters.items()}
        except RuntimeError as error:
            self.problem("the share of clipped tokens could not be read from the device", error)


def _after_the_pass() -> Progress:
    return Progress(0, 0)
