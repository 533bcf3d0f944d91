"""Z-Image: a model call under NAG where the model itself lays text and image out in one sequence.

Its texts come as a list, each with its own length. The model pads each, gives it positions, and gives the
image those behind its own text. So the negatives join what the model's layout gives, each laid out by the
model as if it stood alone: prompt and image keep their positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.joint import WidenedCall
from nag_core.method.joint import NotGuided
from nag_core.method.layout import Layout, slot_width
from nag_core.method.rows import Arrangement
from nag_core.passes.guiding import joint_call, rows_of
from nag_core.passes.report import UNKNOWN_PLACES

# Of the seven things that the layout gives for each row.
IMAGES, OF_TEXT, THINGS = 0, (1, 4, 6), 7


class _Text(NamedTuple):
    """One text as the model lays it out: features (tokens, channels), positions (tokens, axes), which are
    pads (tokens,).
    """

    features: Tensor
    positions: Tensor
    pads: Tensor

    def padded(self, tokens: int) -> _Text:
        """With more pads behind it."""
        more = tokens - len(self.pads)
        added = self.features[-1:].expand(more, -1), self.positions.new_zeros(more, self.positions.shape[1])
        return _behind(self, _Text(*added, self.pads.new_ones(more)))


def _behind(first: _Text, second: _Text) -> _Text:
    return _Text(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


@dataclass(slots=True)
class ListedCall(WidenedCall):
    """The call of `network`; what guides it is made once the model lays its sequence out."""

    rows: Arrangement | None = None
    shown: Tensor | None = None  # (B, 1, 1, prompt), where prompts have different lengths

    def arguments(self, given: dict[str, Any]) -> None:
        """None: the model is called as it was going to be."""

    def laid_out(self, lay_out: Callable[..., tuple], args: tuple, kwargs: dict[str, Any]) -> tuple:
        """What the model's layout gives, with the negatives of each row behind its prompt."""
        made = lay_out(*args, **kwargs)
        try:
            return self._with_negatives(made, lay_out, args, kwargs)
        except Exception as error:  # ours; the call is made again without NAG
            message = str(error) if isinstance(error, NotGuided) else f"{type(error).__name__}: {error}"
            self.joint, self.broken = None, message.partition("\n")[0][:160]
            return made

    def _with_negatives(
        self, made: tuple, lay_out: Callable[..., tuple], args: tuple, kwargs: dict[str, Any]
    ) -> tuple:
        if len(made) != THINGS or len({len(image) for image in made[IMAGES]}) != 1:
            raise NotGuided(UNKNOWN_PLACES)
        texts = _texts(made)
        lengths, device = [len(text.pads) for text in texts], texts[0].features.device
        pad = lay_out.__func__.__globals__["SEQ_MULTI_OF"]
        layout = Layout(slot_width(self.rows, pad), max(lengths), len(made[IMAGES][0]), True, pad)
        self.joint = joint_call(self.session, self.rows, layout, device)
        if min(lengths) < layout.pos:
            places = torch.arange(layout.pos)
            self.shown = (places < torch.tensor(lengths)[:, None])[:, None, None].to(device)
        rows = [text.padded(layout.pos) for text in texts]
        for row, contexts in self._contexts(texts[0].features):
            # Each beside the first image, whose own layout is not used.
            alone = _texts(lay_out([args[0][0]] * len(contexts), contexts, *args[2:], **kwargs))
            rows[row] = _behind(rows[row], reduce(_behind, alone))
        rows = [row.padded(layout.pos + layout.neg) for row in rows]
        changed = dict(zip(OF_TEXT, zip(*rows, strict=True), strict=True))
        return tuple(list(changed.get(place, thing)) for place, thing in enumerate(made))

    def _contexts(self, like: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
        """Each guided row with its negatives, (tokens, channels) each."""
        for group in self.rows.groups:
            index = group.index
            rows = range(index.start, index.stop) if isinstance(index, slice) else index.tolist()
            for row, entry in zip(rows, group.entries, strict=True):
                context = self.session.cache.context(entry, like)[0]
                yield row, [context[at] for at, _ in entry.spans]

    def seen(self, mask: Tensor | None, among_texts: bool) -> Tensor | None:
        """The model's mask, and the prompts' own lengths."""
        mask = super(ListedCall, self).seen(mask, among_texts)
        if self.shown is None:
            return mask
        layout, shown = self.joint.layout, self.shown
        image = shown.new_ones(*shown.shape[:3], 0 if among_texts else layout.image)
        shown = torch.cat([image, shown, shown.new_ones(*shown.shape[:3], layout.neg)], dim=-1)
        return shown if mask is None else shown & mask

    def finish(self) -> str:
        if self.joint is None and not self.broken:
            return "the model lays text and image out in a way that NAG does not know"
        return super(ListedCall, self).finish()


def _texts(made: tuple) -> list[_Text]:
    """Some versions give more positions than tokens, and use the first."""
    rows = zip(*(made[place] for place in OF_TEXT), strict=True)
    return [_Text(features, positions[: len(features)], pads) for features, positions, pads in rows]


def opened(network: Hooked, arrived: Arrived, given: dict[str, Any]) -> ListedCall | None:
    """The call that is about to be made; None where no row of it is guided."""
    texts = given[network.family.text]
    if given.get("siglip_feats") is not None or not all(isinstance(text, Tensor) for text in texts):
        raise NotGuided(UNKNOWN_PLACES)
    if given.get("controlnet_block_samples") is not None:
        raise NotGuided("a ControlNet adds to text and image alike, and knows no negative")
    session = arrived.session
    rows = rows_of(session, arrived.batch, len(texts), arrived.marks, texts[0].device)
    return None if rows is None else ListedCall(network, session, None, rows=rows)
