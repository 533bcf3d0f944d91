"""One generation job: from parsed arguments to the sampling passes, and from what those did to the report."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field
from typing import Any

from nag_core import hosts, report
from nag_core.config import HIRES_FIRST, HIRES_ONLY, Request, Settings
from nag_core.guidance import Method
from nag_core.hosts import base
from nag_core.hosts.base import Host, UnsupportedHost
from nag_core.negative import Negative, negative_from_schedules
from nag_core.presets import Strength
from nag_core.session import Session
from nag_core.webui.negative_text import negative_texts

logger = logging.getLogger("nag")

FIRST, HIRES = "first pass", "hires pass"


@dataclass(slots=True)
class Pass:
    """A sampling pass under way: its session, and each image's negative text should it be encoded anew."""

    session: Session
    texts: list[str]

    @property
    def images(self) -> tuple[int, int]:
        """How many of how many images have a negative."""
        return sum(bool(text.strip()) for text in self.texts), len(self.texts)


@dataclass(slots=True)
class Job:
    """State of one job with NAG on. Kept by the script, never on `p`: other extensions serialise p."""

    settings: Settings
    notes: list[str]
    host: Host | None = None
    unsupported: str = ""
    passes: dict[str, Pass | report.PassReport] = field(default_factory=dict)
    caches: dict[str, list] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Job:
        job = cls(request.settings, list(request.notes))
        try:
            job.host = hosts.detect()
        except UnsupportedHost as reason:
            job.unsupported = str(reason)
        return job

    def strength(self, sd_model: Any, pass_name: str = FIRST) -> Strength:
        """phi, tau, alpha for the model that is loaded now (the hires pass may run on another one)."""
        strength = self.settings.strength(base.family(sd_model))
        if pass_name == HIRES and self.settings.hires_scale > 0:
            return Strength(self.settings.hires_scale, strength.tau, strength.alpha)
        return strength

    def begin_pass(self, p: Any, uc: Any) -> None:
        """Installs NAG for the pass that is about to be sampled, or notes why it stands aside. Never raises.

        uc: the host's own schedules of the main negative, None where it did not encode it (Forge main at CFG
            1).
        """
        name = HIRES if getattr(p, "is_hr_pass", False) else FIRST
        for earlier in self.passes:  # a pass that begins ends the ones before
            self._close(earlier)
        try:
            self.passes[name] = self._start(p, uc, name)
        except UnsupportedHost as reason:
            self.passes[name] = report.aside(name, str(reason))
        except Exception as error:  # hosts swallow it and go on without a word; the report shall not
            logger.debug("NAG could not be set up", exc_info=error)
            self.passes[name] = report.aside(name, f"{type(error).__name__}: {str(error)[:200]}")

    def _start(self, p: Any, uc: Any, name: str) -> Pass | report.PassReport:
        strength = self.strength(p.sd_model, name)
        reason = self.unsupported or _why_not(self.settings, strength, name)
        if reason:
            return report.aside(name, reason)
        base.check_model(p.sd_model)
        texts = negative_texts(p, self.settings.negative, name == HIRES, self.notes)
        if not any(text.strip() for text in texts):
            return report.aside(name, "the negative prompt is empty")
        own = bool(self.settings.negative.strip()) or not uc
        negative = self._encode(p, texts, name) if own else negative_from_schedules(uc, texts)
        session = Session(
            strength, Method(self.settings.method), self.settings.window, negative, base.sampler_progress(p),
            self.host.attention, self.host.attention_name, name,
        )  # fmt: skip
        base.install(p.sd_model, self.host, session)
        return Pass(session, texts)

    def _encode(self, p: Any, texts: list[str], name: str) -> Negative:
        cache = self.caches.setdefault(name, [None, None])
        return negative_from_schedules(base.encode(p, texts, cache, name == HIRES), texts)

    def keep_installed(self, p: Any, sd_model: Any, x: Any) -> None:
        """Puts NAG back after the refiner has swapped the model in the middle of a pass (no script hook
        fires).
        """
        for name, current in self.passes.items():
            if not isinstance(current, Pass) or current.session.closed:
                continue
            session = current.session
            try:
                if base.installed(sd_model, session):
                    return
                base.check_model(sd_model)
                self.caches.clear()
                session.cache.clear()
                # The refiner has another text encoder: the old model's conditioning means nothing to it.
                session.negative = self._encode(p, current.texts, name)
                base.install(sd_model, self.host, session)
                self.host.after_encoding(base.unet_patcher(sd_model), x)
            except Exception as error:
                session.problem(f"off after the refiner switch ({str(error)[:120]})", error)

    def end_batch(self) -> str:
        """Ends the batch's passes; the sentence for log, comment and infotext."""
        reports = []
        for name, current in self.passes.items():
            self._close(name)
            is_pass = isinstance(current, Pass)
            reports.append(report.of_session(current.session, current.images) if is_pass else current)
        self.passes.clear()
        if not reports:
            reports = [report.aside(FIRST, self.unsupported or "this WebUI never announced a sampling pass")]
        return "; ".join([report.summary(reports), *dict.fromkeys(self.notes)])

    def close(self) -> None:
        """Lets go of everything, in whatever state an interrupt or an exception left the job."""
        for name in list(self.passes):
            self._close(name)
        self.passes.clear()
        self.caches.clear()

    def _close(self, name: str) -> None:
        current = self.passes.get(name)
        if isinstance(current, Pass):
            current.session.close()


def _why_not(settings: Settings, strength: Strength, name: str) -> str:
    """Why a pass is left alone by the settings themselves; empty if they ask for guidance."""
    if (name == HIRES and settings.hires == HIRES_FIRST) or (name == FIRST and settings.hires == HIRES_ONLY):
        return f"hires is set to {settings.hires}"
    if strength.phi == 0:
        return "scale φ is 0"
    if strength.alpha == 0 and settings.method in ("NAG", "No normalisation"):
        return "alpha is 0"
    if settings.window.empty:
        return f"the window {settings.start:g}–{settings.end:g} is empty"
    return ""


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

    def end(self, p: Any) -> None:
        self.start(p, None)
