"""The method written out once more, literally and in float64, from the paper's equations. Shares no code with
nag_core.
"""

from __future__ import annotations

import math

import torch


def nag(pos, neg, phi, tau, alpha):
    """Eq. 7-10 token by token; returns the guided output and how many tokens were clipped."""
    pos, neg = pos.double(), neg.double()
    out = torch.empty_like(pos)
    clipped = 0
    for index in torch.cartesian_prod(torch.arange(pos.shape[0]), torch.arange(pos.shape[1])).tolist():
        row, token = index
        zp, zn = pos[row, token], neg[row, token]
        extrapolated = zp + phi * (zp - zn)  # eq. 7
        norm_pos, norm_ext = float(zp.abs().sum()), float(extrapolated.abs().sum())
        if norm_ext == 0:
            normalised = extrapolated
        elif norm_ext > tau * norm_pos:  # eq. 8: R > tau
            normalised = extrapolated * (tau * norm_pos / norm_ext)  # eq. 9
            clipped += 1
        else:
            normalised = extrapolated
        out[row, token] = alpha * normalised + (1 - alpha) * zp  # eq. 10
    return out, clipped


def weighted_nag(pos, negs, weights, phi, tau, alpha):
    """Several negatives: z~ = z+ + phi sum_i w_i (z+ - z_i) / sum_i w_i as it is written, then eq. 8-10."""
    apart = sum(w * (pos.double() - neg.double()) for w, neg in zip(weights, negs, strict=True))
    extrapolated = pos.double() + phi * apart / sum(weights)
    # With phi 1, z+ - z- = z~ - z+ for z- = 2 z+ - z~: the rest of the rule is the one above.
    return nag(pos, 2 * pos.double() - extrapolated, 1.0, tau, alpha)[0]


def naive_nag(pos, neg, phi, tau, alpha):
    """The published formula in the tensors' own dtype: the yardstick whose error ours may at most double."""
    guided = pos + phi * (pos - neg)
    norm_pos = pos.abs().sum(-1, keepdim=True)
    norm_guided = guided.abs().sum(-1, keepdim=True)
    ratio = norm_guided / norm_pos
    guided = guided * (torch.minimum(ratio, torch.full_like(ratio, tau)) / ratio)
    return alpha * guided + (1 - alpha) * pos


def attention(q, k, v, heads):
    """Softmax attention of q (B, N, H*d) over k, v (B, T, H*d), heads merged; a softmax per head."""
    outs = []
    width = q.shape[-1] // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width), dim=-1)
        outs.append(weights @ v[..., part])
    return torch.cat(outs, dim=-1)


def orthogonal(pos, neg, scale):
    """z+ - scale (z- - <z-, z+> / <z+, z+> z+), token by token."""
    pos, neg = pos.double(), neg.double()
    out = torch.empty_like(pos)
    for index in torch.cartesian_prod(torch.arange(pos.shape[0]), torch.arange(pos.shape[1])).tolist():
        zp, zn = pos[tuple(index)], neg[tuple(index)]
        square = torch.dot(zp, zp)
        along = torch.dot(zn, zp) / square * zp if square > 0 else torch.zeros_like(zp)
        out[tuple(index)] = zp - scale * (zn - along)
    return out


def vsf(q, k, v, negatives, scale, offset, mask=None):
    """One softmax of q (B, H, N, D) over all keys. Those of `negatives`, (slice, weight) each, have logits
    lowered by `offset`, and values times -scale, their weight (of a sum of 1) and their number.
    """
    logits, v = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1]), v.double().clone()
    logits = logits if mask is None else logits + mask
    for at, weight in negatives:
        logits[..., at] -= offset
        v[:, :, at] *= -scale * weight * len(negatives)
    return (torch.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2)


def naive_vsf(q, k, v, negatives, scale, offset):
    """The same in the tensors' own dtype, for one negative: the yardstick."""
    logits, v = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), v.clone()
    logits[..., negatives] -= offset
    v[:, :, negatives] *= -scale
    return (torch.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2)
