"""The guidance rule in few PyTorch operations: what 16-bit tensors take where no fused kernel works.

guidance.py is the rule as the paper writes it; this is the same, rearranged so that a GPU starts fewer
kernels and moves fewer bytes. With r = phi / (1 + phi):

    w   = z+ - r z-                              z~ of eq. 7 is (1 + phi) w
    cap = tau |z+| / ((1 + phi) |w|), at most 1  eq. 8-9, L1 norms
    out = alpha cap (1 + phi) w + (1 - alpha) z+ eq. 10

One fp32 tensor is worked on in place, and all else is one number a token. In fp32 its results differ from
guidance.py's by rounding, even where z+ = z-; rounded to 16 bits z+ comes out as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nag_core.method.autocast import without_autocast
from nag_core.method.guidance import CHUNK, HEADROOM, Method
from nag_core.method.merge import Part


class _Weights(NamedTuple):
    """w = z+ - turn z-; out = gain cap w + rest z+; cap = share |z+| / |w| and at most 1, or 1 where `share`
    is 0.
    """

    turn: float
    gain: float
    rest: float
    share: float


def _weights(strength: tuple[float, float, float], method: Method) -> _Weights:
    phi, tau, alpha = strength
    if not method.extrapolates:
        return _Weights(phi, 1.0, 0.0, 0.0)
    alpha, share = alpha if method.refines else 1.0, tau / (1 + phi) if method.normalises else 0.0
    return _Weights(phi / (1 + phi), alpha * (1 + phi), 1 - alpha, share)


@torch.no_grad()
def guide(
    pos: Tensor, neg: Tensor, strength: tuple[float, float, float], method: Method, counter: Tensor,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`guidance.guide` on (B, N, C) of one dtype; `counter` gains the clipped tokens.

    out: may be `pos` itself. No gradient passes, as through the fused kernels.
    """
    out = torch.empty_like(pos) if out is None else out
    if method is Method.ORTHOGONAL:
        for z_pos, z_neg, result in _pieces(pos, neg, out):
            wide, scale = _wide(pos.dtype), _scale(pos.dtype)
            _orthogonal(z_pos.to(wide) * scale, z_neg.to(wide) * scale, strength[0], scale, result)
        return out
    weights, scale = _weights(strength, method), _scale(pos.dtype)
    for z_pos, z_neg, result in _pieces(pos, neg, out):
        work = torch.empty(z_pos.shape, dtype=_wide(pos.dtype), device=pos.device)
        torch.mul(z_pos, scale, out=work)
        norm = _norm(work) if weights.share else None
        work.sub_(z_neg, alpha=scale * weights.turn)
        _finish(work, norm, z_pos, 1.0, scale, weights, counter, result)
    return out


def _orthogonal(base: Tensor, work: Tensor, phi: float, scale: float, out: Tensor) -> None:
    """z+ - phi (z- - <z-, z+> / <z+, z+> z+) to `out`, of z+ and z- scaled by `scale`; `work`, z-, is used
    up, and so is one tensor like it. Divided by the largest element first: squares could overflow.
    """
    along = base / base.abs().amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(base.dtype).tiny)
    with without_autocast(work):
        share = torch.linalg.vecdot(work, along).div_(torch.linalg.vecdot(along, along).clamp_min_(1.0))
    work.addcmul_(along, share.unsqueeze(-1), value=-1.0).mul_(-phi).add_(base)
    _unscaled(work, scale, out)


def _unscaled(work: Tensor, scale: float, out: Tensor) -> None:
    """`work`, which is used up, to `out`; what is beyond the dtype's range is held at its limit."""
    limit = torch.finfo(out.dtype).max * scale
    out.copy_(work.clamp_(-limit, limit).div_(scale))


