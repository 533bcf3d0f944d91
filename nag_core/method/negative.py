"""The negative's text conditioning by image, step and length, and the keys and values made from it in one
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """One schedule entry's cross-attention context, shape (tokens, channels). Compared by identity, never by
    value.

    repeats: how many identical tokens the last one stands for (keys.py). mask: what a joint model's
        own attention mask says of the tokens, shape (tokens,); None where it has none.
    parts: (tokens, weight) of each of several negatives whose contexts lie one behind the other; the weights
        sum to 1. Empty for a single one.
    """

    context: Tensor
    repeats: int = 1
    mask: Tensor | None = None
    parts: tuple[tuple[int, float], ...] = ()

    @property
    def tokens(self) -> int:
        return self.context.shape[0]

    @property
    def spans(self) -> list[tuple[slice, float]]:
        """Where each negative's tokens are, and its weight."""
        spans, first = [], 0
        for tokens, weight in self.parts or ((self.tokens, 1.0),):
            spans.append((slice(first, first + tokens), weight))
            first += tokens
        return spans


@dataclass(frozen=True, slots=True)
class Scheduled:
    """`entry` is valid up to and including sampler step `end_at_step` (the hosts'
    ScheduledPromptConditioning); None where the text of that part is blank.
    """

    end_at_step: int
    entry: Entry | None


class Counts(NamedTuple):
    """Of a batch's images: how many, how many guided, how many whose negative gave what the prompt gave; and
    the most negatives combined for one image with their tokens.
    """

    images: int = 0
    guided: int = 0
    alike: int = 0
    most: tuple[int, int] = (1, 0)


@dataclass(frozen=True, slots=True)
class Negative:
    """The negative prompt of every image of a batch; None where NAG stands aside: the image's negative is
    empty, or gave what its prompt gave (of `alike` images, see alike.py).

    Own resolver instead of the hosts' `reconstruct_cond_batch`: that one writes every image and every
    schedule entry into one tensor and raises when `[a:b:0.5]` changes the number of 77-token chunks.
    """

    images: tuple[tuple[Scheduled, ...] | None, ...]
    alike: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the longest text of every image, together."""
        entries = [[part.entry for part in schedule or () if part.entry] for schedule in self.images]
        return sum(max((entry.tokens for entry in image), default=0) for image in entries)

    @property
    def counts(self) -> Counts:
        """What the report says of it."""
        entries = [part.entry for schedule in self.images for part in schedule or () if part.entry]
        most = max(((len(entry.parts), entry.tokens) for entry in entries if entry.parts), default=(1, 0))
        guided = sum(schedule is not None for schedule in self.images)
        return Counts(len(self.images), guided, self.alike, most)

    def cut(self, other: Negative) -> Negative:
        """The same images guided, by the entries of `other`, the same texts cut."""
        kept = (None if mine is None else its for mine, its in zip(self.images, other.images, strict=True))
        return replace(self, images=tuple(kept))

    def at(self, step: int) -> tuple[Entry | None, ...]:
        """Each image's entry at sampler step `step`: the first that has not ended, past the last one the
        first.

        The wrap past the end is the hosts' own rule (modules/prompt_parser.py: target_index stays 0).
        """
        return tuple(None if schedule is None else entry_at(schedule, step) for schedule in self.images)


def entry_number(schedule: Sequence, step: int) -> int:
    """Which part of a schedule, of ours or of a host's, holds at sampler step `step`, see `Negative.at`."""
    return next((number for number, part in enumerate(schedule) if step <= part.end_at_step), 0)


def entry_at(schedule: Sequence[Scheduled], step: int) -> Entry | None:
    """The entry of that part."""
    return schedule[entry_number(schedule, step)].entry


# A context (tokens, channels) and its text, to what of it is used.
Cut = Callable[[Tensor, str], Tensor]


def uncut(context: Tensor, _text: str) -> Tensor:
    """All of a context."""
    return context


def negative_from_schedules(
    schedules: Sequence[Sequence], texts: Sequence[Sequence[str]], cut: Cut = uncut
) -> Negative:
    """A `Negative` from the host's per-image lists of (end_at_step, cond) and the text behind each of them.

    cond: tensor (tokens, channels), or a dict with such a "crossattn" (SDXL). A blank text has nothing to
    steer away from (and SDXL hosts zero its cond: NAG would merely scale z+). Images that share a schedule,
    as the hosts let equal prompts do, share their entries and so their keys and values.
    """
    shared: dict[int, tuple[Scheduled, ...] | None] = {}
    images = []
    for schedule, parts in zip(schedules, texts, strict=True):
        if id(schedule) not in shared:
            scheduled = tuple(
                Scheduled(end, Entry(cut(cross_attention_context(cond), text)) if text.strip() else None)
                for (end, cond), text in zip(schedule, parts, strict=True)
            )
            shared[id(schedule)] = scheduled if any(part.entry for part in scheduled) else None
        images.append(shared[id(schedule)])
    return Negative(tuple(images))


