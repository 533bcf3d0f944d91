"""Value sign flip (VSF, arXiv 2508.10931): one softmax over both texts' keys. Torch only, no state."""

from __future__ import annotations

import torch
from torch import Tensor

from nag_core.method.guidance import HEADROOM, chunk
from nag_core.method.merge import Part


def flip(pos: Part, neg: Part, scale: float, offset: float, dtype: torch.dtype | None = None) -> Tensor:
    """w z+ - scale (1 - w) z-, w = sigmoid(l+ - l- + offset) for each head and token: the attention over the
    keys of both, in which the values of `neg` are multiplied by -scale and its logits lowered by `offset`.

    pos, neg: parts over disjoint keys, `out` (B, N, H*D), any float dtype; `lse` (B, H, N). dtype: of the
        result, that of `pos.out` unless given.

    There is no scale that changes nothing: at 0 the negative's keys still take their weight. Finite inputs
    give a finite result, as in guidance.py.
    """
    out = torch.empty_like(pos.out, dtype=dtype)
    work, limit = torch.promote_types(pos.out.dtype, torch.float32), torch.finfo(out.dtype).max * HEADROOM
    gap = (pos.lse - neg.lse + offset).transpose(1, 2).unsqueeze(-1)
    # Each from its own sigmoid: 1 - w would lose what little weight a negative far away has.
    shares = gap.sigmoid().to(work), gap.neg().sigmoid().to(work) * scale
    step = max(1, chunk(out.device) // max(1, out[:, :1].numel()))
    for first in range(0, out.shape[1], step):
        at = slice(first, first + step)
        z_pos, z_neg = (
            (part.out[:, at].to(work) * HEADROOM).unflatten(-1, (gap.shape[2], -1)).mul_(share[:, at])
            for part, share in zip((pos, neg), shares, strict=True)
        )
        out[:, at] = z_pos.sub_(z_neg).flatten(2).clamp_(-limit, limit).div_(HEADROOM)
    return out