@torch.no_grad()
def flip(pos: Part, neg: Part, strength: tuple[float, float, float], out: Tensor | None = None) -> Tensor:
    """`sign_flip.flip`; arguments as in triton_kernels.py."""
    out = torch.empty_like(pos.out) if out is None else out
    gap, scale = pos.lse - neg.lse + strength[1], _scale(out.dtype)
    batch, heads, tokens = gap.shape
    step = max(1, CHUNK // max(1, batch * out.shape[-1]))
    for first in range(0, tokens, step):
        at = slice(first, first + step)
        z_pos, z_neg = (part.out[:, at].unflatten(-1, (heads, -1)) for part in (pos, neg))
        _flipped(z_pos, z_neg, gap[:, :, at], strength[0], scale, scale, out[:, at])
    return out


def _flipped(
    z_pos: Tensor, z_neg: Tensor, gap: Tensor, phi: float, pos_scale: float, scale: float, out: Tensor
) -> None:
    """w z+ - phi (1 - w) z- of (B, N, H, D) to `out` (B, N, H*D), w by `gap` (B, H, N). pos_scale: brings z+
    to `scale`, which is worked at.
    """
    gap = gap.transpose(1, 2).unsqueeze(-1)
    work = gap.sigmoid().mul_(pos_scale) * z_pos
    work.addcmul_(z_neg, gap.neg().sigmoid_(), value=-phi * scale)
    _unscaled(work.flatten(2), scale, out)


def _pieces(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """The same rows and tokens of each (B, N, C), at most `CHUNK` elements (or one token) at a time."""
    batch, tokens, width = tensors[0].shape
    rows = max(1, CHUNK // max(1, tokens * width))
    step = max(1, CHUNK // (rows * width))
    for row in range(0, batch, rows):
        for token in range(0, tokens, step):
            yield [x[row : row + rows, token : token + step] for x in tensors]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if torch.finfo(dtype).bits > 32 else torch.float32


def _scale(dtype: torch.dtype) -> float:
    """By which values are made small, so that no sum over a row overflows: fp16's cannot in fp32."""
    return 1.0 if dtype is torch.float16 else HEADROOM


def _norm(work: Tensor) -> Tensor:
    """L1 over the last dim, kept as size 1. One operation, where `guidance.l1_norm` is two and more exact."""
    return torch.linalg.vector_norm(work, 1, dim=-1, keepdim=True)


def _finish(
    work: Tensor, norm: Tensor | None, base: Tensor, base_scale: float, scale: float, weights: _Weights,
    counter: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Eq. 8-10, written to `out`, from w in `work`, which is used up. norm: |z+|, scaled as w is by `scale`;
    base: z+, scaled by `base_scale`.
    """
    gain = weights.gain / scale
    if norm is None:
        work.mul_(gain)
    else:
        # 0 / 0, a token that is and stays zero, is not clipped; its cap is of no account.
        cap = norm.div_(_norm(work)).mul_(weights.share * gain)
        counter.add_((cap < gain).sum())
        work.mul_(cap.nan_to_num_(0.0, posinf=gain).clamp_max_(gain))
    # What is beyond the dtype's range is infinite now and held at its limit; nothing infinite was subtracted.
    torch.add(work, base, alpha=weights.rest / base_scale, out=out)
    limit = torch.finfo(out.dtype).max
    out.clamp_(-limit, limit)


@torch.no_grad()
def merge_and_guide(
    image: Part, pos: Part, neg: Part, out: Tensor, spans: tuple[int, int, int, int, int, int],
    strength: tuple[float, float, float], method: Method, counter: Tensor,
) -> None:  # fmt: skip
    """Writes three partial attentions, merged and guided, to `out` (B, N, H*D); arguments as in
    triton_kernels.py. What stands in no span is left as it is.
    """
    pos_first, pos_last, neg_first, neg_last, own_first, own_last = spans
    picture = (own_first, pos_first) if pos_first > own_first else (pos_last, own_last)
    batch, heads, tokens, width = image.out.shape
    scale = _scale(out.dtype)
    step = max(1, CHUNK // (batch * heads * width))
    for first in range(0, tokens, step):
        last = min(first + step, tokens)

        def within(start: int, stop: int, first: int = first, last: int = last) -> slice:
            """What of start to stop is in this piece, counted from its beginning."""
            start, stop = (min(max(place, first), last) - first for place in (start, stop))
            return slice(start, stop)

        own = within(own_first, own_last)
        there = slice(first + own.start - own_first, first + own.stop - own_first)
        piece, result = slice(first, last), out[:, first:last]
        z_pos, z_neg = _merged(_of(image, piece), _of(pos, there), own, _of(neg, piece), scale)
        for text, merged in ((within(pos_first, pos_last), z_pos), (within(neg_first, neg_last), z_neg)):
            if text.start < text.stop:
                torch.mul(merged[:, text], 1 / scale, out=result[:, text])
        at = within(*picture)
        if at.start < at.stop:
            here = slice(first + at.start, first + at.stop)
            lses = image.lse[:, :, here], pos.lse[:, :, here.start - own_first : here.stop - own_first]
            given = (z_pos[:, at], z_neg[:, at], lses, _of(neg, here), strength, method, scale, counter)
            _guide_merged(*given, result[:, at])


def _guide_merged(
    base: Tensor, work: Tensor, lses: tuple[Tensor, Tensor], neg: Part, strength: tuple[float, float, float],
    method: Method, scale: float, counter: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """The rule of z+ `base` and z- `work`, both scaled, the latter used up, to `out`. lses: of image and
    prompt, and neg: over the negative's keys alone, (B, H, N, ...), for VSF.
    """
    if method is Method.VSF:
        gap = torch.logaddexp(*lses).sub_(neg.lse).add_(strength[1])
        z_pos = base.unflatten(-1, (gap.shape[1], -1))
        _flipped(z_pos, neg.out.transpose(1, 2), gap, strength[0], 1.0, scale, out)
    elif method is Method.ORTHOGONAL:
        _orthogonal(base, work, strength[0], scale, out)
    else:
        weights = _weights(strength, method)
        norm = _norm(base) if weights.share else None
        torch.sub(base, work, alpha=weights.turn, out=work)
        _finish(work, norm, base, scale, scale, weights, counter, out)


def _of(part: Part, tokens: slice) -> Part:
    return Part(part.out[:, :, tokens], part.lse[:, :, tokens])


def _merged(image: Part, pos: Part, own: slice, neg: Part, scale: float) -> tuple[Tensor, Tensor]:
    """z+ and z- of the image's N queries, (B, N, H*D) in at least fp32, scaled. pos: for the queries `own`;
    z+ of the others means nothing.
    """
    batch, heads, tokens, width = image.out.shape
    shares = torch.empty(2, batch, heads, tokens, dtype=image.lse.dtype, device=image.lse.device)
    torch.sub(pos.lse, image.lse[:, :, own], out=shares[0, :, :, own])
    torch.sub(neg.lse, image.lse, out=shares[1])
    # A head's weights, not an element's. 1 - share keeps the sum of both exact to fp32's rounding.
    shares = shares.sigmoid_().transpose(2, 3).unsqueeze(-1)
    rests = torch.rsub(shares, scale, alpha=scale)
    made = []
    for at, other, share, rest in zip((own, slice(None)), (pos, neg), shares, rests, strict=True):
        z = torch.empty(batch, tokens, heads, width, dtype=_wide(image.out.dtype), device=image.out.device)
        torch.mul(image.out.transpose(1, 2)[:, at], rest[:, at], out=z[:, at])
        z[:, at].addcmul_(other.out.transpose(1, 2), share[:, at], value=scale)
        made.append(z.flatten(2))
    return made[0], made[1]
