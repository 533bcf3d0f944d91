"""NAG as one attention function over a joint sequence of text and image tokens (Flux, Chroma, SD3.5).

After NAG the image tokens are the same for both prompts, so the host's own blocks run once, on the negative's
text tokens beside the prompt's: every linear, norm and MLP is token-wise. Only the attention knows the
difference:

    text+ queries see [text+, image]      text- queries see [text-, image]
    image queries: z+ over [text+, image], z- over [text-, image], guided to one result

The image keys, nearly all of the work, are attended to once for both where a kernel returns its log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nag_core.attention.rows import Arrangement, Group
from nag_core.guidance import CHUNK
from nag_core.kernels import Rule
from nag_core.merge import Kernel, Part, merge

# The host's own attention: q, k, v (B, H, N, D) and a mask or None, to (B, N, H*D).
Plain = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a joint sequence are: [neg | pos | image], or [image | pos | neg] with
    `image_first`.

    Either way the prompt's tokens lie beside the image's, so that [pos, image] is one view of the sequence.
    `neg` is the width of the slot: a row with a shorter negative uses the first tokens of it. `pad`: the
    multiple that the model pads each text to.
    """

    neg: int
    pos: int
    image: int
    image_first: bool = False
    pad: int = 1

    @property
    def total(self) -> int:
        return self.neg + self.pos + self.image

    @property
    def pos_part(self) -> slice:
        first = self.image if self.image_first else self.neg
        return slice(first, first + self.pos)

    @property
    def image_part(self) -> slice:
        return slice(0, self.image) if self.image_first else slice(self.neg + self.pos, self.total)

    @property
    def unguided_part(self) -> slice:
        """Prompt and image: the sequence as it were without NAG."""
        return slice(0, self.image + self.pos) if self.image_first else slice(self.neg, self.total)

    @property
    def texts(self) -> tuple[slice, slice]:
        """The two texts' slots in the order they have in the sequence."""
        neg = self.neg_part(self.neg)
        return (self.pos_part, neg) if self.image_first else (neg, self.pos_part)

    def neg_part(self, tokens: int) -> slice:
        """What a negative of `tokens` tokens takes of its slot, from the front."""
        first = self.image + self.pos if self.image_first else 0
        return slice(first, first + -(-tokens // self.pad) * self.pad)


def joint_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    rows: Arrangement,
    plain: Plain,
    kernel: Kernel | None,
    rule: Rule,
    mask: Tensor | None = None,
) -> Tensor:
    """Guided attention of a joint sequence, (B, N, H*D) in the order and dtype of `q`.

    q, k, v: (B, H, N, D) of the whole sequence, rotated and normed by the host. rows: which of the B rows are
        guided. The others attend as without NAG, over prompt and image; what stands in their negative's slot
        attends to nothing, and nobody attends to it (zeros, never read).
    plain: the host's attention. kernel: one that returns a log-sum-exp; without one, or with a mask (additive
        or boolean, broadcastable to (B, H, N, N)), two calls of `plain` are made.
    """
    shape = (q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    slot = layout.neg_part(layout.neg)
    filled = rows.rest is None and all(layout.neg_part(_tokens(group)) == slot for group in rows.groups)
    out = q.new_empty(shape) if filled else q.new_zeros(shape)
    own = layout.unguided_part
    if rows.rest is not None:
        one = (x[:, :, own][rows.rest] for x in (q, k, v))
        out[rows.rest, own] = plain(*one, _square(_of_rows(mask, rows.rest), own))
    for group in rows.groups:
        # A view where the rows are consecutive, else a copy to be written back.
        part = out[group.index]
        tensors = [x[group.index] for x in (q, k, v)]
        if kernel is None or mask is not None:
            _two_calls(*tensors, layout, group, plain, rule, part, _of_rows(mask, group.index))
        else:
            _merged(*tensors, layout, group, kernel, rule, part)
        if not isinstance(group.index, slice):
            out[group.index] = part
    return out


def text_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, rows: Arrangement, plain: Plain
) -> Tensor:
    """Attention among the text tokens [neg | pos] alone, (B, N, H*D): each text sees itself, as it would in a
    call of its own. What no negative fills attends to nothing, and nobody attends to it (zeros).
    """
    out = q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    out[:, layout.pos_part] = plain(*(x[:, :, layout.pos_part] for x in (q, k, v)), None)
    for group in rows.groups:
        neg = layout.neg_part(_tokens(group))
        out[group.index, neg] = plain(*(x[group.index][:, :, neg] for x in (q, k, v)), None)
    return out


def _tokens(group: Group) -> int:
    return group.entries[0].tokens


def _merged(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, group: Group, kernel: Kernel, rule: Rule, out: Tensor
) -> None:
    """Writes the group's result to `out` by three partial attentions.

    The prompt's queries ride along in the third, unused: they are few, and leaving them out would take a
    copy.
    """
    own, pos, image = layout.unguided_part, layout.pos_part, layout.image_part
    neg = layout.neg_part(_tokens(group))
    to_image = kernel.run(q, k[:, :, image], v[:, :, image])
    to_pos = kernel.run(q[:, :, own], k[:, :, pos], v[:, :, pos])
    to_neg = kernel.run(q, k[:, :, neg], v[:, :, neg])
    fused = rule.fused(out)
    if fused is None:
        _merged_apart(to_image, to_pos, to_neg, layout, neg, rule, out)
        return
    spans = (pos.start, pos.stop, neg.start, neg.stop, own.start, own.stop)
    fused.merge_and_guide(to_image, to_pos, to_neg, out, spans, rule.strength, rule.method, rule.counter)


def _merged_apart(
    to_image: Part, to_pos: Part, to_neg: Part, layout: Layout, neg: slice, rule: Rule, out: Tensor
) -> None:
    """The fused kernel's twin: merges the parts, then guides, in pieces that bound the fp32 temporaries."""
    own, pos, image = layout.unguided_part, layout.pos_part, layout.image_part

    def in_own(part: slice) -> slice:
        return slice(part.start - own.start, part.stop - own.start)

    out[:, pos] = _merged_heads(to_image, pos, to_pos, in_own(pos))
    out[:, neg] = _merged_heads(to_image, neg, to_neg, neg)
    size = max(1, CHUNK // (out.shape[0] * out.shape[2]))
    for first in range(image.start, image.stop, size):
        part = slice(first, min(first + size, image.stop))
        z_pos = _merged_heads(to_image, part, to_pos, in_own(part))
        out[:, part] = rule.guide(z_pos, _merged_heads(to_image, part, to_neg, part), out.dtype)


def _merged_heads(one: Part, at: slice, other: Part, there: slice) -> Tensor:
    """The merge of the tokens `at` of one part and `there` of the other, (B, N, H*D) in at least fp32."""
    merged = merge(
        Part(one.out[:, :, at], one.lse[:, :, at]), Part(other.out[:, :, there], other.lse[:, :, there])
    )
    return merged.transpose(1, 2).flatten(2)


def _two_calls(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    group: Group,
    plain: Plain,
    rule: Rule,
    out: Tensor,
    mask: Tensor | None,
) -> None:
    """The same by the host's attention alone: once over prompt and image, once over negative and image."""
    own, image = layout.unguided_part, layout.image_part
    neg = layout.neg_part(_tokens(group))
    out[:, own] = plain(*(x[:, :, own] for x in (q, k, v)), _square(mask, own))
    both = [torch.cat((x[:, :, neg], x[:, :, image]), dim=2) for x in (q, k, v)]
    tokens = neg.stop - neg.start
    z_neg = plain(*both, _square(mask, neg, image))
    out[:, neg] = z_neg[:, :tokens]
    rule.guide_in_place(out[:, image], z_neg[:, tokens:])


def _of_rows(mask: Tensor | None, index: slice | Tensor) -> Tensor | None:
    """The mask of some rows; one that is the same for all rows stays."""
    return mask if mask is None or mask.dim() < 4 or mask.shape[0] == 1 else mask[index]


def _square(mask: Tensor | None, *parts: slice) -> Tensor | None:
    """The mask between the tokens of `parts`; a query dimension of size 1 stays."""
    if mask is None:
        return None
    columns = torch.cat([mask[..., part] for part in parts], dim=-1)
    if columns.shape[-2] == 1:
        return columns
    return torch.cat([columns[..., part, :] for part in parts], dim=-2)
