"""Exact reductions of cross-attention keys, which carry no position: masked pads are left out, and identical
ones count as one key whose logit has the logarithm of their number added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nag_core.method.negative import Entry

# Keys that stand for the pads in 16 bits: the logarithm rounds there, and the next takes what was lost.
MOST_SHARES = 3


def without_pads(context: Tensor, mask: Tensor | None = None) -> Entry:
    """The entry of a text (tokens, channels) without the tokens that `mask` (tokens,) hides, and with equal
    tokens at its end as one. Waits for the device.

    Exact where keys are made from the tokens alone, as in cross-attention. A mask that hides everything is no
    mask: the hosts' finite bias then leaves all tokens equally visible.
    """
    if mask is not None and bool((mask != 0).any()):
        context = context[mask != 0]
    differs = (context != context[-1:]).any(dim=-1)
    repeats = int(differs.flip(0).int().argmax()) if bool(differs.any()) else len(context)
    return Entry(context[: len(context) - repeats + 1], repeats)


def shares(count: int, dtype: torch.dtype) -> list[float]:
    """Logits' summands, exact in `dtype`, of keys that together weigh as `count` equal ones.

    One in fp32 and fp64. In 16 bits log n itself would be wrong by up to 1.6 %, so keys with the remainder
    follow.
    """
    if count == 1:
        return [0.0]
    if dtype in (torch.float32, torch.float64):
        return [math.log(count)]
    found: list[float] = []
    rest = float(count)
    while len(found) < MOST_SHARES and rest > 1e-6 * count:
        share = torch.tensor(math.log(rest), dtype=dtype)
        if float(share) > math.log(rest):  # never more than there is left: a key cannot take weight away
            share -= share.abs() * torch.finfo(dtype).eps
        found.append(float(share))
        rest -= math.exp(float(share))
    return found


def weighted_keys(k: Tensor, v: Tensor, repeats: int, dim: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """K, V with as many copies of the last token as `shares` asks for, and the bias (1, 1, 1, tokens) of
    their logits; None where nothing repeats. `dim`: that of the tokens.
    """
    if repeats == 1:
        return k, v, None
    logits = shares(repeats, k.dtype)
    k, v = (with_last_repeated(x, len(logits), dim) for x in (k, v))
    bias = torch.zeros(k.shape[dim], dtype=k.dtype)
    bias[-len(logits) :] = torch.tensor(logits, dtype=k.dtype)
    return k, v, bias.to(k.device)[None, None, None]


def with_last_repeated(x: Tensor, times: int, dim: int) -> Tensor:
    """`x` whose last slice along `dim` is there `times` times: the sequence before any reduction."""
    if times == 1:
        return x
    last = x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat([x, *([last] * (times - 1))], dim=dim)
