"""Which negative text each image gets, prepared the way the host prepares its own negative box.

What is prepared is settled before the job draws and is what the parameters record: a picture drawn again from
them has no styles, comments or wildcards left to read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from nag_core.hosts import asked, which
from nag_core.hosts.base import Host
from nag_core.passes.report import OF_AN_UNKNOWN_HOST
from nag_core.settings.parse import Request, Settings
from nag_core.settings.weighted import Weighted, parse_negatives, written
from nag_core.webui.wildcards import drawn

logger = logging.getLogger("nag")


class Texts(NamedTuple):
    """The negatives of a pass. own: they are NAG's, not the host's main one. images: how many the batch has.

    texts: one per image; with `weights`, one per weight, for every image alike.
    """

    texts: list[str]
    own: bool
    images: int
    weights: tuple[float, ...] = ()

    def of_one_image(self) -> Texts:
        """The same of the batch's first image alone."""
        return self._replace(images=1, texts=self.texts if self.weights else self.texts[:1])


def negative_texts(p: Any, settings: Settings, hires: bool) -> Texts:
    """The several negatives if there are any, else the NAG box's if it is filled, else the main negative of
    this pass (styles applied). settings: as `prepared` left them.
    """
    main = _main_negatives(p, hires)
    if settings.negatives.strip():
        several = [one for one in parse_negatives(settings.negatives) if one.weight > 0]
        texts, weights = [one.text for one in several], tuple(one.weight for one in several)
        return Texts(texts, True, len(main), weights)
    if settings.each_negative:
        return Texts(of_batch(settings, p, len(main)), True, len(main))
    if settings.negative.strip():
        return Texts([settings.negative] * len(main), True, len(main))
    return Texts(main, False, len(main))


def of_batch(settings: Settings, p: Any, images: int) -> list[str]:
    """The NAG negatives of the running batch's images, where those differ."""
    first, every = images_before(p, images), settings.each_negative
    return [every[(first + image) % len(every)] for image in range(images)]


def images_before(p: Any, images: int) -> int:
    """How many images the batches before the running one have. images: its own, for hosts without a size."""
    return int(getattr(p, "iteration", 0)) * int(getattr(p, "batch_size", images))


def _main_negatives(p: Any, hires: bool) -> list[str]:
    """The current batch's slice of the main negatives (a batch of one, where the host has not made the
    slices).
    """
    name = "hr_negative_prompts" if hires else "negative_prompts"
    announced = (which.detected() or Host).announces_sampling
    texts = asked.attribute(p, name) if announced else getattr(p, name, None)
    if not texts:
        texts = [getattr(p, "negative_prompt", "") or ""] * int(getattr(p, "batch_size", 1))
    return [str(text) for text in texts]


def prepared(request: Request, p: Any) -> Request:
    """The request with its own negatives as the text encoder will get them: styles applied, wildcards drawn,
    comments and extra-network tags left out. Never raises: where the host's functions fail, the texts stay as
    they are written, and that is said.
    """
    notes = list(request.notes)
    try:
        settings = _prepared(request.settings, p, notes)
    except Exception as error:
        logger.debug("NAG: the negative could not be prepared", exc_info=error)
        notes.append(f"styles and wildcards in the NAG negative are read as words ({str(error)[:120]})")
        if isinstance(error, OF_AN_UNKNOWN_HOST):
            notes.append(asked.to_report())
        settings = request.settings
    return Request(settings, tuple(dict.fromkeys(notes)))


def _prepared(settings: Settings, p: Any, notes: list[str]) -> Settings:
    several = parse_negatives(settings.negatives)
    lines = [one for one in (_line(one, p, notes) for one in several) if one.text]
    if lines != several:
        settings = replace(settings, negatives=written(lines))
    if not settings.negative.strip():
        return settings
    if settings.negatives.strip():
        notes.append("the NAG negative is not used beside several negatives")
        return settings
    each = [_plain(text, p, notes) for text in drawn(_styled(settings.negative, p), p, notes)]
    # Where a host records a list as one text, the first image's are everybody's.
    differ = len({*each}) > 1 and (which.detected() or Host).records_by_image
    return replace(settings, negative=each[0], each_negative=tuple(each) if differ else ())


def _line(one: Weighted, p: Any, notes: list[str]) -> Weighted:
    """One of several negatives; all images have the first one's wildcards. A line has no line ends."""
    text = drawn(_styled(one.text, p), p, notes)[0]
    return one._replace(text=" ".join(_plain(text, p, notes).replace("\\n", "\n").split("\n")).strip())


def _styled(text: str, p: Any) -> str:
    """`text` with the job's styles. SD.Next's wildcards are a part of its styles."""
    from modules import shared

    styles, database = asked.attribute(p, "styles") or [], shared.prompt_styles
    every = getattr(database, "apply_styles_to_prompts", None)
    if every is None:
        apply = asked.attribute(database, "apply_negative_styles_to_prompt")
        return asked.call(apply, text, styles)
    seeds = (getattr(p, "all_seeds", None) or [0])[:1]
    return asked.call(every, [""], [text], styles, seeds)[1][0]


def _plain(text: str, p: Any, notes: list[str]) -> str:
    """`text` without comments and extra-network tags (no host reads them in a negative: they would be
    tokenised as words).
    """
    from modules import extra_networks

    parse = asked.attribute(extra_networks, "parse_prompts")
    stripped, networks = asked.call(parse, [_without_comments(text)])
    if networks:
        notes.append(
            "LoRA tags in the NAG negative are ignored (hosts read them in the positive prompt only)"
        )
    return stripped[0]


def _without_comments(text: str) -> str:
    """`text` without `# comments`, where the host strips them (Classic has an option for it)."""
    try:
        from modules.processing_scripts.comments import strip_comments
        from modules.shared import opts
    except ImportError:
        return text
    return asked.call(strip_comments, text) if getattr(opts, "enable_prompt_comments", True) else text


def without_styles(text: str, parameters: Mapping[str, Any]) -> str:
    """A recorded negative as the box gets it: without the styles that the host has taken out of the picture's
    prompts and chosen in its list, because the next job would apply them a second time.
    """
    names = parameters.get("Styles array")
    if not names or not isinstance(names, list):
        return text
    try:
        from modules import shared, styles

        found = text
        for name in reversed(names):
            style = shared.prompt_styles.styles[name].negative_prompt
            there, found = asked.call(styles.extract_style_text_from_prompt, style, found)
            if not there:
                return text
    except Exception as error:
        logger.debug("NAG: the styles of a pasted picture cannot be read", exc_info=error)
        return text
    return found


def lines_without_styles(text: str, parameters: Mapping[str, Any]) -> str:
    """The same of several negatives."""
    several = parse_negatives(text)
    lines = [one._replace(text=without_styles(one.text, parameters)) for one in several]
    return text if lines == several else written(lines)
