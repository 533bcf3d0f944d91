"""Texts of a pipeline: the negative from its own encode_prompt, and which rows of a call hold the prompt."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.hosts import asked
from nag_core.hosts.diffusers.families import CROSS, Family
from nag_core.hosts.diffusers.keys import with_last_repeated, without_pads
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.alike import alike
from nag_core.method.negative import Cut, Entry, Negative, Scheduled, mixed

FOREVER = 2**31


@dataclass(slots=True)
class Encoded:
    """One call of encode_prompt: the prompt (images, tokens, channels), and each image's negative.

    later: other contexts that are the prompt, too: a host changes its words over the steps.
    seen: model calls' contexts that were looked at, with their marks. Pipelines hand over the same tensor in
    every step, so comparing values, which waits for the device, happens once or twice in a pass.
    """

    prompt: Tensor
    negative: Negative
    later: Sequence[Tensor] = ()
    seen: list[tuple[weakref.ref, tuple[int, ...]]] = field(default_factory=list)

    def marks(self, context: Tensor) -> tuple[int, ...]:
        """For each chunk of as many rows as there are images: 0 where it is the prompt, else 1; empty for
        rows that cannot be told apart.
        """
        for known, marks in self.seen:
            if known() is context:
                return marks
        self.seen = [one for one in self.seen if one[0]() is not None]
        self.seen.append((weakref.ref(context), self._compared(context)))
        return self.seen[-1][1]

    def _compared(self, context: Tensor) -> tuple[int, ...]:
        images = len(self.prompt)
        if len(context) % images:
            return ()
        return tuple(int(not self._is_prompt(chunk)) for chunk in context.split(images))

    def _is_prompt(self, chunk: Tensor) -> bool:
        texts = (self.prompt, *self.later)
        return any(one.shape == chunk.shape and torch.equal(chunk, one.to(chunk)) for one in texts)


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


def context_of(result: Any) -> Tensor:
    """Of what encode_prompt returned, the context the model attends to, (texts, tokens, channels)."""
    return result[0] if isinstance(result, tuple) else result


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
    return all(one.shape == other.shape and torch.equal(one.to(other), other) for one, other in pairs)


def static(entries: Sequence[Entry | None], alike_images: int = 0) -> Negative:
    """A negative that stays the same over the steps."""
    images = tuple(None if one is None else (Scheduled(FOREVER, one),) for one in entries)
    return Negative(images, alike_images)


def listened(pipe: Any) -> bool:
    """Whether somebody listens to this pipeline already."""
    return getattr(pipe.encode_prompt, "nag_listens", False)


def own_encoder(pipe: Any) -> Callable[..., Any]:
    """The pipeline's encode_prompt as its class has it, behind whatever stands in front of it.

    SD.Next puts a function on the pipeline that takes anything, remembers by the prompt alone, and answers an
    error with the prompt itself (modules/sd_hijack_te.py): a negative asked of it comes back as the prompt.
    """
    of_class = getattr(type(pipe), "encode_prompt", None)
    return pipe.encode_prompt if of_class is None else of_class.__get__(pipe)


def _signature(encode: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(asked.original(encode)[0])


@contextmanager
def listening(pipe: Any, heard: Callable[[Callable[..., Any], dict[str, Any], Any], None]) -> Iterator[None]:
    """Tells `heard` of every call of the pipeline's encode_prompt: the pipeline's own encoder, the arguments
    by that one's names, and what the call gave.
    """
    if listened(pipe):
        raise UnsupportedHost("NAG is applied to this pipeline already")
    front, own = pipe.encode_prompt, own_encoder(pipe)
    signature = _signature(own)

    @functools.wraps(own)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        result = front(*args, **kwargs)
        heard(own, _by_name(signature, args, kwargs), result)
        return result

    encode_prompt.nag_listens = True
    before = pipe.__dict__.get("encode_prompt")
    pipe.__dict__["encode_prompt"] = encode_prompt
    try:
        yield
    finally:
        if before is None:
            del pipe.__dict__["encode_prompt"]
        else:
            pipe.__dict__["encode_prompt"] = before


def _by_name(signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments


def texts_of(negative: str | Sequence[str], arguments: dict[str, Any]) -> list[str]:
    """One negative for each prompt of the call."""
    prompt = arguments.get("prompt")
    embeds = arguments.get("prompt_embeds")
    count = 1 if isinstance(prompt, str) else len(embeds if prompt is None else prompt)
    if isinstance(negative, str):
        return [negative] * count
    if len(negative) != count:
        raise ValueError(f"{len(negative)} negatives for {count} prompts")
    return list(negative)


def encoded(encode: Callable[..., Any], arguments: dict[str, Any], texts: list[str]) -> Any:
    """`texts` by the pipeline's encoders, asked as the prompt was: same length, device, clip_skip, LoRA
    scale.

    Once each, and not once for each image: SANA's pipeline repeats its masks in another order than its texts.
    Its instruction to rewrite the prompt is left out, as for its own negative.
    """
    dropped = ("embeds", "mask")
    kept = {
        name: value
        for name, value in arguments.items()
        if not name.startswith("negative") and not name.endswith(dropped)
    }
    own = {
        "prompt": texts, "prompt_2": None, "prompt_3": None, "complex_human_instruction": None,
        "do_classifier_free_guidance": False, "num_images_per_prompt": 1, "num_videos_per_prompt": 1,
    }  # fmt: skip
    parameters = _signature(encode).parameters
    return encode(**{**kept, **{name: value for name, value in own.items() if name in parameters}})
