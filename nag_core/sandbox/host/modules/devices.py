"""One device, the CPU, and one dtype, float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

cpu = device = torch.device("cpu")
dtype = dtype_vae = dtype_unet = dtype_inference = torch.float32
fp8 = False


def autocast(disable: bool = False) -> AbstractContextManager[None]:
    """Nothing to cast to on this device."""
    return nullcontext()


def without_autocast(disable: bool = False) -> AbstractContextManager[None]:
    """Nothing was cast."""
    return nullcontext()


def torch_gc() -> None:
    """No accelerator cache to empty."""


def cond_cast_float(tensor: torch.Tensor) -> torch.Tensor:
    """Conditionings are float32 already."""
    return tensor.float()
