"""What the WebUI calls of ours: a failure there is one sentence, and costs neither a picture nor the page."""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nag_core.hosts import asked
from nag_core.passes import report
from nag_core.passes.plan import FIRST
from nag_core.webui import infotext, options
from nag_core.webui.passes import stood_aside

logger = logging.getLogger("nag")

NOT_APPLIED = "not applied"
SAMPLING = "process_before_every_sampling"
HOOKS = (
    "setup",
    "process",
    "process_batch",
    SAMPLING,
    "postprocess_batch",
    "postprocess_image",
    "postprocess",
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def spared(cost: str) -> Decorator:
    """Decorates a callback: where it fails, the log says what that costs, once as long as it is the same
    failure, and None comes back.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        said = ""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal said
            try:
                return function(*args, **kwargs)
            except Exception as error:
                before, said = said, sentence(cost, error)
                if said != before:
                    logger.warning("NAG: %s", said)
                return None

        return call

    return decorated


def hook(cost: str, place: int = 1, spares: tuple[type[Exception], ...] = (Exception,)) -> Decorator:
    """The same for what is called for a job: the picture's parameters and the page say it, too.

    place: of the job `p` among the arguments, behind the script unless told. spares: what is not raised.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except spares as error:
                _tell(args[place], cost, error)

        return call

    return decorated


def _tell(p: Any, cost: str, error: Exception) -> None:
    said = sentence(cost, error)
    logger.warning("NAG: %s", said)
    with suppress(Exception):  # the places themselves may be what is not there any more
        infotext.forget_unread(p.extra_generation_params)
        if infotext.REPORT not in p.extra_generation_params:
            p.extra_generation_params[infotext.REPORT] = said
            if cost == NOT_APPLIED:
                verdict = report.verdict([report.aside(FIRST, said)])
                p.extra_generation_params[infotext.APPLIED] = verdict
    with suppress(Exception):
        if options.read(options.COMMENTS):
            p.comment(f"NAG: {said}")


@contextmanager
def saying(cost: str) -> Iterator[None]:
    """What fails inside is said in the log, with what it costs, and nothing is raised."""
    try:
        yield
    except Exception as error:
        logger.warning("NAG: %s", sentence(cost, error))


def check_hooks(base: type, announces_sampling: bool) -> None:
    """Says which of its methods a WebUI does not call any more, by its base class of scripts."""
    for name in HOOKS:
        # Where a host announces no sampling (SD.Next), its passes are caught in process_batch.
        if not hasattr(base, name) and (name != SAMPLING or announces_sampling):
            reason = f"this version of the WebUI calls no {name}() of a script, which NAG needs"
            logger.warning("NAG: %s; %s", reason, asked.to_report())


def no_section(error: Exception) -> list[Any]:
    """What stands on the page in place of the script's controls, which could not be built: no arguments."""
    said = sentence("the controls could not be built", error)
    logger.warning("NAG: %s", said)
    with suppress(Exception):
        import gradio as gr

        gr.HTML(f"NAG: {html.escape(said)}")
    return []


def sentence(cost: str, error: Exception) -> str:
    """What it costs that something failed, why, and what to do where an update may be to blame."""
    failed = stood_aside(FIRST, error)
    return "; ".join([f"{cost}: {failed.reason}", *([asked.to_report()] if failed.unknown else [])])
