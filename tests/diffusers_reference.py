"""NAG written out literally as processors of diffusers models: two attentions, each an explicit softmax,
every text at its full length with its own mask. Shares no code with nag_core.

Cross-attention: the guided rows get a second attention over the negative. Joint attention: every guided
picture has a second row whose text is the negative; its image tokens get the guided result, too, so that both
rows' image streams are one and the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tests import reference


def softmax_attention(q, k, v, bias=None):
    """(B, H, N, D) each to (B, N, H*D); `bias` is added to the logits."""
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = torch.softmax(logits if bias is None else logits + bias, dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def guided(pos, neg, strength):
    """In float64 the reference's equations, else the published formula as it is."""
    if pos.dtype is torch.float64:
        return reference.nag(pos, neg, *strength)[0]
    return reference.naive_nag(pos, neg, *strength)


def mean(parts):
    """Of several negatives: z~ = z+ + phi sum_i w_i (z+ - z_i) / sum_i w_i is the rule for this z-."""
    return sum(part * weight for part, weight in parts) / sum(weight for _, weight in parts)


def heads_of(x, attn):
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


@dataclass
class Cross:
    """For attn2. `negatives`: each (guided rows, tokens, channels) as attn2 gets it, with its bias (guided
    rows, 1, 1, tokens) and its weight.

    `first`: number of the first guided row; all behind it are.
    """

    negatives: list
    first: int
    strength: tuple

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        context, image = encoder_hidden_states, None
        if getattr(attn, "add_k_proj", None) is not None:
            context, image = context[:, -512:], context[:, :-512]
        q, k, v = self.projected(attn, hidden_states, context)
        bias = None if attention_mask is None else attention_mask.reshape(len(q), 1, 1, -1)
        out = softmax_attention(q, k, v, bias)
        parts = []
        for negative, bias, weight in self.negatives:
            _, k, v = self.projected(attn, hidden_states[:0], negative)
            parts.append((softmax_attention(q[self.first :], k, v, bias), weight))
        neg = mean(parts)
        out[self.first :] = guided(out[self.first :].clone(), neg, self.strength)
        if image is not None:
            k, v = attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image)
            out = out + softmax_attention(q, heads_of(k, attn), heads_of(v, attn))
        return attn.to_out[0](out) / getattr(attn, "rescale_output_factor", 1.0)

    @staticmethod
    def projected(attn, hidden_states, context):
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if getattr(attn, "norm_q", None) is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        return heads_of(q, attn), heads_of(k, attn), heads_of(v, attn)


@dataclass
class Joint:
    """`lengths`: real text tokens of every row; `groups`: (row of the prompt, [(row of a negative, its
    weight), ...]). `target`: so many of the image's tokens, the first, are the picture's; the others stay
    z+ of the prompt's row.
    """

    lengths: list
    groups: list
    strength: tuple
    image: int
    image_first: bool = False
    target: int | None = None

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None,
        encoder_hidden_states_mask=None, **kwargs,
    ):  # fmt: skip
        q, k, v = (heads_of(one(hidden_states), attn) for one in (attn.to_q, attn.to_k, attn.to_v))
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        text = encoder_hidden_states
        if text is not None:
            linears = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            tq, tk, tv = (heads_of(one(text), attn) for one in linears)
            tq, tk = attn.norm_added_q(tq), attn.norm_added_k(tk)
        if image_rotary_emb is not None and isinstance(image_rotary_emb[0], torch.Tensor):
            both = (tq, tk) if text is not None else (None, None)
            q, k, tq, tk = self.rotated(q, k, *both, image_rotary_emb)
        if text is not None:
            parts = ((q, tq), (k, tk), (v, tv)) if self.image_first else ((tq, q), (tk, k), (tv, v))
            q, k, v = (torch.cat(pair, dim=2) for pair in parts)
        out = self.attended(q, k, v, attention_mask)
        if text is None:
            return out if getattr(attn, "to_out", None) is None else attn.to_out[0](out)
        image, text = (out[:, : self.image], out[:, self.image :]) if self.image_first else (
            out[:, -self.image :], out[:, : -self.image])  # fmt: skip
        return attn.to_out[0](image), text if getattr(attn, "context_pre_only", False) else attn.to_add_out(
            text
        )

    def rotated(self, q, k, tq, tk, angles):
        if angles[0].is_complex():
            from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

            def turn(x, freqs):
                return apply_rotary_emb_qwen(x.transpose(1, 2), freqs, use_real=False).transpose(1, 2)

            image, text = angles
            return turn(q, image), turn(k, image), turn(tq, text), turn(tk, text)
        from diffusers.models.embeddings import apply_rotary_emb

        def turn(x, part):
            return apply_rotary_emb(x, tuple(one[part] for one in angles), sequence_dim=2)

        if tq is None:
            return turn(q, slice(None)), turn(k, slice(None)), None, None
        tokens = tq.shape[2]
        return (turn(q, slice(tokens, None)), turn(k, slice(tokens, None)),
                turn(tq, slice(tokens)), turn(tk, slice(tokens)))  # fmt: skip

    def attended(self, q, k, v, mask):
        """Row by row over its own text and the image; then the pictures of a group get one result."""
        if q.shape[2] == self.image:  # among image tokens alone
            return softmax_attention(q, k, v)
        width = q.shape[2] - self.image
        place = slice(0, self.image) if self.image_first else slice(width, None)
        hidden = torch.zeros(len(q), 1, 1, q.shape[2], dtype=q.dtype)
        for row, length in enumerate(self.lengths):
            first = self.image if self.image_first else 0
            hidden[row, ..., first + length : first + width] = -math.inf
        if mask is not None and not mask.dtype.is_floating_point:
            mask = None  # of real tokens, which `lengths` has
        out = softmax_attention(q, k, v, hidden if mask is None else hidden + mask)
        self.guide(out, place)
        return out

    def guide(self, out, place):
        """The image tokens `place` of all rows of a picture get one result."""
        for pos, negatives in self.groups:
            neg = mean([(out[row : row + 1, place], weight) for row, weight in negatives])
            z = out[pos : pos + 1, place].clone()
            own = slice(0, self.target)
            z[:, own] = guided(z[:, own].clone(), neg[:, own], self.strength)
            for row in (pos, *(row for row, _ in negatives)):
                out[row, place] = z[0]


