"""One generation job: from parsed arguments to the sampling passes, and from what those did to the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nag_core.hosts import asked, base, encoding, which
from nag_core.hosts.base import Host
from nag_core.hosts.diffusers import sdnext
from nag_core.hosts.patcher.texts import texts_in_use
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.alike import unlike_prompt
from nag_core.method.guidance import Method
from nag_core.method.heat import HeatMap
from nag_core.method.negative import Negative, negative_from_schedules, weighted_negative
from nag_core.passes import report
from nag_core.passes.session import Session, asks_nothing
from nag_core.settings import presets
from nag_core.settings.blocks import Block, choose, listing, parse_blocks
from nag_core.settings.parse import HIRES_FIRST, HIRES_ONLY, Request, Settings
from nag_core.settings.presets import Strength
from nag_core.webui import heat_picture, mask_image
from nag_core.webui.heat_picture import HeatPicture
from nag_core.webui.negative_text import Texts, negative_texts
from nag_core.webui.pipelines import guided_call, stood_aside

logger = logging.getLogger("nag")

FIRST, HIRES = "first pass", "hires pass"


@dataclass(slots=True)
class Pass:
    """A sampling pass under way, and the negatives it was given."""

    session: Session
    texts: Texts


@dataclass(slots=True)
class Job:
    """State of one job with NAG on. Kept by the script, never on `p`: other extensions serialise p."""

    settings: Settings
    notes: list[str]
    host: Host | None = None
    unsupported: str = ""
    failed: report.PassReport | None = None
    passes: dict[str, Pass | report.PassReport] = field(default_factory=dict)
    caches: dict[str, list] = field(default_factory=dict)
    reports: list[report.PassReport] = field(default_factory=list)
    recorded: Strength | None = None
    stop_waiting: Callable[[], None] | None = None
    heats: list[Tensor | None] = field(default_factory=list)
    heat_pictures: list[HeatPicture] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request) -> Job:
        job = cls(request.settings, list(request.notes))
        if sdnext.present():
            return job
        try:
            job.host = which.detect()
        except UnsupportedHost as reason:
            job.unsupported = str(reason)
        return job

    def strength(self, sd_model: Any, pass_name: str = FIRST) -> Strength:
        """phi, tau, alpha for the model that is loaded now (the hires pass may run on another one)."""
        strength = self.settings.strength(base.family(sd_model), self._mechanism(sd_model))
        if pass_name == HIRES and self.settings.hires_scale > 0:
            if self.settings.strength_curve.points:
                self.notes.append("hires scale has no effect: the curve's points are used")
                return strength
            return Strength(self.settings.hires_scale, strength.tau, strength.alpha)
        return strength

    def begin_pass(self, p: Any, uc: Any, c: Any = None) -> None:
        """Installs NAG for the pass that is about to be sampled, or notes why it stands aside. Never raises.

        uc: the host's own schedules of the main negative, None where it did not encode it (Forge main at CFG
            1). c: those of the prompt.
        """
        name = FIRST
        self._close_passes()  # a pass that begins ends the ones before
        try:
            name = _pass_name(p)
            self.passes[name] = self._start(p, uc, c, name)
        except Exception as error:  # hosts swallow it and go on without a word; the report shall not
            self.passes[name] = stood_aside(name, error)

    def begin_batch(self, p: Any) -> None:
        """Waits for the batch's pipeline calls, in a WebUI that announces no sampling. Never raises."""
        if not sdnext.present():
            return

        def around(call: sdnext.PipelineCall) -> AbstractContextManager:
            return guided_call(call, p, self.settings, self.notes, self.passes)

        try:
            self.stop_waiting = sdnext.await_calls(p, around)
            self._name_relative(p.sd_model)
        except Exception as error:
            self.failed = stood_aside(FIRST, error)

    def _start(self, p: Any, uc: Any, c: Any, name: str) -> Pass | report.PassReport:
        strength = self.strength(p.sd_model, name)
        reason = (
            self.unsupported or _not_this_pass(self.settings, name) or asks_nothing(self.settings, strength)
        )
        if reason:
            return report.aside(name, reason)
        base.check_model(p.sd_model, self.host)
        chosen = self._chosen_blocks(p.sd_model)
        region = mask_image.region(self.settings, p)
        texts = negative_texts(p, self.settings, name == HIRES, self.notes)
        if self.host.samples_one(p.sd_model):
            texts = texts.of_one_image()
        negative = self._negative(p, texts, None if texts.own else uc, name, c)
        if not any(negative.images):
            return report.aside(name, report.nobody(len(negative.images), negative.alike))
        self._name_relative(p.sd_model)
        session = Session(
            strength, Method(self.settings.method), self.settings.window, negative, base.sampler_progress(p),
            self.host.attention, self.host.attention_name, name, self.settings.strength_curve,
            chosen, region, HeatMap() if self.settings.heat_map else None, _texts_in_use(p, c, uc),
        )  # fmt: skip
        self.host.install(p, p.sd_model, session)
        return Pass(session, texts)

    def _negative(self, p: Any, given: Texts, schedules: Any, name: str, prompts: Any) -> Negative:
        """The conditioning of the texts: the host's `schedules` where it encoded them, else by its encoder;
        without the images for which it is what `prompts`, the host's of the prompt, say already.
        """
        if not any(text.strip() for text in given.texts):
            return Negative((None,) * given.images)
        hires = name == HIRES
        if schedules:
            schedules = schedules[: given.images]
        else:
            schedules = encoding.encode(p, given.texts, self.caches.setdefault(name, [None, None]), hires)
        parts = encoding.schedule_texts(p, given.texts, hires)
        if given.weights:
            negative = weighted_negative(schedules, parts, given.weights, given.images)
        else:
            negative = negative_from_schedules(schedules, parts)
        return _unlike_prompt(negative, prompts)

    def _chosen_blocks(self, sd_model: Any) -> frozenset[Block] | None:
        """The blocks to guide of this model, None for all; `UnsupportedHost` where it has none of them."""
        terms = parse_blocks(self.settings.blocks)
        if not terms:
            return None
        available = base.blocks(sd_model, self.host)
        chosen = choose(terms, available)
        if chosen.unknown:
            message = f"no blocks {', '.join(chosen.unknown)} here; this model has {listing(available)}"
            if not chosen.blocks:
                raise UnsupportedHost(message)
            self.notes.append(message)
        return None if len(chosen.blocks) == len(available) else chosen.blocks

    def _name_relative(self, sd_model: Any) -> None:
        family = base.family(sd_model)
        row = presets.auto(family, self._mechanism(sd_model))
        if self.settings.preset == presets.AUTO and row != family:
            self.notes.append(f"Auto has no values for this model ({family}) and took {row}'s")

    def _mechanism(self, sd_model: Any) -> str:
        return "cross" if self.host is None else base.mechanism(sd_model, self.host)

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
        current.session.blocks = self._chosen_blocks(sd_model)
        self.caches.clear()
        current.session.cache.clear()
        current.session.texts = None  # the host has encoded the prompt anew, too
        prompts, schedules = asked.call(asked.attribute(p, "get_conds"))
        schedules = None if current.texts.own else schedules
        negative = self._negative(p, current.texts, schedules, name, prompts)
        current.session.take(negative)
        if not any(negative.images):
            reason = report.nobody(len(negative.images), negative.alike)
            current.session.stop(f"off after the refiner switch ({reason})")
        self.host.install(p, sd_model, current.session)
        if not schedules:
            self.host.after_encoding(sd_model, x)

    def end_batch(self) -> str:
        """Ends the batch's passes; the sentence for log, comment and infotext."""
        self._close_passes()
        ended = self.passes.values()
        self.heats = _heats(ended)
        reports = [current.session.report() if isinstance(current, Pass) else current for current in ended]
        self.passes.clear()
        if not reports:
            never = report.aside(
                FIRST, self.unsupported or "this WebUI never announced a sampling pass", not self.unsupported
            )
            reports = [self.failed or never]
        self.reports = reports
        # Of what was bypassed another extension is the likelier cause, but not the only one.
        unknown = any(one.unknown or one.bypassed for one in reports)
        notes = [*dict.fromkeys(self.notes), *([asked.to_report()] if unknown else [])]
        return "; ".join([report.summary(reports, self.recorded), *notes])

    def draw_heat(self, picture: Any, image: int, index: int) -> None:
        """Draws the map of the batch's image number `image` over it; `index`: its number in the job."""
        heat = self.heats[image] if image < len(self.heats) else None
        if heat is not None:
            made = heat_picture.drawn(picture, heat)
            self.heat_pictures.append(HeatPicture(made, index, float(heat.max())))

    def close(self) -> None:
        """Lets go of everything, in whatever state an interrupt or an exception left the job."""
        self._close_passes()
        self.passes.clear()
        self.caches.clear()
        self.heats.clear()
        self.heat_pictures.clear()

    def _close_passes(self) -> None:
        if self.stop_waiting is not None:
            self.stop_waiting()
            self.stop_waiting = None
        for current in self.passes.values():
            if isinstance(current, Pass):
                current.session.close()


