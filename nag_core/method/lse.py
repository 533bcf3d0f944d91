"""Log-sum-exps for rules that ask for them, where no kernel gives them; several parts as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from nag_core.method.autocast import without_autocast
from nag_core.method.guidance import average
from nag_core.method.merge import Part

# Logits held at a time, 64 MB of fp32.
LOGITS = 2**24


def log_sum_exp(q: Tensor, k: Tensor, mask: Tensor | None = None, repeats: int = 1) -> Tensor:
    """Log-sum-exp of softmax attention, (B, H, N) in at least fp32, natural logarithm.

    q, k: (B, H, N, D) and (B, H, M, D). mask: additive or boolean, broadcastable to (B, H, N, M). repeats:
        how many equal keys the last one stands for. Worked out for some of the queries at a time, under
        autocast, too, in that precision.
    """
    work = torch.promote_types(q.dtype, torch.float32)
    scaled, keys = q.to(work) * q.shape[-1] ** -0.5, k.to(work).transpose(-1, -2)
    rows = max(1, LOGITS // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    found = []
    with without_autocast(q):
        for first in range(0, q.shape[2], rows):
            logits = scaled[:, :, first : first + rows] @ keys
            part = mask if mask is None or mask.shape[-2] == 1 else mask[..., first : first + rows, :]
            if part is not None and part.dtype is torch.bool:
                logits = logits.masked_fill(~part, float("-inf"))
            elif part is not None:
                logits = logits + part
            logits[..., -1] += math.log(repeats)
            found.append(logits.logsumexp(-1))
    return torch.cat(found, dim=2) if found else q.new_empty(q.shape[:3], dtype=work)


def together(parts: Iterable[Part], weights: Sequence[float]) -> Part:
    """Several negatives as one part; `out` (B, N, H*D), `lse` (B, H, N), or None in all of them.

    Without log-sum-exps the weighted mean of the outputs. With them the one softmax over all their keys, each
    one's values times its weight and their number: equal weights (they sum to 1) change nothing.
    """
    parts = iter(parts)
    first = next(parts)
    if len(weights) == 1:
        return first
    if first.lse is None:  # taken up one after the other: no more than two are there at a time
        return Part(average((part.out for part in chain([first], parts)), weights))
    parts = [first, *parts]
    lse = torch.stack([part.lse for part in parts]).logsumexp(0)
    total = None
    for part, weight in zip(parts, weights, strict=True):
        share = (part.lse - lse).exp() * (weight * len(parts))
        heads = part.out.to(lse.dtype).unflatten(-1, (lse.shape[1], -1))
        one = heads * share.transpose(1, 2).unsqueeze(-1)
        total = one if total is None else total.add_(one)
    return Part(total.flatten(2).to(first.out.dtype), lse)
