"""`nag_core.applied`: NAG on a diffusers pipeline for the length of a `with` block."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nag_core.hosts.diffusers.families import preset_of
from nag_core.hosts.diffusers.guided import Guiding, guided
from nag_core.passes import report
from nag_core.passes.report import PassReport
from nag_core.settings import strength
from nag_core.settings.parse import Settings, parse
from nag_core.settings.values import quoted
from nag_core.settings.weighted import parse_negatives

logger = logging.getLogger("nag")


class Applied:
    """What was done so far, while the block runs and afterwards."""

    def __init__(self, guiding: Guiding) -> None:
        self._guiding = guiding

    @property
    def reports(self) -> list[PassReport]:
        """One for each pipeline call, the one under way included."""
        return self._guiding.reports

    @property
    def report(self) -> str:
        """The same in one sentence, as in a WebUI."""
        reports = self.reports or [report.aside(self._guiding.pass_name, "the pipeline was not called")]
        return "; ".join(one.sentence() for one in reports)

    @property
    def complete(self) -> bool:
        """Whether every call was guided wherever the settings asked for it."""
        return bool(self.reports) and all(one.complete for one in self.reports)


@contextmanager
def applied(pipe: Any, negative: str | Sequence[str], **settings: Any) -> Iterator[Applied]:
    """See nag_core.applied."""
    guiding = _asked(pipe, negative, _read(settings))
    result = Applied(guiding)
    with guided(guiding):
        yield result
    done = any(one.applied for one in result.reports)
    logger.log(logging.INFO if done else logging.WARNING, "NAG: %s", result.report)


def _asked(pipe: Any, negative: str | Sequence[str], settings: Settings) -> Guiding:
    """With the End that Auto's row has for the pipeline's model, as in a WebUI."""
    if not _is_text(negative):
        raise ValueError(
            f"the negative is a text, or a list with one for each prompt; not {quoted(negative)}"
        )
    family = preset_of(pipe)
    settings = strength.ended(settings, family)
    said = strength.remarks(settings, family) if family else ()
    several = [one for one in parse_negatives(settings.negatives) if one.weight > 0]
    if not several:
        return Guiding(pipe, negative, settings, on_values=said)
    if any(text.strip() for text in ([negative] if isinstance(negative, str) else negative)):
        raise ValueError("several negatives take the place of the negative: leave that empty")
    texts, weights = [one.text for one in several], [one.weight for one in several]
    return Guiding(pipe, texts, settings, weights=weights, on_values=said)


def _is_text(negative: Any) -> bool:
    if isinstance(negative, str):
        return True
    listed = isinstance(negative, Sequence) and not isinstance(negative, (bytes, bytearray))
    return listed and len(negative) > 0 and all(isinstance(one, str) for one in negative)


def _read(settings: dict[str, Any]) -> Settings:
    """The settings by name, None for what was not given; ValueError for what a WebUI would correct with a
    note.
    """
    request = parse([{name: value for name, value in settings.items() if value is not None}])
    if request.notes:
        raise ValueError("; ".join(request.notes))
    return request.settings
