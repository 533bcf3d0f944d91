"""A job's passes in a WebUI on diffusers (SD.Next): one for each pipeline call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from nag_core.hosts.diffusers import sdnext
from nag_core.hosts.diffusers.applied import NOT_ON_DIFFUSERS, Applied, guided
from nag_core.hosts.diffusers.prompts import Reading, has_syntax
from nag_core.hosts.diffusers.sdnext import FIRST, HIRES, REFINER, PipelineCall
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.passes import report
from nag_core.passes.report import PassReport
from nag_core.settings.fields import FIELD
from nag_core.settings.parse import HIRES_FIRST, HIRES_ONLY, Settings
from nag_core.webui.negative_text import negative_texts

logger = logging.getLogger("nag")

AS_WORDS = "weights and schedules in the negative are read as words here"


@contextmanager
def guided_call(
    call: PipelineCall, p: Any, settings: Settings, notes: list[str], reports: dict
) -> Iterator[None]:
    """The pipeline call inside is guided; its report is in `reports`, by pass, afterwards. Raises nothing of
    NAG's own.
    """
    guiding = None
    with ExitStack() as stack:
        try:
            guiding = _applied(call, p, settings, notes)
            stack.enter_context(guided(guiding))
            reports.pop(call.name, None)
        except Exception as error:
            reports[call.name] = stood_aside(call.name, error)
        yield
    if guiding is not None and call.name not in reports:
        reports[call.name] = _of_pass(guiding)
        if reports[call.name].applied and guiding.as_words and has_syntax(guiding.negative):
            notes.append(AS_WORDS)
        if sdnext.interrupted():  # of which this WebUI tells no script, unless it keeps the picture so far
            logger.info("NAG: %s", reports[call.name].sentence())


def stood_aside(name: str, error: Exception) -> PassReport:
    """The report of a pass that could not be set up."""
    unknown = isinstance(error, report.OF_AN_UNKNOWN_HOST)
    if isinstance(error, UnsupportedHost):
        return report.aside(name, str(error), unknown)
    logger.debug("NAG could not be set up", exc_info=error)
    return report.aside(name, f"{type(error).__name__}: {str(error)[:200]}", unknown)


def _of_pass(guiding: Applied) -> PassReport:
    """The pass that was guided, else the last; there is one, unless the call broke off before its text."""
    applied = [one for one in guiding.ended if one.applied]
    if applied or guiding.ended:
        return (applied or guiding.ended)[-1]
    return report.aside(guiding.pass_name, "the pipeline encoded no prompt")


def _applied(call: PipelineCall, p: Any, settings: Settings, notes: list[str]) -> Applied:
    """What to do with the call; `UnsupportedHost` with the reason where it is left alone."""
    if call.name == REFINER:
        raise UnsupportedHost("the refiner is left alone")
    if call.name == (
        HIRES if settings.hires == HIRES_FIRST else FIRST if settings.hires == HIRES_ONLY else ""
    ):
        raise UnsupportedHost(f"hires is set to {settings.hires}")
    if call.name == HIRES and settings.hires_scale > 0:
        settings = replace(settings, scale=settings.hires_scale, explicit=settings.explicit | {"scale"})
    if unknown := [name for name in NOT_ON_DIFFUSERS if getattr(settings, name) != FIELD[name].default]:
        notes.append(f"{', '.join(FIELD[name].label for name in unknown)}: not in this WebUI yet")
    given = negative_texts(p, settings, call.name == HIRES, notes)
    texts = (given.texts if given.own else call.negatives) or [""]
    negative = texts if given.weights or len(set(texts)) > 1 else texts[0]
    return Applied(
        call.pipe, negative, settings, call.name, strict=False, weights=given.weights,
        read=partial(_reading, call, texts, notes), interrupted=sdnext.interrupted,
    )  # fmt: skip


def _reading(call: PipelineCall, texts: list[str], notes: list[str]) -> Reading | None:
    """The texts by the host's parser, where it read the prompt. Its failure costs the weights, not NAG."""
    try:
        return None if call.read is None else call.read(texts)
    except Exception as error:
        logger.debug("NAG: the WebUI's parser did not read the negative", exc_info=error)
        notes.append(f"the WebUI's prompt parser failed on the negative ({str(error)[:120]})")
        return None
