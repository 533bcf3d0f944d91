"""The guidance rule as CUDA kernels, for where there is no Triton, as on Windows: cuda_source.py, compiled by
NVRTC.

Experimental: imported only where a GPU asks for it, and used only where it gives the right numbers there.
"""

from __future__ import annotations

import functools
import struct
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from nag_core.method import nvrtc
from nag_core.method.cuda_source import MOST_HEADS, THREADS, source
from nag_core.method.guidance import Method
from nag_core.method.merge import Part

NAMES = ("nag_guide", "nag_merge_and_guide")


def guide(
    pos: Tensor, neg: Tensor, strength: tuple[float, float, float], method: Method, counter: Tensor,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`guidance.guide` on (B, N, C) of fp32, fp16 or bf16; `counter` gains the clipped tokens.

    out: contiguous, may be `pos` itself: a channel is read for the last time by the thread that writes it.
    """
    width = pos.shape[-1]
    tokens, neg_tokens = (x.reshape(-1, width) for x in (pos.contiguous(), neg.contiguous()))
    out = torch.empty_like(tokens) if out is None else out
    strides = (tokens.stride(0), neg_tokens.stride(0), width)
    given = [tokens, neg_tokens, out, counter, width, *strides, *_rule(strength, method)]
    _launch("nag_guide", (len(tokens), 1, 1), given, out)
    return out.view(pos.shape)


def merge_and_guide(
    image: Part, pos: Part, neg: Part, out: Tensor, spans: tuple[int, int, int, int, int, int],
    strength: tuple[float, float, float], method: Method, counter: Tensor,
) -> None:  # fmt: skip
    """Writes three partial attentions, merged and guided, to `out` (B, N, H*D); arguments as in
    triton_kernels.py. At most 256 heads.
    """
    batch, heads, tokens, width = image.out.shape
    if heads > MOST_HEADS:
        raise ValueError(f"{heads} heads, at most {MOST_HEADS}")
    strides = [stride for part in (image, pos, neg) for x in part for stride in x.stride()]
    given = [
        *image, *pos, *neg, out, counter, *strides, *out.stride()[:2], heads, width, *spans,
        *_rule(strength, method),
    ]  # fmt: skip
    _launch("nag_merge_and_guide", (tokens, batch, 1), given, out)


def _launch(name: str, grid: tuple[int, int, int], given: list[Any], out: Tensor) -> None:
    # What the launcher makes of an int has 32 bits, and it does not say so.
    if any(isinstance(one, int) and abs(one) >= 2**31 for one in given):
        raise ValueError("tensors of 2**31 elements or more")
    if 0 in grid:
        return
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _kernels(out.device, out.dtype)[name](grid=grid, block=(THREADS, 1, 1), args=given)


@functools.cache
def _kernels(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Compiled once for each; the device is the current one."""
    if torch.version.hip:
        raise RuntimeError("NVRTC is for NVIDIA's GPUs")
    capability = torch.cuda.get_device_capability(device)
    return nvrtc.loaded(nvrtc.compiled(nvrtc.library(), source(dtype), capability)[1], NAMES)


def _rule(strength: tuple[float, float, float], method: Method) -> list[int]:
    """phi, tau and alpha by the bits of their fp32, and the method's equations as bits."""
    if method in (Method.VSF, Method.ORTHOGONAL):
        raise NotImplementedError(f"{method.value} has no CUDA kernel")
    bits = struct.unpack("<3i", struct.pack("<3f", *strength))
    return [*bits, method.extrapolates + 2 * method.normalises + 4 * method.refines]
