"""The attention function the user chose; here there is one."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
) -> Tensor:
    """(B, N, heads*dim) from q like it and k, v (B, T, heads*dim); `skip_reshape`: (B, heads, N, dim) in."""
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


attention_function = attention_pytorch