def _pass_name(p: Any) -> str:
    """Of the pass that is about to be sampled; `HostChanged` where nobody can tell."""
    # An img2img job has none, on some hosts.
    hires = getattr(p, "enable_hr", False) and asked.attribute(p, "is_hr_pass")
    return HIRES if hires else FIRST


def _heats(passes: Iterable[Any]) -> list[Tensor | None]:
    """Each image's heat map of the last pass that guided one: a hires pass draws what is seen in the end."""
    sessions = [one.session for one in passes if isinstance(one, Pass)]
    found = [one.heat.pictures(one.images) for one in sessions if one.heat is not None and one.layers]
    return next((maps for maps in reversed(found) if any(heat is not None for heat in maps)), [])


def _texts_in_use(p: Any, c: Any, uc: Any) -> Callable | None:
    """None where the host's schedules are not what they are known to be: then nothing is reused."""
    if getattr(p, "dynamic_clip_skip_sets", None):
        return None  # reForge changes the conditions of every step itself (its clip skip ramp)
    try:
        return texts_in_use(c, uc)
    except Exception as error:
        logger.debug("NAG: the prompt's schedules cannot be read", exc_info=error)
        return None


def _unlike_prompt(negative: Negative, prompts: Any) -> Negative:
    """The negative as it is, where the host's schedules of the prompt are not what they are known to be."""
    try:
        images = [[part.schedules for part in image] for image in prompts.batch]
        return unlike_prompt(negative, images[: len(negative.images)])
    except Exception as error:
        logger.debug("NAG: prompt and negative cannot be compared", exc_info=error)
        return negative


def _not_this_pass(settings: Settings, name: str) -> str:
    """Why the settings leave this pass out; empty if they do not."""
    if (name == HIRES and settings.hires == HIRES_FIRST) or (name == FIRST and settings.hires == HIRES_ONLY):
        return f"hires is set to {settings.hires}"
    return ""
