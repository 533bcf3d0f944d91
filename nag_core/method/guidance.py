"""The guidance rule: eq. 5 and 7-10 of arXiv 2505.21179 on two attention outputs. Torch only, no state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

# Norms and extrapolation run on values scaled by this power of two: neither (1 + phi) * z nor the sum over a
# row can overflow fp32 then, whatever finite bf16 or fp32 values come in. Exact, but for values below 1e-31.
HEADROOM = 2.0**-24
# Elements worked on at a time: 64 MB of fp32 for each temporary. On a CPU no more than its caches hold, which
# is several times as fast; the result is the same to the bit.
CHUNK, CPU_CHUNK = 2**24, 2**18


class Method(str, Enum):
    """How the positive and the negative attention output are combined."""

    NAG = "NAG"
    NASA = "NASA"
    NO_NORMALISATION = "No normalisation"
    NO_REFINEMENT = "No refinement"
    VSF = "VSF"
    ORTHOGONAL = "Orthogonal"

    extrapolates = property(
        lambda self: self.normalises or self is Method.NO_NORMALISATION, doc="Eq. 7; without it eq. 5."
    )
    normalises = property(lambda self: self in (Method.NAG, Method.NO_REFINEMENT), doc="Eq. 8-9.")
    refines = property(lambda self: self in (Method.NAG, Method.NO_NORMALISATION), doc="Eq. 10.")
    needs_lse = property(lambda self: self is Method.VSF, doc="Reads log-sum-exps, see sign_flip.py.")

    def inert(self, phi: float, alpha: float) -> bool:
        """Whether these strengths change nothing."""
        return phi == 0 or (alpha == 0 and self.refines)


class Guided(NamedTuple):
    """`out`: the guided attention output. `clipped`: 0-dim int64 on the device, tokens that tau shrank."""

    out: Tensor
    clipped: Tensor


def extrapolate(pos: Tensor, neg: Tensor, phi: float) -> Tensor:
    """z~ = z+ + phi (z+ - z-), eq. 7. Any shape; `phi` = 0 gives the values of `pos`."""
    return pos + phi * (pos - neg)


def across(neg: Tensor, pos: Tensor) -> Tensor:
    """`neg` without its share along `pos`, token by token over the last dim: z- - <z-, z+> / <z+, z+> z+.

    A zero token of `pos` takes nothing away. Divided by the largest element first: the squares of a token may
    be beyond the dtype.
    """
    along = pos / pos.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(pos.dtype).tiny)
    share = (neg * along).sum(dim=-1, keepdim=True) / along.square().sum(dim=-1, keepdim=True).clamp_min(1.0)
    return neg - share * along


def l1_norm(z: Tensor) -> Tensor:
    """L1 norm over the last dim, kept as size 1, accumulated in at least fp32.

    `abs().sum()` and not `linalg.vector_norm`: on the CPU the latter has five times the error (no cascade
    sum).
    """
    return z.abs().sum(dim=-1, keepdim=True, dtype=torch.promote_types(z.dtype, torch.float32))


def growth_cap(pos: Tensor, guided: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """min(R, tau) / R of eq. 8-9 as one clamped quotient, shape (..., 1), and how many tokens it shrinks.

    1 where a token grew less than `tau` times. A zero token (`pos` = 0) has the cap 0 and stays zero; no
    division by zero, no NaN.
    """
    limit, norm = tau * l1_norm(pos), l1_norm(guided)
    cap = (limit / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
    return cap, (norm > limit).sum()


def average(outputs: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i z_i of several negatives' outputs, shape and dtype of each; `weights` sum to 1. A single
    output is returned as it is.

    With it as z- eq. 7 becomes z+ + phi sum_i w_i (z+ - z_i), so that everything behind it is the same for
    any number of negatives. Taken up one after the other, in at least fp32.
    """
    if len(weights) == 1:
        return next(iter(outputs))
    total = None
    for output, weight in zip(outputs, weights, strict=True):
        work, dtype = torch.promote_types(output.dtype, torch.float32), output.dtype
        part = output.to(work) * weight
        total = part if total is None else total.add_(part)
    limit = torch.finfo(dtype).max
    return total.clamp_(-limit, limit).to(dtype)


def chunk(device: torch.device) -> int:
    """Elements to be worked on at a time there."""
    return CPU_CHUNK if device.type == "cpu" else CHUNK


def guide(
    pos: Tensor, neg: Tensor, phi: float, tau: float, alpha: float, method: Method = Method.NAG,
    dtype: torch.dtype | None = None,
) -> Guided:  # fmt: skip
    """Normalized attention guidance of `pos` away from `neg`.

    pos, neg: (B, N, C) attention outputs of the same queries under the positive / negative text, heads
        concatenated, before the output projection; C is the full hidden dim. Any float dtype.
    phi: strength of the extrapolation (the paper's; 0 returns `pos` itself). Official code and ComfyUI: phi +
        1.
    tau: largest growth of a token's L1 norm, eq. 8-9.
    alpha: share of the guided result in the blend, eq. 10; 0 returns `pos` itself.
    method: NASA is eq. 5, z+ - phi z-, and Orthogonal the same of what of z- is `across` z+ (arXiv
        2605.29390; that it goes by whole tokens is our reading of its abstract); both use neither tau nor
        alpha. The two ablations leave out eq. 8-9 or eq. 10. VSF is in sign_flip.py.
    dtype: of the result, that of `pos` unless given: merged attention parts come in fp32, and rounding them
        first would cost accuracy.

    Finite inputs give a finite result: values beyond the dtype's range are held at its limit.
    """
    if method.needs_lse:
        raise ValueError(f"{method.value} is not a rule of two outputs alone")
    if method.inert(phi, alpha):
        return Guided(pos.to(dtype or pos.dtype), torch.zeros((), dtype=torch.int64, device=pos.device))
    tokens, neg_tokens = pos.reshape(-1, pos.shape[-1]), neg.reshape(-1, neg.shape[-1])
    out, clipped = torch.empty_like(tokens, dtype=dtype), []
    work, limit = torch.promote_types(pos.dtype, torch.float32), torch.finfo(out.dtype).max * HEADROOM
    size = max(1, chunk(pos.device) // tokens.shape[-1])
    for first in range(0, len(tokens), size):
        part = slice(first, first + size)
        scaled = (x[part].to(work) * HEADROOM for x in (tokens, neg_tokens))
        result, count = _combine(*scaled, phi, tau, alpha, method)
        # Clamped before the headroom is taken back: afterwards it could already be infinite.
        out[part] = result.clamp_(-limit, limit).div_(HEADROOM)
        clipped.append(count)
    return Guided(out.view(pos.shape), clipped[0] if len(clipped) == 1 else torch.stack(clipped).sum())


def _combine(
    pos: Tensor, neg: Tensor, phi: float, tau: float, alpha: float, method: Method
) -> tuple[Tensor, Tensor]:
    """The rule itself, on values that cannot overflow; a fresh tensor and the count of clipped tokens."""
    clipped = torch.zeros((), dtype=torch.int64, device=pos.device)
    if method is Method.ORTHOGONAL:
        neg = across(neg, pos)
    guided = extrapolate(pos, neg, phi) if method.extrapolates else pos - phi * neg
    if method.normalises:
        cap, clipped = growth_cap(pos, guided, tau)
        guided = guided.mul_(cap)
    return (torch.lerp(pos, guided, alpha) if method.refines else guided), clipped
