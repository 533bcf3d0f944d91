"""A negative's context without its padding, which VSF leaves out: one softmax over both texts would give much
of its weight to pads.

How many tokens a text has the host's own tokenizers say; where they stand among the pads goes by family.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.hosts import asked
from nag_core.method.negative import Cut

logger = logging.getLogger("nag")

# CLIP's chunks of 75 tokens with one more at either end; one long encoder's tokens with an end token; both,
# one behind the other. The others pad with zeros or not at all (hosts' engines and diffusers' pipelines).
CLIP = ("SD1.5", "SD2", "SDXL")
LONG = ("Flux", "Chroma", "Flux.2 Klein", "Wan2.1")
BOTH = ("SD3", "SD3.5")
CHUNK, ENDS = 75, 2
LEAST = (256, 512)  # what T5's texts are padded to behind CLIP's


class Count(NamedTuple):
    """Tokens of a text without those that encoders add: CLIP's, and the long encoder's."""

    clip: int = 0
    long: int = 0


UNKNOWN = "the negative's padding takes part in VSF: where it stands is not known for this model"


def cutter(family: str, counted: Callable[[str], Count], say: Callable[[str], None]) -> Cut:
    """Cuts the padding off; what cannot be cut stays whole, and that is said."""

    def cut(context: Tensor, text: str) -> Tensor:
        try:
            found = without(context, family, counted(text))
        except Exception as error:
            logger.debug("NAG: the negative's tokens cannot be counted", exc_info=error)
            found = None
        if found is None:
            say(UNKNOWN)
        return context if found is None else found

    return cut


def without(context: Tensor, family: str, count: Count) -> Tensor | None:
    """The words of `context` (tokens, channels), at least one token; None where it is not as its family's
    are. A count may be too high: some pads stay then. Waits for the device.
    """
    places = words(family, len(context), count)
    if places is None:
        return None
    context = torch.cat([context[place] for place in places])
    filled = (context != 0).any(dim=-1)
    last = len(filled) - int(filled.flip(0).int().argmax())
    return context[:last] if bool(filled.any()) else context


def words(family: str, tokens: int, count: Count) -> list[slice] | None:
    """Where in a context of so many tokens the words stand; None where that is not known."""
    if family in CLIP:
        chunks = max(1, -(-count.clip // CHUNK))
        whole = tokens % (CHUNK + ENDS) == 0 and count.clip > 0
        return [slice(0, count.clip + ENDS * chunks)] if whole else None
    if family in LONG:
        return [slice(0, count.long + 1)] if count.long > 0 else None
    if family not in BOTH:
        return None if family == "unknown" else [slice(0, tokens)]
    for least in (*LEAST, count.long + 1):
        first = tokens - least
        front = words(CLIP[0], first, count) if first > 0 else None
        if front and count.long > 0:
            return [*front, slice(first, first + count.long + 1)]
    return None


def of_webui(sd_model: Any, family: str, notes: list[str]) -> Cut:
    """By the function that the WebUI's page counts tokens with."""

    def counted(text: str) -> Count:
        on_page = getattr(sd_model, "get_prompt_lengths_on_ui", None)
        if on_page is None:
            from modules import sd_hijack

            lengths = asked.attribute(sd_hijack.model_hijack, "get_prompt_lengths")
            stage = {"cond_stage_model": getattr(sd_model, "cond_stage_model", None)}
            return Count(int(asked.call(lengths, text, where_taken=stage)[0]))
        shown = int(on_page(text)[0])
        # Forge counts SD3.5's by T5 alone.
        beside = getattr(sd_model, "text_processing_engine_l", None)
        clip = shown if beside is None else int(beside.process_texts([text])[1])
        return Count(clip, shown)

    return cutter(family, counted, notes.append)
