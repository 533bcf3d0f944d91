"""Which implementation of the guidance rule runs where: the fused kernels on a GPU with Triton, else
guidance.py.

The latter is the twin of the former and what CPU, MPS, machines without Triton and torch.compile use.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from nag_core.method import guidance
from nag_core.method.guidance import Method
from nag_core.method.merge import Part

logger = logging.getLogger("nag")


@dataclass(frozen=True, slots=True)
class Rule:
    """The guidance rule of one pass, as the attention applies it.

    phi, tau, alpha: eq. 7-10. counter: 0-dim int64 on the device of the tensors; gains the tokens that tau
        shrank, so that counting them needs no launch and no wait. may_fuse: off for comparisons. needs_lse:
        whether `combined` reads the parts' log-sum-exps; they are worked out only then.
    """

    phi: float
    tau: float
    alpha: float
    method: Method
    counter: Tensor
    may_fuse: bool = True
    needs_lse: ClassVar[bool] = False

    @property
    def strength(self) -> tuple[float, float, float]:
        return self.phi, self.tau, self.alpha

    def fused(self, like: Tensor) -> ModuleType | None:
        """The fused kernels where they work for tensors like `like`."""
        return fused_kernels(like) if self.may_fuse else None

    def guide(self, pos: Tensor, neg: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`pos` guided away from `neg`, both (B, N, C) attention outputs; in `dtype`, else that of `pos`."""
        guided = guidance.guide(pos, neg, *self.strength, self.method, dtype)
        self.counter.add_(guided.clipped)
        return guided.out

    def combined(self, pos: Part, neg: Part, dtype: torch.dtype | None = None) -> Tensor:
        """The same of two attention parts, `out` (B, N, C) and, with `needs_lse`, `lse` (B, H, N).

        A rule that asks for log-sum-exps gets parts over disjoint keys: in joint attention z+ over prompt and
        image, z- over the negative's tokens alone. One that asks for none gets z- over negative and image.
        """
        return self.guide(pos.out, neg.out, dtype)

    def write(self, out: Tensor, pos: Part, neg: Part) -> None:
        """The same over `out`, which may be `pos.out` itself."""
        if pos.out is out and not self.needs_lse:
            self.guide_in_place(out, neg.out)
        else:
            out.copy_(self.combined(pos, neg, out.dtype))

    def guide_in_place(self, pos: Tensor, neg: Tensor) -> None:
        """The same, written over `pos`: with the fused kernel one launch, and no tensor more."""
        fused = self.fused(pos)
        if fused is None or not pos.is_contiguous():
            pos.copy_(self.guide(pos, neg))
        elif not self.method.inert(self.phi, self.alpha):
            fused.guide(pos, neg, self.strength, self.method, self.counter, out=pos)


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
        from nag_core.method import triton_kernels

        if _agrees(triton_kernels, device, dtype):
            return triton_kernels
        logger.debug("NAG: the Triton kernels gave other numbers than PyTorch; not used")
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about the kernels
    except Exception as error:  # Triton's own compilers raise what they like
        logger.debug("NAG: no Triton kernels here", exc_info=error)
    return None


def _agrees(fused: ModuleType, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether both kernels give the twin's numbers, at the widest row there is (Flux: 24 heads of 128)."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 24, 3, 128, generator=generator).to(device, dtype) for _ in range(2)]
    pos, neg = (part.transpose(1, 2).flatten(2) for part in parts)
    wanted = guidance.guide(pos, neg, 4.0, 2.5, 0.5)
    counter = torch.zeros((), dtype=torch.int64, device=device)
    guided = fused.guide(pos, neg, (4.0, 2.5, 0.5), Method.NAG, counter)
    # The same from parts: of nothing but the prompt's, and of nothing but the negative's keys.
    lse = torch.zeros(parts[0].shape[:3], device=device)
    absent, (z_pos, z_neg) = Part(torch.zeros_like(parts[0]), lse - 1e4), (Part(part, lse) for part in parts)
    merged = torch.empty_like(pos)
    spans = (0, 0, 0, 0, 0, pos.shape[1])
    fused.merge_and_guide(absent, z_pos, z_neg, merged, spans, (4.0, 2.5, 0.5), Method.NAG, counter)
    norm = wanted.out.double().norm()
    errors = [(found.double() - wanted.out.double()).norm() / norm for found in (guided, merged)]
    # Each by itself: the maximum of a number and a NaN may be the number.
    return all(bool(error < 2e-2) for error in errors) and int(counter) == 2 * int(wanted.clipped)
