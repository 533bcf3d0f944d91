"""The two rules of NAG in joint attention, written out literally on the models of joint_models.py: two
branches, two softmax attentions, every stream by itself. Shares no code with nag_core.

shared: one image stream, modulated by the positive's vector everywhere, and so is the negative's text.
official: the authors' Flux code. The negative's text has the negative's vector, and the single blocks carry a
second image stream under that vector; the guided tokens are written into both.
"""

from __future__ import annotations

import math

import torch

from tests import joint_models as models
from tests import reference


def softmax_attention(q, k, v):
    """(B, H, N, D) each to (B, N, H*D)."""
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def guided(z_pos, z_neg, strength):
    """In float64 the reference's equations, else the published formula as it is: the naive yardstick."""
    if z_pos.dtype is torch.float64:
        return reference.nag(z_pos, z_neg, *strength)[0]
    return reference.naive_nag(z_pos, z_neg, *strength)


def guided_within(own, z_pos, z_neg, strength):
    """Only the image tokens `own` are; the rest are reference images."""
    out = z_pos.clone()
    out[:, own] = guided(z_pos[:, own], z_neg[:, own], strength)
    return out


def joined(text, image, angles):
    """Attention over [text, image] with everybody as a query; text's and image's part of the result."""
    q, k, v = (torch.cat((one, other), 2) for one, other in zip(text, image, strict=True))
    if angles is not None:
        q, k = models.rotate(q, angles), models.rotate(k, angles)
    out = softmax_attention(q, k, v)
    return out[:, : text[0].shape[2]], out[:, text[0].shape[2] :]


def flux(model, x, timestep, pos, neg, y, strength, y_neg=None):
    """One picture (batch of 1), `pos` and `neg` (1, tokens, CONTEXT): by the official rule with `y_neg`, else
    by the shared one.
    """
    vec = model.vector(timestep, y)
    vec_neg = vec if y_neg is None else model.vector(timestep, y_neg)
    pe_pos, pe_neg = (model.angles(x, text.shape[1]) for text in (pos, neg))
    own = model.own(x) if isinstance(model, models.FluxEdit) else slice(None)
    img, txt, bad = model.tokens(x), model.txt_in(pos), model.txt_in(neg)
    for block in model.double_blocks:
        image = block.img.heads(img, vec)
        txt_out, z_pos = joined(block.txt.heads(txt, vec), image, pe_pos)
        bad_out, z_neg = joined(block.txt.heads(bad, vec_neg), image, pe_neg)
        img = block.img.out(img, guided_within(own, z_pos, z_neg, strength), vec)
        txt, bad = block.txt.out(txt, txt_out, vec), block.txt.out(bad, bad_out, vec_neg)
    other = img if y_neg is not None else None
    for block in model.single_blocks:
        streams = img, other, txt, bad
        img, other, txt, bad = _single(block, *streams, vec, vec_neg, (pe_pos, pe_neg), strength, own)
    return model.picture(img, x)


def _single(block, img, other, txt, bad, vec, vec_neg, angles, strength, own):
    *image, image_mlp = block.heads(img, vec)
    *image_neg, other_mlp = (*image, image_mlp) if other is None else block.heads(other, vec_neg)
    *text, text_mlp = block.heads(txt, vec)
    *text_neg, bad_mlp = block.heads(bad, vec_neg)
    txt_out, z_pos = joined(text, image, angles[0])
    bad_out, z_neg = joined(text_neg, image_neg, angles[1])
    z = guided_within(own, z_pos, z_neg, strength)
    img = block.out(img, z, image_mlp, vec)
    other = None if other is None else block.out(other, z, other_mlp, vec_neg)
    return img, other, block.out(txt, txt_out, text_mlp, vec), block.out(bad, bad_out, bad_mlp, vec_neg)


def sd3(model, x, timestep, pos, neg, y, strength):
    """One picture under the shared rule."""
    vec = model.vector(timestep, y)
    img, txt, bad = model.tokens(x), model.txt_in(pos), model.txt_in(neg)
    for block in model.joint_blocks:
        image = block.img.heads(img, vec)
        txt_out, z_pos = joined(block.txt.heads(txt, vec), image, None)
        bad_out, z_neg = joined(block.txt.heads(bad, vec), image, None)
        second = None
        if block.dual:
            second = softmax_attention(*models.split(block.img.seconds[0](block.img.modulated(img, vec))))
        img = block.img.out(img, guided(z_pos, z_neg, strength), vec, second)
        if not block.txt.last:
            txt, bad = block.txt.out(txt, txt_out, vec), block.txt.out(bad, bad_out, vec)
    return model.picture(img, x)
