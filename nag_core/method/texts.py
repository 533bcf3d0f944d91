"""Attention among the text's tokens alone, as refiners have it in front of the joint blocks."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nag_core.method.joint import Plain
from nag_core.method.layout import Layout
from nag_core.method.masks import between, of_rows
from nag_core.method.rows import Arrangement


def text_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    rows: Arrangement,
    plain: Plain,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of the texts of `layout`, (B, N, H*D): each sees itself, as it would in a call of its own.

    q, k, v: (B, H, N, D) of prompt and negatives. What no negative fills attends to nothing, and nobody
    attends to it (zeros). mask: additive or boolean, broadcastable to (B, H, N, N).
    """
    layout = replace(layout, image=0, before=0, behind=0)
    out = q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    pos = layout.pos_part
    out[:, pos] = plain(*(x[:, :, pos] for x in (q, k, v)), between(mask, (pos,), (pos,)))
    for group in rows.groups:
        for neg in layout.neg_parts(group):
            seen = between(of_rows(mask, group.index), (neg,), (neg,))
            out[group.index, neg] = plain(*(x[group.index][:, :, neg] for x in (q, k, v)), seen)
    return out
