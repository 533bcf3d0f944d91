"""Leaving autocast where fp32 was chosen on purpose. Torch only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager:
    """A block in which operations on the device of `like` keep the dtype they are given.

    Autocast takes matrix products, `linalg.vecdot` and scaled_dot_product_attention of fp32 down to 16 bits,
    and with them what is made of their results. Sums and norms it leaves in fp32.
    """
    try:
        return torch.autocast(like.device.type, enabled=False)
    except Exception:  # a device without autocast; what is raised there depends on torch's version
        return nullcontext()
