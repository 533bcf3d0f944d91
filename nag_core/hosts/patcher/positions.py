"""What two texts in one sequence need besides their tokens: each its own positions and its own padding.

A family whose text tokens are numbered would number [neg | pos] as one text. These hooks last for one model
call and change what the host's own embedders are given or give, never their code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.method.joint import NotGuided
from nag_core.method.layout import Layout
from nag_core.method.rows import Arrangement


@contextmanager
def own_positions(embedder: nn.Module, layout: Layout, image_axis: int | None = None) -> Iterator[None]:
    """Inside, `embedder` sees position ids (..., tokens, axes) in which each text starts where the host's one
    text would.

    image_axis: the axis along which the image stands behind the text (Z-Image, Ernie): there it is moved back
        by the negative's length, to where it is without NAG. Image padding, all zero, stays.
    """

    def renumbered(_: nn.Module, arguments: tuple) -> tuple:
        ids = arguments[0]
        if ids.shape[-2] != layout.total:
            raise NotGuided(f"positions for {ids.shape[-2]} tokens, expected {layout.total}")
        moved = ids.clone()
        first, second = layout.texts
        moved[..., second, :] = ids[..., first.start : first.start + second.stop - second.start, :]
        if image_axis is not None:
            image = ids[..., layout.image_part, image_axis]
            moved[..., layout.image_part, image_axis] = torch.where(image > 0, image - layout.neg, image)
        return (moved, *arguments[1:])

    handle = embedder.register_forward_pre_hook(renumbered)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def own_padding(
    embedder: nn.Module, token: Callable[[], Tensor], layout: Layout, rows: Arrangement
) -> Iterator[None]:
    """Inside, what `embedder` makes of [neg | pos], (B, tokens, C), comes out with each text padded to
    `layout` by `token()` (1, C), as the host pads a text that stands alone. It then finds nothing to pad.
    """
    longest = max(group.entries[0].tokens for group in rows.groups)

    def padded(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        pos = out.shape[1] - longest
        if not layout.pos - layout.pad < pos <= layout.pos:
            raise NotGuided(f"a text of {pos} tokens, expected {layout.pos} with its padding")
        filled = token().to(device=out.device, dtype=out.dtype)
        filled = filled.expand(out.shape[0], layout.neg + layout.pos, -1).clone()
        filled[:, layout.neg : layout.neg + pos] = out[:, longest:]
        for group in rows.groups:
            tokens = group.entries[0].tokens
            filled[group.index, :tokens] = out[group.index, :tokens]
        return filled

    handle = embedder.register_forward_hook(padded)
    try:
        yield
    finally:
        handle.remove()
