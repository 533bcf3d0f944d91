"""One generation job: from parsed arguments to the sampling passes, and from what those did to the report."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nag_core import hosts, presets, report
from nag_core.config import HIRES_FIRST, HIRES_ONLY, Request, Settings
from nag_core.guidance import Method
from nag_core.hosts import base, encoding
from nag_core.hosts.base import Host, UnsupportedHost
from nag_core.hosts.texts import texts_in_use
from nag_core.negative import Negative, negative_from_schedules
from nag_core.presets import Strength
from nag_core.session import Session
from nag_core.webui.negative_text import negative_texts

logger = logging.getLogger("nag")

FIRST, HIRES = "first pass", "hires pass"


@dataclass(slots=True)
class Pass:
    """A sampling pass under way. `texts`: each image's negative; `own`: they are the NAG box's."""

    session: Session
    texts: list[str]
    own: bool


@dataclass(slots=True)
class Job:
    """State of one job with NAG on. Kept by the script, never on `p`: other extensions serialise p."""

    settings: Settings
    notes: list[str]
    host: Host | None = None
    unsupported: str = ""
    passes: dict[str, Pass | report.PassReport] = field(default_factory=dict)
    caches: dict[str, list] = field(default_factory=dict)
    reports: list[report.PassReport] = field(default_factory=list)
    recorded: Strength | None = None

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

    def begin_pass(self, p: Any, uc: Any, c: Any = None) -> None:
        """Installs NAG for the pass that is about to be sampled, or notes why it stands aside. Never raises.

        uc: the host's own schedules of the main negative, None where it did not encode it (Forge main at CFG
            1). c: those of the prompt.
        """
        name = HIRES if getattr(p, "is_hr_pass", False) else FIRST
        self._close_passes()  # a pass that begins ends the ones before
        try:
            self.passes[name] = self._start(p, uc, c, name)
        except UnsupportedHost as reason:
            self.passes[name] = report.aside(name, str(reason))
        except Exception as error:  # hosts swallow it and go on without a word; the report shall not
            logger.debug("NAG could not be set up", exc_info=error)
            self.passes[name] = report.aside(name, f"{type(error).__name__}: {str(error)[:200]}")

    def _start(self, p: Any, uc: Any, c: Any, name: str) -> Pass | report.PassReport:
        strength = self.strength(p.sd_model, name)
        reason = self.unsupported or _why_not(self.settings, strength, name)
        if reason:
            return report.aside(name, reason)
        base.check_model(p.sd_model, self.host)
        texts, own = negative_texts(p, self.settings.negative, name == HIRES, self.notes)
        negative = self._negative(p, texts, None if own else uc, name)
        if not any(negative.images):
            return report.aside(name, "the negative prompt is empty")
        self._name_relative(p.sd_model)
        session = Session(
            strength, Method(self.settings.method), self.settings.window, negative, base.sampler_progress(p),
            self.host.attention, self.host.attention_name, name, _texts_in_use(p, c, uc),
        )  # fmt: skip
        self.host.install(p, p.sd_model, session)
        return Pass(session, texts, own)

    def _negative(self, p: Any, texts: list[str], schedules: Any, name: str) -> Negative:
        """The conditioning of `texts`: the host's `schedules` where it encoded them, else by its encoder."""
        if not any(text.strip() for text in texts):
            return Negative((None,) * len(texts))
        hires = name == HIRES
        if not schedules:
            schedules = encoding.encode(p, texts, self.caches.setdefault(name, [None, None]), hires)
        return negative_from_schedules(schedules, encoding.schedule_texts(p, texts, hires))

    def _name_relative(self, sd_model: Any) -> None:
        family = base.family(sd_model)
        if self.settings.preset == presets.AUTO and presets.auto(family) != family:
            self.notes.append(
                f"Auto has no values for this model ({family}) and took {presets.auto(family)}'s"
            )

    def keep_installed(self, p: Any, sd_model: Any, x: Any) -> None:
        """Called in every denoiser call: puts NAG back after the refiner swapped the model within a pass (no
        script hook fires), and tells the host's adapter that a call begins.
        """
        for name, current in self.passes.items():
            if not isinstance(current, Pass) or current.session.closed:
                continue
            session = current.session
            try:
                if not self.host.installed(p, sd_model, session):
                    self._move(p, current, sd_model, x, name)
            except Exception as error:
                session.problem(f"off after the refiner switch ({str(error)[:120]})", error)
                session.close()
                continue
            try:
                self.host.begin_call(p, sd_model, session)
            except Exception as error:
                message = f"{type(error).__name__}: {str(error)[:120]}"
                session.problem(f"could not be installed ({message})", error)

    def _move(self, p: Any, current: Pass, sd_model: Any, x: Any, name: str) -> None:
        """Installs the running pass on another model. That one has another text encoder: the old conditioning
        means nothing to it. The host has encoded the main negative anew by now, if it does so at all.
        """
        base.check_model(sd_model, self.host)
        self.caches.clear()
        current.session.cache.clear()
        current.session.texts = None  # the host has encoded the prompt anew, too
        schedules = None if current.own else p.get_conds()[1]
        current.session.negative = self._negative(p, current.texts, schedules, name)
        self.host.install(p, sd_model, current.session)
        if not schedules:
            self.host.after_encoding(sd_model, x)

    def end_batch(self) -> str:
        """Ends the batch's passes; the sentence for log, comment and infotext."""
        self._close_passes()
        ended = self.passes.values()
        reports = [current.session.report() if isinstance(current, Pass) else current for current in ended]
        self.passes.clear()
        if not reports:
            reports = [report.aside(FIRST, self.unsupported or "this WebUI never announced a sampling pass")]
        self.reports = reports
        return "; ".join([report.summary(reports, self.recorded), *dict.fromkeys(self.notes)])

    def close(self) -> None:
        """Lets go of everything, in whatever state an interrupt or an exception left the job."""
        self._close_passes()
        self.passes.clear()
        self.caches.clear()

    def _close_passes(self) -> None:
        for current in self.passes.values():
            if isinstance(current, Pass):
                current.session.close()


def _texts_in_use(p: Any, c: Any, uc: Any) -> Callable | None:
    """None where the host's schedules are not what they are known to be: then nothing is reused."""
    if getattr(p, "dynamic_clip_skip_sets", None):
        return None  # reForge changes the conditions of every step itself (its clip skip ramp)
    try:
        return texts_in_use(c, uc)
    except Exception as error:
        logger.debug("NAG: the prompt's schedules cannot be read", exc_info=error)
        return None


def _why_not(settings: Settings, strength: Strength, name: str) -> str:
    """Why a pass is left alone by the settings themselves; empty if they ask for guidance."""
    if (name == HIRES and settings.hires == HIRES_FIRST) or (name == FIRST and settings.hires == HIRES_ONLY):
        return f"hires is set to {settings.hires}"
    if settings.window.empty:
        return f"the window {settings.start:g}–{settings.end:g} is empty"
    return Method(settings.method).inert(strength.phi, strength.alpha)


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
