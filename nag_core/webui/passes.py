"""Building a job's passes: from its settings and the host's texts to what guides a sampling pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from nag_core.hosts import asked, encoding, foreign, model, padding
from nag_core.hosts.base import Host
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.alike import unlike_prompt
from nag_core.method.guidance import Method
from nag_core.method.negative import Cut, Negative, negative_from_schedules, uncut, weighted_negative
from nag_core.passes import report
from nag_core.passes.plan import FIRST, HIRES, REFINER, Plan
from nag_core.passes.report import PassReport
from nag_core.passes.session import Session
from nag_core.settings import strength
from nag_core.settings.blocks import Block, choose, listing, parse_blocks
from nag_core.settings.fields import FIELD
from nag_core.settings.parse import HIRES_FIRST, HIRES_ONLY, Settings
from nag_core.settings.presets import Strength
from nag_core.settings.weighted import Weighted, has_weights, without_brackets
from nag_core.webui import mask_image
from nag_core.webui.negative_text import Texts, negative_texts

logger = logging.getLogger("nag")


@dataclass(slots=True)
class Pass:
    """A sampling pass under way, and the negatives it was given."""

    session: Session
    texts: Texts


@dataclass(slots=True)
class Passes:
    """Builds the passes of one job. `notes`: what has to be said besides."""

    settings: Settings
    notes: list[str]
    host: Host | None  # None where this WebUI is none that NAG knows
    caches: dict[str, list] = field(default_factory=dict)  # of encoded negatives, by pass

    def strength(self, sd_model: Any, name: str = FIRST) -> Strength:
        """phi, tau, alpha for the model that is loaded now (the hires pass may run on another one)."""
        settings = self.settings
        if name == HIRES:
            if settings.hires_scale > 0 and settings.strength_curve.points:
                self.notes.append("hires scale has no effect: the curve's points are used")
            settings = settings.of_hires()
        return strength.of(settings, model.family(sd_model), self._mechanism(sd_model))

    def _mechanism(self, sd_model: Any) -> str:
        return "cross" if self.host is None else model.mechanism(sd_model, self.host)

    def ended(self, sd_model: Any) -> Settings:
        """The settings with the End that Auto takes for the model that is loaded now."""
        return strength.ended(self.settings, model.family(sd_model), self._mechanism(sd_model))

    def name_row(self, sd_model: Any) -> None:
        """Notes what has to be said of the values for the model that is loaded now."""
        family = model.family(sd_model)
        self.notes.extend(strength.remarks(self.settings, family, self._mechanism(sd_model)))

    def name_words(self, p: Any, given: Texts, name: str) -> None:
        """Notes where this model's text encoder does not read the weights in the negative."""
        weights = given.weights or (1.0,) * len(given.texts)
        weighted = [Weighted(*one) for one in zip(given.texts, weights, strict=True) if has_weights(one[0])]
        if not weighted:
            return
        try:
            cache = self.caches.setdefault(f"{name}, weights", [None, None])
            unread = encoding.unread_weights(p, cache, name == HIRES)
        except Exception as error:  # nothing is said, then; the negative itself was encoded
            logger.debug("NAG: whether weights are read could not be tried", exc_info=error)
            return
        if unread:
            every = [Weighted(*one) for one in zip(given.texts, weights, strict=True)]
            lines = without_brackets(every if given.weights else weighted[:1])
            instead = f"; as several negatives: {lines}" if lines else ""
            self.notes.append(f"weights in the negative {unread}{instead}")

    def start(self, p: Any, uc: Any, c: Any, name: str) -> Pass | PassReport:
        """The pass that is about to be sampled, under NAG; or why it stands aside. See `Job.begin_pass`."""
        wanted = self.strength(p.sd_model, name)
        reason = _not_this_pass(self.settings, name, p) or strength.asks_nothing(self.settings, wanted)
        if reason:
            return report.aside(name, reason, due=False)
        if _cfg(p, name) == 0:
            return report.aside(name, AT_CFG_0)
        if taken := foreign.guards(p):
            return report.aside(name, taken)
        model.check_model(p.sd_model, self.host)
        blocks = self.blocks(p.sd_model)
        region = mask_image.region(self.settings, p)
        texts = negative_texts(p, self.settings, name == HIRES)
        if self.host.samples_one(p.sd_model):
            texts = texts.of_one_image()
        negative = self.negative(p, texts, None if texts.own else uc, name, c)
        if not any(negative.images):
            return report.aside(name, report.nobody(len(negative.images), negative.alike))
        self.name_row(p.sd_model)
        self.name_words(p, texts, name)
        plan = Plan(
            strength=wanted, method=Method(self.settings.method), window=self.settings.window,
            curve=self.settings.strength_curve, region=region, with_heat=self.settings.heat_map,
            progress=model.sampler_progress(p), attention=self.host.attention,
            attention_name=self.host.attention_name, pass_name=name,
        )  # fmt: skip
        session = Session(plan, negative, blocks)
        self.host.install(p, p.sd_model, session, (c, uc))
        return Pass(session, texts)

    def negative(self, p: Any, given: Texts, schedules: Any, name: str, prompts: Any) -> Negative:
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

        def built(cut: Cut = uncut) -> Negative:
            if given.weights:
                return weighted_negative(schedules, parts, given.weights, given.images, cut)
            return negative_from_schedules(schedules, parts, cut)

        negative = _unlike_prompt(built(), prompts)
        if Method(self.settings.method).needs_lse:
            negative = negative.cut(built(padding.of_webui(p.sd_model, model.family(p.sd_model), self.notes)))
        return negative

    def blocks(self, sd_model: Any) -> frozenset[Block] | None:
        """The blocks to guide of this model, None for all; `UnsupportedHost` where it has none of them."""
        terms = parse_blocks(self.settings.blocks)
        if not terms:
            return None
        available = model.blocks(sd_model, self.host)
        chosen = choose(terms, available)
        if chosen.unknown:
            message = f"no blocks {', '.join(chosen.unknown)} here; this model has {listing(available)}"
            if not chosen.blocks:
                raise UnsupportedHost(message)
            self.notes.append(message)
        return None if len(chosen.blocks) == len(available) else chosen.blocks

    def move(self, p: Any, current: Pass, sd_model: Any, x: Any, name: str) -> None:
        """Installs the running pass on another model. That one has another text encoder: the old conditioning
        means nothing to it. The host has encoded the main negative anew by now, if it does so at all.
        """
        model.check_model(sd_model, self.host)
        blocks, session = self.blocks(sd_model), current.session
        self.caches.clear()
        session.cache.clear()
        prompts, schedules = asked.call(asked.attribute(p, "get_conds"))
        schedules = None if current.texts.own else schedules
        negative = self.negative(p, current.texts, schedules, name, prompts)
        session.move(negative, blocks)
        if not any(negative.images):
            reason = report.nobody(len(negative.images), negative.alike)
            session.stop(f"off after the refiner switch ({reason})")
        self.host.install(p, sd_model, session)
        if not schedules:
            self.host.after_encoding(sd_model, x)

    @contextmanager
    def guided_call(self, call: Any, p: Any, reports: dict[str, Pass | PassReport]) -> Iterator[None]:
        """A pass that the host announces itself (`Host.await_calls`) is guided inside; its report is in
        `reports`, by pass, afterwards. Raises nothing of NAG's own.
        """
        finished = None
        with ExitStack() as stack:
            try:
                finished = stack.enter_context(self._guided(call, p))
                reports.pop(call.name, None)
            except Exception as reason:
                reports[call.name] = stood_aside(call.name, reason)
            yield
        if finished is not None and call.name not in reports:
            reports[call.name] = finished()

    def _guided(self, call: Any, p: Any) -> AbstractContextManager:
        """What guides the call; `UnsupportedHost` with the reason where it is left alone."""
        settings = self.settings
        reason = _not_this_pass(settings, call.name, p)
        if call.name == REFINER:
            reason = "the refiner is left alone"
        if reason:
            raise UnsupportedHost(reason)
        if call.name == HIRES:
            settings = settings.of_hires()
        lacking = [name for name in self.host.lacks if getattr(settings, name) != FIELD[name].default]
        if lacking:
            self.notes.append(f"{', '.join(FIELD[name].label for name in lacking)}: not in this WebUI yet")
        given = negative_texts(p, settings, call.name == HIRES)
        texts = (given.texts if given.own else call.negatives) or [""]
        negative = texts if given.weights or len(set(texts)) > 1 else texts[0]
        return call.guided(negative, settings, given.weights, self.notes)