@dataclass
class Parallel(Joint):
    """For Flux.2's single blocks, whose one projection makes q, k, v and the MLP's input."""

    def __call__(self, attn, hidden_states, attention_mask=None, image_rotary_emb=None, **kwargs):
        width = attn.inner_dim
        projected = attn.to_qkv_mlp_proj(hidden_states)
        q, k, v = (heads_of(projected[..., i * width : (i + 1) * width], attn) for i in range(3))
        q, k, _, _ = self.rotated(attn.norm_q(q), attn.norm_k(k), None, None, image_rotary_emb)
        gate, value = projected[..., 3 * width :].chunk(2, dim=-1)
        mlp = torch.nn.functional.silu(gate) * value
        return attn.to_out(torch.cat([self.attended(q, k, v, attention_mask), mlp], dim=-1))


@dataclass
class Prefix(Joint):
    """For a text that sees what stands before it in the text, and an image that sees all."""

    def __call__(self, attn, hidden_states, rotary_emb=None, segments=None, **kwargs):
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        q, k, v = (heads_of(one(hidden_states), attn) for one in (attn.to_q, attn.to_k, attn.to_v))
        q, k = (
            apply_rotary_emb_qwen(x.transpose(1, 2), rotary_emb, use_real=False).transpose(1, 2)
            for x in (attn.norm_q(q), attn.norm_k(k))
        )
        tokens = hidden_states.shape[1]
        text = tokens - self.image
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        later[text:, text:] = False
        hidden = torch.zeros(len(q), 1, tokens, tokens, dtype=q.dtype).masked_fill(later, -math.inf)
        for row, length in enumerate(self.lengths):
            hidden[row, :, text:, length:text] = -math.inf
        out = softmax_attention(q, k, v, hidden)
        self.guide(out, slice(text, None))
        return attn.to_out[0](out)


@dataclass
class Listed(Joint):
    """For [image, text] in one stream, where the model's mask knows each row's length."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None):
        q, k, v = (heads_of(one(hidden_states), attn) for one in (attn.to_q, attn.to_k, attn.to_v))
        q, k = (self.turned(x, freqs_cis) for x in (attn.norm_q(q), attn.norm_k(k)))
        bias = None
        if attention_mask is not None:
            bias = torch.zeros(attention_mask.shape, dtype=q.dtype).masked_fill(~attention_mask, -math.inf)
            bias = bias.reshape(len(q), 1, 1, -1)
        out = softmax_attention(q, k, v, bias)
        self.guide(out, slice(0, self.image))
        return attn.to_out[0](out)

    @staticmethod
    def turned(x, freqs):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs[:, None]).flatten(3).to(x.dtype)


def image_positions_of_the_prompts(model, groups):
    """Gives each negative's row the image positions of its prompt's: there is one image stream."""
    original = model.patchify_and_embed

    def laid_out(*args):
        made = list(original(*args))
        for pos, negatives in groups:
            for row, _ in negatives:
                made[3][row] = made[3][pos]
        return tuple(made)

    model.patchify_and_embed = laid_out
