"""The guidance rule as Triton kernels: each attention output read once, the result written once, one launch a
layer.

Imported only where a GPU asks for it; `rule.py` chooses. One program works on one token, all of its
channels at once, in fp32, on values scaled as in guidance.py and for the same reason.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from nag_core.method.guidance import HEADROOM as SCALE
from nag_core.method.guidance import Method
from nag_core.method.merge import Part

HEADROOM = tl.constexpr(SCALE)
ROOM = tl.constexpr(1 / SCALE)
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _sum(z, tile: tl.constexpr):
    """Over a row, or over a tile of heads and their channels."""
    sums = tl.sum(z, axis=0)
    return tl.sum(sums, axis=0) if tile else sums


@triton.jit
def _across(zn, zp, tile: tl.constexpr):
    """`guidance.across`."""
    peak = tl.max(tl.abs(zp), axis=0)
    peak = tl.max(peak, axis=0) if tile else peak
    along = zp / tl.where(peak < TINY, TINY, peak)
    square = _sum(along * along, tile)
    return zn - _sum(zn * along, tile) / tl.where(square < 1.0, 1.0, square) * along


@triton.jit
def _combine(
    zp, zn, phi, tau, alpha, extrapolated: tl.constexpr, normalised: tl.constexpr, refined: tl.constexpr,
    orthogonal: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """The rule on one token, all of its channels; the result, and 1 if tau shrank it."""
    clipped = tau < 0  # never, but in the type of a comparison
    if orthogonal:
        zn = _across(zn, zp, tile)
    out = zp + phi * (zp - zn) if extrapolated else zp - phi * zn
    if normalised:
        limit = tau * _sum(tl.abs(zp), tile)
        norm = _sum(tl.abs(out), tile)
        cap = limit / tl.where(norm < TINY, TINY, norm)
        out = out * tl.where(cap > 1.0, 1.0, cap)
        clipped = norm > limit
    if refined:
        # From the nearer end, as torch.lerp: alpha 1 gives `out` itself.
        out = tl.where(alpha < 0.5, zp + alpha * (out - zp), out - (1.0 - alpha) * (out - zp))
    return out, clipped.to(tl.int64)


@triton.jit
def _unscaled(x, largest: tl.constexpr):
    """Held at the limit of the result's dtype before the headroom is taken back."""
    # Comparisons keep a NaN, which the host's own check then sees; a GPU's min and max would drop it.
    limit = largest * HEADROOM
    x = tl.where(x > limit, limit, tl.where(x < -limit, -limit, x))
    return x * ROOM  # exact: both are powers of two