def weighted_negative(
    schedules: Sequence[Sequence], texts: Sequence[Sequence[str]], weights: Sequence[float], images: int,
    cut: Cut = uncut,
) -> Negative:  # fmt: skip
    """One `Negative` of several texts with weights above 0, the same for each of `images` images.

    schedules, texts: as for `negative_from_schedules`, one per text. Where a text is blank for a part of the
    steps, the others share its weight there.
    """
    return mixed(negative_from_schedules(schedules, texts, cut).images, weights, images)


def mixed(single: Sequence[tuple[Scheduled, ...] | None], weights: Sequence[float], images: int) -> Negative:
    """One `Negative` of several, each with a weight above 0, the same for each of `images` images."""
    ends = sorted({part.end_at_step for schedule in single if schedule for part in schedule})
    made: dict[Hashable, Entry | None] = {}

    def at(step: int) -> Entry | None:
        entries = [None if schedule is None else entry_at(schedule, step) for schedule in single]
        present = tuple(
            (one, weight) for one, weight in zip(entries, weights, strict=True) if one is not None
        )
        if present not in made:
            made[present] = _joined(present)
        return made[present]

    parts = tuple(Scheduled(end, at(end)) for end in ends)
    return Negative((parts if any(part.entry for part in parts) else None,) * images)


def _joined(present: Sequence[tuple[Entry, float]]) -> Entry | None:
    if len(present) < 2:
        return present[0][0] if present else None
    total = sum(weight for _, weight in present)
    parts = tuple((entry.tokens, weight / total) for entry, weight in present)
    masks = [entry.mask for entry, _ in present]
    mask = None if any(one is None for one in masks) else torch.cat(masks)
    return Entry(torch.cat([entry.context for entry, _ in present]), mask=mask, parts=parts)


def cross_attention_context(cond: Tensor | dict[str, Tensor]) -> Tensor:
    """What of a host's conditioning of one text the attention sees, (tokens, channels)."""
    context = cond["crossattn"] if isinstance(cond, dict) else cond
    return context[0] if context.dim() == 3 and context.shape[0] == 1 else context  # Neo's Krea


@dataclass(slots=True)
class KeyValueCache:
    """K- and V- of the negative per attention layer, made at first use in the pass and constant over its
    steps.

    Made at first use because only then the weights are loaded and LoRA-patched. Keyed by layer, schedule
    entries, device, dtype and the host's weight-patch identity. Size: layers x distinct batches of entries x
    tokens x 2 x channels (SDXL, one 77-token negative, fp16: 28 MB); `clear` at the end of the pass.
    """

    made: dict[Hashable, tuple[Tensor, Tensor]] = field(default_factory=dict)
    weights: Hashable = None
    contexts: dict[Hashable, Tensor] = field(default_factory=dict)
    embedded: dict[Hashable, dict[int, Tensor]] = field(
        default_factory=dict
    )  # texts as layers get them, by model

    def get(
        self,
        layer: Hashable,
        entries: tuple[Entry, ...],
        like: Tensor,
        weights: Hashable,
        project: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """K and V as `project` makes them of a text (1, tokens, channels), with len(entries) rows, in the
        device and dtype of `like`; all entries equally long.

        Each entry is projected on its own, so that a row does not depend on what else is in the batch.
        """
        if weights != self.weights:  # nothing will ask for the former weights' again
            self.made.clear()
            self.weights = weights
        key = (layer, entries, like.device, like.dtype)
        if key not in self.made:
            if len(entries) > 1:
                rows = [self.get(layer, (entry,), like, weights, project) for entry in entries]
                self.made[key] = tuple(torch.cat(one) for one in zip(*rows, strict=True))
            else:
                self.made[key] = project(self.context(entries[0], like))
        return self.made[key]

    def context(self, entry: Entry, like: Tensor) -> Tensor:
        """The entry's context (1, tokens, channels), brought to the device once and not once per layer."""
        key = (entry, like.device, like.dtype)
        if key not in self.contexts:
            self.contexts[key] = entry.context.to(device=like.device, dtype=like.dtype)[None]
        return self.contexts[key]

    def clear(self) -> None:
        self.made.clear()
        self.contexts.clear()
        self.embedded.clear()
