"""Attention kernels of torch that return their log-sum-exp, and which of them works here. Torch only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nag_core.method.merge import Part, merge

aten = torch.ops.aten

# Largest relative error (of the norm) at which a kernel passes its probe, by dtype.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 1e-2}


class Kernel(NamedTuple):
    """A kernel that returns its log-sum-exp. `run(q, k, v)`: (B, H, N, D) each, keys never empty."""

    name: str
    run: Callable[[Tensor, Tensor, Tensor], Part]


def lse_kernel(like: Tensor) -> Kernel | None:
    """The kernel to use for tensors like `like` (B, H, N, D), None where none works: then take two full
    calls.

    The one that torch's own scaled_dot_product_attention would take comes first: merging a slower kernel's
    parts could cost more than it saves. Each is tried once per device, dtype and head width against the
    undivided attention; signatures of these private ops moved between torch versions, so their numbers
    decide.
    """
    return _probed(like.device, like.dtype, like.shape[-1])


@functools.cache
def _probed(device: torch.device, dtype: torch.dtype, width: int) -> Kernel | None:
    if dtype not in TOLERANCE:
        return None
    # Own generator: the job's random numbers must not depend on the probe.
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 277, width, generator=generator).to(device, dtype) for _ in range(3))
    return next((kernel for kernel in _candidates(q, k, v) if _passes(kernel, q, k, v)), None)


def _passes(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel's parts over 77 + 200 keys merge to the attention over all of them."""
    whole = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    try:
        parts = [kernel.run(q, k[:, :, keys], v[:, :, keys]) for keys in (slice(77), slice(77, None))]
        error = (merge(*parts).double() - whole).norm() / whole.norm()
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about the kernel
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ValueError):
        return False
    return bool(error < TOLERANCE[q.dtype])


def _candidates(q: Tensor, k: Tensor, v: Tensor) -> list[Kernel]:
    if q.device.type == "cpu":
        return [FLASH_CPU]
    if q.device.type != "cuda":
        return []
    try:
        choice = torch._fused_sdp_choice(q, k, v)
    except (AttributeError, RuntimeError, TypeError):
        choice = 0
    # The numbers of torch's SDPBackend.
    return sorted([FLASH, EFFICIENT, CUDNN], key=lambda kernel: kernel is not BACKENDS.get(choice))


def _flash_cpu(q: Tensor, k: Tensor, v: Tensor) -> Part:
    return Part(*aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2])


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Part:
    out, lse = aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    return Part(out, lse[..., : q.shape[2]])  # torch 2.1 pads it to a multiple of 16


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> Part:
    out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    return Part(out, lse[..., : q.shape[2]])  # padded to a multiple of 32


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Part:
    out, lse = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
    return Part(out, lse.reshape(q.shape[:3]))  # (B, H, N) or (B, H, N, 1) by torch version


FLASH_CPU = Kernel("flash for CPU", _flash_cpu)
FLASH = Kernel("flash", _flash)
EFFICIENT = Kernel("memory-efficient", _efficient)
CUDNN = Kernel("cuDNN", _cudnn)
BACKENDS = {1: FLASH, 2: EFFICIENT, 3: CUDNN}
