"""One device, the CPU."""

from contextlib import AbstractContextManager, nullcontext

import torch

device = torch.device("cpu")


def autocast() -> AbstractContextManager[None]:
    """Nothing to cast to on this device."""
    return nullcontext()
