"""Which implementation of the guidance rule runs where: the fused kernels on a GPU with Triton, else
guidance.py.

The latter is the twin of the former and what CPU, MPS, machines without Triton and torch.compile use.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from nag_core import guidance
from nag_core.guidance import Method

logger = logging.getLogger("nag")


@dataclass(frozen=True, slots=True)
class Rule:
    """The guidance rule of one pass, as the attention applies it.

    phi, tau, alpha: eq. 7-10. counter: 0-dim int64 on the device of the tensors; gains the tokens that tau
        shrank,
        so that counting them needs no launch and no wait.
    """

    phi: float
    tau: float
    alpha: float
    method: Method
    counter: Tensor

    @property
    def strength(self) -> tuple[float, float, float]:
        return self.phi, self.tau, self.alpha

    def guide(self, pos: Tensor, neg: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`pos` guided away from `neg`, both (B, N, C) attention outputs; in `dtype`, else that of `pos`."""
        fused = fused_kernels(pos) if dtype in (None, pos.dtype) else None
        if fused is not None and not self.method.inert(self.phi, self.alpha):
            return fused.guide(pos, neg, self.strength, self.method, self.counter)
        guided = guidance.guide(pos, neg, *self.strength, self.method, dtype)
        self.counter.add_(guided.clipped)
        return guided.out


def fused_kernels(like: Tensor) -> ModuleType | None:
    """The Triton kernels, if they work for tensors like `like`; else None."""
    if like.device.type != "cuda" or _compiling():
        return None
    return _probed(like.device, like.dtype)


def _compiling() -> bool:
    """Inside torch.compile, which fuses the twin itself and cannot trace a probe."""
    compiler = getattr(torch, "compiler", None)
    return bool(getattr(compiler, "is_compiling", lambda: False)())


@functools.cache
def _probed(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Tried once per device and dtype, on numbers of its own: Triton may be missing, too old or without
    compiler.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    try:
        from nag_core import triton_kernels

        generator = torch.Generator().manual_seed(0)
        pos, neg = (torch.randn(1, 5, 100, generator=generator).to(device, dtype) for _ in range(2))
        counter = torch.zeros((), dtype=torch.int64, device=device)
        found = triton_kernels.guide(pos, neg, (4.0, 2.5, 0.5), Method.NAG, counter)
        wanted = guidance.guide(pos, neg, 4.0, 2.5, 0.5)
        error = (found.double() - wanted.out.double()).norm() / wanted.out.double().norm()
        if error < 2e-2 and int(counter) == int(wanted.clipped):
            return triton_kernels
        logger.debug("NAG: the Triton kernels gave other numbers than PyTorch; not used")
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about the kernels
    except Exception as error:  # Triton's own compilers raise what they like
        logger.debug("NAG: no Triton kernels here", exc_info=error)
    return None
