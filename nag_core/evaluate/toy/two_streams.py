"""NAG as the authors' Flux code has it, written out on the sandbox's transformer.

Double blocks: one image stream under the prompt's pooled vector, and the negative's text under its own.
Single blocks: a second image stream under the negative's vector; the guided tokens are written into both. It
shares nothing with `nag_core.method`, which it is compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nag_core.sandbox.model.miniature import Conditions
from nag_core.sandbox.model.mmdit import Attend, DoubleBlock, MMDiT, attention, modulated, rotate

Strength = tuple[float, float, float]  # phi, tau, alpha


def nag(pos: Tensor, neg: Tensor, phi: float, tau: float, alpha: float) -> Tensor:
    """Eq. 7-10 on two attention outputs (B, N, C)."""
    guided = pos + phi * (pos - neg)
    grown = guided.abs().sum(-1, keepdim=True) / pos.abs().sum(-1, keepdim=True)
    return alpha * guided * (grown.clamp_max(tau) / grown) + (1 - alpha) * pos


def velocity(
    network: MMDiT,
    x: Tensor,
    timesteps: Tensor,
    positive: Conditions,
    negative: Conditions,
    strength: Strength,
) -> Tensor:
    """Velocity (B, 3, H, W) at x of that shape and timesteps (B,).

    positive, negative: tokens (B, T, C) and pooled vector (B, C) of each text, of one length. With the
    positive's vector in the negative's place it is the shared rule: both streams are the same then.
    """
    context, y = (torch.cat(pair) for pair in zip(positive, negative, strict=True))
    img, txt, turn = network.tokens(x, context)
    vec = network.temb(timesteps.repeat(2), y)
    attend = _guided(txt.shape[1], strength)
    for block in network.double_blocks:
        img, txt = _double(block, img, txt, vec, turn, attend)
    joined = torch.cat((txt, img.repeat(2, 1, 1)), dim=1)
    for block in network.single_blocks:
        joined = block(joined, vec, turn, attend)
    return network.answer(x, timesteps, joined[: len(x), txt.shape[1] :], vec[: len(x)])


def _guided(length: int, strength: Strength) -> Attend:
    """Attention of the prompt's rows and, behind them, the negative's; the image's part of both is guided."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attention(q, k, v)
        pos, neg = out[:, length:].chunk(2)
        return torch.cat((out[:, :length], nag(pos, neg, *strength).repeat(2, 1, 1)), dim=1)

    return attend


def _double(
    block: DoubleBlock, img: Tensor, txt: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor], attend: Attend
) -> tuple[Tensor, Tensor]:
    """img (B, N, C) and txt (2B, T, C) after the block."""
    rows, length = len(img), txt.shape[1]
    img_first, img_second = block.img.modulations(vec[:rows])
    txt_first, txt_second = block.txt.modulations(vec)
    of_txt = block.txt.heads(modulated(txt, *txt_first[:2]))
    of_img = (part.repeat(2, 1, 1, 1) for part in block.img.heads(modulated(img, *img_first[:2])))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(of_txt, of_img, strict=True))
    out = attend(rotate(q, turn), rotate(k, turn), v)
    img = block.img.finish(img, out[:rows, length:], img_first, img_second)
    return img, block.txt.finish(txt, out[:, :length], txt_first, txt_second)