@triton.jit
def _guide_kernel(
    pos, neg, out, counter, width, pos_stride, neg_stride, phi, tau, alpha, largest: tl.constexpr,
    extrapolated: tl.constexpr, normalised: tl.constexpr, refined: tl.constexpr, orthogonal: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    zp = tl.load(pos + token * pos_stride + columns, mask=inside, other=0.0).to(tl.float32) * HEADROOM
    zn = tl.load(neg + token * neg_stride + columns, mask=inside, other=0.0).to(tl.float32) * HEADROOM
    result, clipped = _combine(
        zp, zn, phi, tau, alpha, extrapolated, normalised, refined, orthogonal, tile=False
    )
    result = _unscaled(result, largest).to(out.dtype.element_ty)
    tl.store(out + token * width + columns, result, mask=inside)
    tl.atomic_add(counter, clipped, mask=clipped > 0, sem="relaxed")


@triton.jit
def _part(out, lse, batch, token, head, channel, s0, s1, s2, s3, l0, l1, l2, heads, inside):
    """A token in one partial attention, (heads, channels), and its heads' log-sum-exps, (heads, 1); 0 and
    -inf outside.
    """
    values = tl.load(out + batch * s0 + head * s1 + token * s2 + channel * s3, mask=inside, other=0.0)
    weights = tl.load(lse + batch * l0 + head * l1 + token * l2, mask=heads, other=-float("inf"))
    return values.to(tl.float32) * HEADROOM, weights


@triton.jit
def _flipped(zp, lp, zn, ln, scale, offset):
    """`sign_flip.flip` on a tile; each share from its own sigmoid."""
    gap = lp - ln + offset
    return zp * tl.sigmoid(gap) - zn * (tl.sigmoid(-gap) * scale)


@triton.jit
def _together(one, other):
    """The log-sum-exp of both; `one` is finite."""
    peak = tl.maximum(one, other)
    return peak + tl.log(tl.exp(one - peak) + tl.exp(other - peak))


@triton.jit
def _flip_kernel(
    pos, pos_lse, neg, neg_lse, out, pos_row, pos_token, neg_row, neg_token, a0, a1, a2, b0, b1, b2, o0, o1,
    heads, width, scale, offset, largest: tl.constexpr, head_block: tl.constexpr, width_block: tl.constexpr,
):  # fmt: skip
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, channel = tl.arange(0, head_block)[:, None], tl.arange(0, width_block)[None, :]
    real = head < heads
    inside = real & (channel < width)
    place = head * width + channel
    zp = tl.load(pos + batch * pos_row + token * pos_token + place, mask=inside, other=0.0).to(tl.float32)
    zn = tl.load(neg + batch * neg_row + token * neg_token + place, mask=inside, other=0.0).to(tl.float32)
    lp = tl.load(pos_lse + batch * a0 + head * a1 + token * a2, mask=real, other=0.0)
    ln = tl.load(neg_lse + batch * b0 + head * b1 + token * b2, mask=real, other=0.0)
    result = _unscaled(_flipped(zp * HEADROOM, lp, zn * HEADROOM, ln, scale, offset), largest)
    tl.store(out + batch * o0 + token * o1 + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _merge_kernel(
    image, image_lse, pos, pos_lse, neg, neg_lse, out, counter,
    a0, a1, a2, a3, b0, b1, b2, c0, c1, c2, c3, d0, d1, d2, e0, e1, e2, e3, f0, f1, f2, o0, o1,
    heads, width, pos_first, pos_last, neg_first, neg_last, own_first, own_last, phi, tau, alpha,
    largest: tl.constexpr, extrapolated: tl.constexpr, normalised: tl.constexpr, refined: tl.constexpr,
    orthogonal: tl.constexpr, flips: tl.constexpr, head_block: tl.constexpr, width_block: tl.constexpr,
):  # fmt: skip
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    # A tile of heads x channels: each head's weights are read and worked out once, not for every channel.
    head, channel = tl.arange(0, head_block)[:, None], tl.arange(0, width_block)[None, :]
    real = head < heads
    inside = real & (channel < width)
    is_pos = (token >= pos_first) & (token < pos_last)
    is_neg = (token >= neg_first) & (token < neg_last)
    own = (token >= own_first) & (token < own_last)
    z, lz = _part(image, image_lse, batch, token, head, channel, a0, a1, a2, a3, b0, b1, b2, real, inside)
    p, lp = _part(
        pos, pos_lse, batch, token - own_first, head, channel, c0, c1, c2, c3, d0, d1, d2,
        real & own, inside & own,
    )  # fmt: skip
    apart = is_pos == 0
    n, ln = _part(
        neg, neg_lse, batch, token, head, channel, e0, e1, e2, e3, f0, f1, f2, real & apart, inside & apart
    )
    lz = tl.where(real, lz, 0.0)
    # Where a part is not there its weight is sigmoid(-inf) = 0.
    wp, wn = tl.sigmoid(lp - lz), tl.sigmoid(ln - lz)
    zp = z * (1.0 - wp) + p * wp
    zn = z * (1.0 - wn) + n * wn
    if flips:  # phi and tau are the scale and the offset
        guided, clipped = _flipped(zp, _together(lz, lp), n, ln, phi, tau), tl.full((), 0, tl.int64)
    else:
        guided, clipped = _combine(
            zp, zn, phi, tau, alpha, extrapolated, normalised, refined, orthogonal, tile=True
        )
    is_image = own & apart
    result = _unscaled(tl.where(is_image, guided, tl.where(is_neg, zn, zp)), largest)
    place = out + batch * o0 + token * o1 + head * width + channel
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)
    tl.atomic_add(counter, clipped, mask=is_image & (clipped > 0), sem="relaxed")


def guide(
    pos: Tensor,
    neg: Tensor,
    strength: tuple[float, float, float],
    method: Method,
    counter: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """`guidance.guide` on (B, N, C) of fp32, fp16 or bf16; `counter` gains the clipped tokens.

    out: contiguous, may be `pos` itself: a token is read before it is written, by one program.
    """
    width = pos.shape[-1]
    tokens, neg_tokens = (x.reshape(-1, width) for x in (pos.contiguous(), neg.contiguous()))
    out = torch.empty_like(tokens) if out is None else out
    block = triton.next_power_of_2(width)
    with _on(pos):
        _guide_kernel[(len(tokens),)](
            tokens, neg_tokens, out, counter, width, tokens.stride(0), neg_tokens.stride(0), *strength,
            torch.finfo(pos.dtype).max, **_equations(method), block=block, num_warps=_warps(block),
        )  # fmt: skip
    return out.view(pos.shape)


def flip(pos: Part, neg: Part, strength: tuple[float, float, float], out: Tensor | None = None) -> Tensor:
    """`sign_flip.flip` on `out` (B, N, H*D) of fp32, fp16 or bf16, last dim contiguous; `lse` (B, H, N).

    strength: scale, offset, and what is not read. out: may be `pos.out` itself.
    """
    batch, tokens, channels = pos.out.shape
    heads = pos.lse.shape[1]
    z_pos, z_neg = (x if x.stride(-1) == 1 else x.contiguous() for x in (pos.out, neg.out))
    out = (
        torch.empty((batch, tokens, channels), dtype=z_pos.dtype, device=z_pos.device) if out is None else out
    )
    width = channels // heads
    blocks = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    strides = (*z_pos.stride()[:2], *z_neg.stride()[:2], *pos.lse.stride(), *neg.lse.stride())
    with _on(out):
        _flip_kernel[(tokens, batch)](
            z_pos, pos.lse, z_neg, neg.lse, out, *strides, *out.stride()[:2], heads, width, *strength[:2],
            torch.finfo(out.dtype).max,
            head_block=blocks[0], width_block=blocks[1], num_warps=_warps(blocks[0] * blocks[1]),
        )  # fmt: skip
    return out


def merge_and_guide(
    image: Part,
    pos: Part,
    neg: Part,
    out: Tensor,
    spans: tuple[int, int, int, int, int, int],
    strength: tuple[float, float, float],
    method: Method,
    counter: Tensor,
) -> None:
    """Writes three partial attentions, merged and guided, to `out` (B, N, H*D), last dim contiguous.

    image, neg: all N queries over the image's and the negative's keys; pos: the queries own_first to own_last
        over the prompt's keys. strength: of VSF as for `flip`.
    spans: (pos_first, pos_last, neg_first, neg_last, own_first, own_last).
    """
    batch, heads, tokens, width = image.out.shape
    strides = [stride for part in (image, pos, neg) for x in part for stride in x.stride()]
    blocks = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    with _on(out):
        _merge_kernel[(tokens, batch)](
            *image, *pos, *neg, out, counter, *strides, *out.stride()[:2], heads, width, *spans, *strength,
            torch.finfo(out.dtype).max, **_equations(method), flips=method is Method.VSF,
            head_block=blocks[0], width_block=blocks[1], num_warps=_warps(blocks[0] * blocks[1]),
        )  # fmt: skip


def _on(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _equations(method: Method) -> dict[str, bool]:
    return {
        "extrapolated": method.extrapolates, "normalised": method.normalises, "refined": method.refines,
        "orthogonal": method is Method.ORTHOGONAL,
    }  # fmt: skip


def _warps(block: int) -> int:
    return min(max(block // 256, 1), 16)
