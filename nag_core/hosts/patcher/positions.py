"""What the texts in one sequence need besides their tokens: each its own positions and its own padding.

A family whose text tokens are numbered would number [neg | pos] as one text, and several negatives as one.
These hooks last for one model call and change what the host's own embedders are given or give, never their
code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.method.joint import NotGuided
from nag_core.method.layout import Layout, slot_width
from nag_core.method.rows import Arrangement
from nag_core.passes.report import UNKNOWN_PLACES


@contextmanager
def own_positions(
    embedder: nn.Module, layout: Layout, rows: Arrangement, image_axis: int | None = None
) -> Iterator[None]:
    """Inside, `embedder` sees position ids (B or 1, tokens, axes) in which each text starts where the host's
    one text would, and so does each of several negatives.

    image_axis: the axis along which the image stands behind the text (Z-Image, Ernie): there it is moved back
        by the negative's length, to where it is without NAG. Image padding, all zero, stays.
    """

    def renumbered(_: nn.Module, arguments: tuple) -> tuple:
        ids = arguments[0]
        if ids.shape[-2] != layout.total:
            raise NotGuided(f"positions for {ids.shape[-2]} tokens, expected {layout.total}")
        moved, first = ids.clone(), layout.texts_start
        moved[:, layout.pos_part] = ids[:, first : first + layout.pos]
        for index, parts in _places(layout, rows, len(ids)):
            for part in parts:
                moved[index, part] = ids[index, first : first + part.stop - part.start]
        if image_axis is not None:
            image = ids[..., layout.image_part, image_axis]
            moved[..., layout.image_part, image_axis] = torch.where(image > 0, image - layout.neg, image)
        return (moved, *arguments[1:])

    handle = embedder.register_forward_pre_hook(renumbered)
    try:
        yield
    finally:
        handle.remove()


def _places(layout: Layout, rows: Arrangement, known: int) -> list[tuple[slice | Tensor, list[slice]]]:
    """Where the negatives stand in which of `known` rows of positions; a single one holds for all rows."""
    if known > 1:
        return [(group.index, layout.neg_parts(group)) for group in rows.groups]
    if len({group.entries[0].parts for group in rows.groups}) > 1:
        raise NotGuided("several negatives that differ from image to image, whose positions do not")
    longest = max((layout.neg_parts(group) for group in rows.groups), key=lambda parts: parts[-1].stop)
    return [(slice(None), longest)]


@contextmanager
def known_places(embedder: nn.Module, layout: Layout) -> Iterator[None]:
    """Inside, `NotGuided` where the first axis of the ids that `embedder` sees, which numbers the images and
    is 0 in the picture alone, says that it stands elsewhere than in `layout`. Waits for the device.
    """

    def check(_: nn.Module, arguments: tuple) -> None:
        own = arguments[0][..., layout.image_part, 0] == 0
        expected = own.new_zeros(layout.image)
        expected[layout.before : layout.before + layout.target] = True
        if not torch.equal(own, expected.expand_as(own)):
            raise NotGuided(UNKNOWN_PLACES)

    handle = embedder.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def own_padding(
    embedder: nn.Module, token: Callable[[], Tensor], layout: Layout, rows: Arrangement
) -> Iterator[None]:
    """Inside, what `embedder` makes of [neg | pos], (B, tokens, C), comes out with each text, of several
    negatives each, padded to `layout` by `token()` (1, C), as the host pads a text that stands alone. It then
    finds nothing to pad.
    """
    longest = slot_width(rows)

    def padded(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        pos = out.shape[1] - longest
        if not layout.pos - layout.pad < pos <= layout.pos:
            raise NotGuided(f"a text of {pos} tokens, expected {layout.pos} with its padding")
        filled = token().to(device=out.device, dtype=out.dtype)
        filled = filled.expand(out.shape[0], layout.neg + layout.pos, -1).clone()
        filled[:, layout.neg : layout.neg + pos] = out[:, longest:]
        for group in rows.groups:
            for (at, _), part in zip(group.entries[0].spans, layout.neg_parts(group), strict=True):
                filled[group.index, part.start : part.start + at.stop - at.start] = out[group.index, at]
        return filled

    handle = embedder.register_forward_hook(padded)
    try:
        yield
    finally:
        handle.remove()
