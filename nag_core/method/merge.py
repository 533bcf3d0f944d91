"""Softmax attention in parts, and the exact merge of two. Torch only.

Softmax attention over a union of disjoint key sets is the mean of the parts' outputs, weighted by the softmax
of their log-sum-exps. So the image-on-image part of joint attention is computed once for both prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Attention over one set of keys: `out` (B, H, N, D), `lse` (B, H, N), natural log, at least fp32.

    Handed to a rule with heads concatenated, (B, N, H*D); without `lse` unless the rule asks for it.
    """

    out: Tensor
    lse: Tensor | None = None


def merge(one: Part, other: Part) -> Tensor:
    """Attention over both key sets, (B, H, N, D) in at least fp32.

    Two weights that sum to 1 instead of a + w (b - a): the difference of two large values may overflow, a
    mean cannot.
    """
    gap = (one.lse - other.lse).unsqueeze(-1)
    work = gap.dtype
    return one.out.to(work).mul(torch.sigmoid(gap)).addcmul_(other.out.to(work), torch.sigmoid(-gap))
