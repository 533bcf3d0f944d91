"""One sequence of text and image tokens with room for the negative's: where the tokens are, what is in the
room.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nag_core.method.negative import Entry, KeyValueCache
from nag_core.method.rows import Arrangement, Group


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a joint sequence are: [neg | pos | image], or [image | pos | neg] with
    `image_first`.

    Either way the prompt's tokens lie beside the image's, so that [pos, image] is one view of the sequence.
    `neg` is the width of the slot: a row with a shorter negative uses the first tokens of it. `pad`: the
    multiple that the model pads each text to. before, behind: how many of the image's tokens are reference
    images, in front of the picture's and behind them; they attend as without NAG.
    """

    neg: int
    pos: int
    image: int
    image_first: bool = False
    pad: int = 1
    before: int = 0
    behind: int = 0

    def __post_init__(self) -> None:
        if self.image_first and self.target < self.image:
            raise ValueError("no model is known that has reference images and the image before the text")

    @property
    def target(self) -> int:
        """Image tokens of the picture itself, which are guided."""
        return self.image - self.before - self.behind

    @property
    def target_part(self) -> slice:
        image = self.image_part
        return slice(image.start + self.before, image.stop - self.behind)

    @property
    def reference_parts(self) -> list[slice]:
        """Where reference images stand, in front of the picture and behind it; none of them is empty."""
        image, target = self.image_part, self.target_part
        return [
            part
            for part in (slice(image.start, target.start), slice(target.stop, image.stop))
            if part.start < part.stop
        ]

    @property
    def total(self) -> int:
        return self.neg + self.pos + self.image

    @property
    def pos_part(self) -> slice:
        first = self.image if self.image_first else self.neg
        return slice(first, first + self.pos)

    @property
    def image_part(self) -> slice:
        return slice(0, self.image) if self.image_first else slice(self.neg + self.pos, self.total)

    @property
    def unguided_part(self) -> slice:
        """Prompt and image: the sequence as it were without NAG."""
        return slice(0, self.image + self.pos) if self.image_first else slice(self.neg, self.total)

    @property
    def texts_start(self) -> int:
        """The first token of the first text in the sequence, as of the host's one text."""
        return self.image if self.image_first else 0

    def filled(self, rows: Arrangement) -> bool:
        """Whether every row is guided, by negatives that take the whole slot."""
        ends = {self.neg_parts(group)[-1].stop for group in rows.groups}
        return rows.rest is None and ends == {self.neg_part(self.neg).stop}

    def neg_part(self, tokens: int, behind: int = 0) -> slice:
        """What a negative of `tokens` tokens takes of its slot, from its front or from `behind` tokens on."""
        first = (self.image + self.pos if self.image_first else 0) + behind
        return slice(first, first + padded(tokens, self.pad))

    def neg_parts(self, group: Group) -> list[slice]:
        """Where the group's negatives stand in their slot, one behind the other from its first token on, each
        with its padding.
        """
        parts, behind = [], 0
        for at, _ in group.entries[0].spans:
            parts.append(self.neg_part(at.stop - at.start, behind))
            behind += parts[-1].stop - parts[-1].start
        return parts

    def bare_parts(self, group: Group) -> list[slice]:
        """The same without their padding."""
        spans = zip(self.neg_parts(group), group.entries[0].spans, strict=True)
        return [slice(part.start, part.start + at.stop - at.start) for part, (at, _) in spans]


def padded(tokens: int, pad: int) -> int:
    """What `tokens` tokens take where they are padded to a multiple of `pad`."""
    return -(-tokens // pad) * pad


def slot_width(rows: Arrangement, pad: int = 1) -> int:
    """Tokens of the longest negatives among the call's rows; of several each is padded by itself."""
    spans = (group.entries[0].spans for group in rows.groups)
    return max(sum(padded(at.stop - at.start, pad) for at, _ in several) for several in spans)


def with_negative(
    context: Tensor, rows: Arrangement, width: int, cache: KeyValueCache, image_first: bool = False
) -> Tensor:
    """`context` (B, T, C) with the negatives in front (behind with `image_first`), (B, width + T, C).

    A negative that is shorter is repeated to `width`, an unguided row gets the first negative: nobody attends
    to either. Real tokens and no zeros, so that layers which scale by their largest input see usual values.
    """
    slot = context.new_empty(context.shape[0], width, context.shape[2])
    slot[:] = _filled(rows.groups[0].entries[0], width, context, cache)
    for group in rows.groups:
        slot[group.index] = torch.stack([_filled(one, width, context, cache) for one in group.entries])
    return torch.cat((context, slot) if image_first else (slot, context), dim=1)


def _filled(entry: Entry, width: int, like: Tensor, cache: KeyValueCache) -> Tensor:
    tokens = cache.context(entry, like)[0]
    return tokens if len(tokens) == width else tokens[torch.arange(width, device=like.device) % len(tokens)]
