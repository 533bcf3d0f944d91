"""Texts of a pipeline: the negative from what encode_prompt gave, and which rows of a call are the prompt."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.hosts.diffusers.calling import Own
from nag_core.hosts.diffusers.families import CROSS, Family
from nag_core.hosts.diffusers.keys import with_last_repeated, without_pads
from nag_core.method.alike import alike
from nag_core.method.negative import Cut, Entry, Negative, Scheduled, mixed

FOREVER = 2**31

# Texts as a model gets them: (texts, tokens, channels), or one (tokens, channels) for each.
Contexts = Tensor | Sequence[Tensor]


@dataclass(slots=True)
class Encoded:
    """One call of encode_prompt: the prompt of each image, and its negative.

    later: other contexts that are the prompt, too: a host changes its words over the steps.
    seen: model calls' contexts that were looked at, with their marks. Pipelines hand over the same tensors in
    every step, so comparing values, which waits for the device, happens once or twice in a pass.
    """

    prompt: Contexts
    negative: Negative
    later: Sequence[Contexts] = ()
    seen: list[tuple[list[weakref.ref], tuple[int, ...]]] = field(default_factory=list)

    def marks(self, context: Contexts) -> tuple[int, ...]:
        """For each chunk of as many rows as there are images: 0 where it is the prompt, else 1; empty for
        rows that cannot be told apart.
        """
        tensors = [context] if isinstance(context, Tensor) else context
        for known, marks in self.seen:
            if len(known) == len(tensors) and all(map(_refers, known, tensors)):
                return marks
        self.seen = [one for one in self.seen if all(known() is not None for known in one[0])]
        self.seen.append(([weakref.ref(one) for one in tensors], self._compared(context)))
        return self.seen[-1][1]

    def _compared(self, context: Contexts) -> tuple[int, ...]:
        images = len(self.prompt)
        if len(context) == 1 < images:  # the pipeline's own negative: one text for all images
            return (1,)
        if len(context) % images:
            return ()
        chunks = (context[first : first + images] for first in range(0, len(context), images))
        return tuple(int(not self._is_prompt(chunk)) for chunk in chunks)

    def _is_prompt(self, chunk: Contexts) -> bool:
        return any(_equal(chunk, one) for one in (self.prompt, *self.later))


def _refers(known: weakref.ref, tensor: Tensor) -> bool:
    return known() is tensor


def conditional(marks: tuple[int, ...], context: Contexts, own: Own) -> tuple[int, ...]:
    """The marks of a call, CFG's own rows as 1 also where its negative is the prompt, so that values do not
    tell them apart; as they are where nothing else does.
    """
    if any(marks) or own.cfg is False:
        return marks
    if len(marks) == 1:
        of_cfg = _same(context, own.negative) and not _same(context, own.prompt)
        return (int(of_cfg or bool(own.cfg and _is_front_half(context, own.prompt))),)
    if len(marks) == 2 and own.cfg:
        # Diffusers puts it in front; but lists (Z-Image's), which say whose their tensors are.
        return (0, 1) if _same(context[len(context) // 2 :], own.negative) else (1, 0)
    return marks


def _same(one: Contexts, other: Any) -> bool:
    """Whether two are the same objects."""
    if one is other or not isinstance(one, (list, tuple)) or not isinstance(other, (list, tuple)):
        return one is other
    return len(one) == len(other) and all(map(operator.is_, one, other))


def _is_front_half(context: Contexts, both: Any) -> bool:
    """Whether the context is a view of the first of two equal halves, where diffusers has CFG's own rows
    (self-attention guidance calls the model over these alone).
    """
    if not isinstance(context, Tensor) or not isinstance(both, Tensor) or len(both) != 2 * len(context):
        return False
    return context.data_ptr() == both.data_ptr() and torch.equal(*both.chunk(2))


def _equal(one: Contexts, other: Contexts) -> bool:
    """Whether two are the same texts, up to device and dtype."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one.shape == other.shape and torch.equal(one, other.to(one))


class Part(NamedTuple):
    """A text as a host's parser read it, for the model calls up to and including `end`."""

    end: int
    context: Tensor


@dataclass(frozen=True, slots=True)
class Reading:
    """What a host's own parser of weights and schedules made of the texts of a pipeline call.

    texts: the parts of each negative in the order of their ends; parts with the same words share their
    context (tokens, channels). prompts: what the model gets as the prompt (images, tokens, channels), the
    first step's and each other one.
    """

    texts: Mapping[str, Sequence[Part]]
    prompts: Sequence[Tensor]


def entry(
    family: Family, context: Tensor, mask: Tensor | None, of_several: bool = False, text: str = "",
    cut: Cut | None = None,
) -> Entry:  # fmt: skip
    """The negative's entry of one text (tokens, channels), with the pipeline's mask of it (tokens,).

    of_several: it will be one of several, in which equal pads cannot be left to one of them. cut: leaves the
        padding of `text` out, where the pipeline has no mask of it.
    """
    if cut is not None and mask is None:
        return Entry(cut(context, text))
    if family.mechanism == CROSS:
        one = without_pads(context, mask if family.crops else None)
        return Entry(with_last_repeated(one.context, one.repeats, 0)) if of_several else one
    if mask is None:
        return Entry(context)
    return Entry(context[mask != 0]) if family.crops else Entry(context, mask=mask)