def stood_aside(name: str, reason: Exception) -> PassReport:
    """The report of a pass that could not be set up."""
    unknown = isinstance(reason, report.OF_AN_UNKNOWN_HOST)
    if isinstance(reason, UnsupportedHost):
        return report.aside(name, str(reason), unknown=unknown)
    logger.debug("NAG could not be set up", exc_info=reason)
    return report.aside(name, f"{type(reason).__name__}: {str(reason)[:200]}", unknown=unknown)


def _unlike_prompt(negative: Negative, prompts: Any) -> Negative:
    """The negative as it is, where the host's schedules of the prompt are not what they are known to be."""
    try:
        images = [[part.schedules for part in image] for image in prompts.batch]
        return unlike_prompt(negative, images[: len(negative.images)])
    except Exception as error:
        logger.debug("NAG: prompt and negative cannot be compared", exc_info=error)
        return negative


AT_CFG_0 = "CFG is 0: the picture takes nothing from the prompt, and NAG guides nothing else"


def _cfg(p: Any, name: str) -> Any:
    """The pass's CFG scale; hosts without one of the hires pass take the first pass's."""
    first = getattr(p, "cfg_scale", None)
    return getattr(p, "hr_cfg", first) if name == HIRES else first


def _not_this_pass(settings: Settings, name: str, p: Any) -> str:
    """Why the settings leave this pass out; empty if they do not.

    "Hires only" is not read in img2img without a hires pass (only SD.Next has one there): its page shows no
    control for it, and "Send to img2img" brings what txt2img had.
    """
    is_img2img = "Img2Img" in type(p).__name__
    hires_only = settings.hires == HIRES_ONLY and (not is_img2img or getattr(p, "enable_hr", False))
    if (name == HIRES and settings.hires == HIRES_FIRST) or (name == FIRST and hires_only):
        return f"hires is set to {settings.hires}"
    return ""
