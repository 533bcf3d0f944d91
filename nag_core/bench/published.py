"""The rule as the published implementations write it: unfused, full-size intermediates. The yardstick of the
bench.
"""

from __future__ import annotations

import torch
from torch import Tensor


def published_nag(pos: Tensor, neg: Tensor, phi: float, tau: float, alpha: float) -> Tensor:
    """Eq. 7-10 on (B, N, C), operation by operation; with their scale, which is phi + 1."""
    scale = phi + 1
    guided = pos * scale - neg * (scale - 1)
    norm_pos = torch.norm(pos, p=1, dim=-1, keepdim=True).expand(*pos.shape)
    norm_guided = torch.norm(guided, p=1, dim=-1, keepdim=True).expand(*guided.shape)
    ratio = torch.nan_to_num(norm_guided / norm_pos, 10.0)
    guided = guided * torch.minimum(ratio, ratio.new_ones(1) * tau) / ratio
    return guided * alpha + pos * (1 - alpha)