def context_of(result: Any) -> Contexts:
    """Of what encode_prompt returned, the contexts that the model attends to."""
    return result[0] if isinstance(result, tuple) else result


def repeated(result: Any, times: int) -> Any:
    """What encode_prompt returned of texts of their own lengths, each so many times in a row."""
    contexts = [one for one in context_of(result) for _ in range(times)]
    return (contexts, *result[1:]) if isinstance(result, tuple) else contexts


def _rows(family: Family, result: Any) -> list[tuple[Tensor, Tensor | None]]:
    """Each text's context (tokens, channels) and mask (tokens,), None where the family has none."""
    contexts = context_of(result)
    masks = [None] * len(contexts) if family.mask_at is None else result[family.mask_at]
    if masks is None:  # of a pipeline that was given none
        masks = [None] * len(contexts)
    return list(zip(contexts, masks, strict=True))


def _visible(context: Tensor, mask: Tensor | None) -> Tensor:
    """The tokens that the mask does not hide: how many pads there are depends on the batch's longest text."""
    return context if mask is None else context[mask != 0]


def negative_of(
    family: Family, texts: Sequence[str], result: Any, prompt: Any, cut: Cut | None = None
) -> Negative:
    """The negative of every image, from what encode_prompt returned for `texts`; None for a blank text, and
    where the negative's context is that of the image's prompt.

    prompt: what encode_prompt returned for the prompts, a row for each image; each text's images are in a
        row. Images of one text share their entry, and so its keys and values.
    """
    negatives, prompts = _rows(family, result), _rows(family, prompt)
    entries: dict[str, Entry | None] = {text: None for text in texts if not text.strip()}
    for text, row in zip(texts, negatives, strict=False):
        if text not in entries:
            entries[text] = entry(family, *row, text=text, cut=cut)
    each = len(prompts) // len(texts)
    given = [(row, entries[text]) for row, text in zip(negatives, texts, strict=False) for _ in range(each)]
    same = [
        one is not None and alike(_visible(*row), _visible(*image))
        for (row, one), image in zip(given, prompts, strict=True)
    ]
    kept = [None if left_out else one for (_, one), left_out in zip(given, same, strict=True)]
    return static(kept, sum(same))


def read_negative(family: Family, texts: Sequence[str], reading: Reading, cut: Cut | None = None) -> Negative:
    """The negative of every image as the host's parser read it; None for a blank text, and where that is the
    prompt's context.
    """
    images: list[tuple[Scheduled, ...] | None] = []
    scheduled = {text: read(family, reading, text, cut=cut) for text in texts}
    same = 0
    for number, text in enumerate(texts):
        parts = reading.texts[text]
        prompt_too = len(parts) == len(reading.prompts) == 1 and alike(
            parts[0].context, reading.prompts[0][number]
        )
        same += prompt_too
        images.append(None if prompt_too else scheduled[text])
    return Negative(tuple(images), same)


def read(
    family: Family, reading: Reading, text: str, of_several: bool = False, cut: Cut | None = None
) -> tuple[Scheduled, ...] | None:
    """One text as the host's parser read it; None for a blank one. of_several: see `entry`."""
    if not text.strip():
        return None
    # One entry for the same words, which may come again: its keys and values are made once.
    made: dict[int, Entry] = {}
    for part in reading.texts[text]:
        if id(part.context) not in made:
            made[id(part.context)] = entry(family, part.context, None, of_several, text, cut)
    return tuple(Scheduled(part.end, made[id(part.context)]) for part in reading.texts[text])


def mixed_negative(
    family: Family, texts: Sequence[str], weights: Sequence[float], made: Any, images: int,
    cut: Cut | None = None,
) -> Negative:  # fmt: skip
    """The same mean of several negatives for every image. made: what encode_prompt returned for `texts`, or
    the host's reading of them.
    """
    if isinstance(made, Reading):
        return mixed([read(family, made, text, True, cut) for text in texts], weights, images)
    rows = zip(texts, _rows(family, made), strict=True)
    entries = [entry(family, *row, True, text, cut) if text.strip() else None for text, row in rows]
    single = [None if one is None else (Scheduled(FOREVER, one),) for one in entries]
    return mixed(single, weights, images)


def has_syntax(texts: str | Sequence[str]) -> bool:
    """Whether a parser of weights and schedules would find something in a text, or in any of several."""
    return any(sign in text for text in texts for sign in "([")


def reads_words(reading: Reading, texts: Sequence[str], words: Any) -> bool:
    """Whether the host's parser took each text as it is written. words: what encode_prompt returned for
    them.
    """
    first = [reading.texts[text][0].context for text in texts]
    pairs = zip(first, context_of(words), strict=True)
    return all(_equal(other, one) for one, other in pairs)


def static(entries: Sequence[Entry | None], alike_images: int = 0) -> Negative:
    """A negative that stays the same over the steps."""
    images = tuple(None if one is None else (Scheduled(FOREVER, one),) for one in entries)
    return Negative(images, alike_images)
