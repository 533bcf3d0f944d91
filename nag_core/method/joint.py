"""NAG as one attention function over a joint sequence of text and image tokens (Flux, Chroma, SD3.5).

After NAG the image tokens are the same for both prompts, so the host's own blocks run once, on the negative's
text tokens beside the prompt's: every linear, norm and MLP is token-wise. Only the attention knows the
difference:

    text+ queries see [text+, image]      text- queries see [text-, image]
    image queries: z+ over [text+, image], z- over [text-, image], guided to one result

The image keys, nearly all of the work, are attended to once for both where a kernel returns its log-sum-exp.
Of several negatives each has its own keys and its own z-, and the image's part is shared by all of them;
their mean takes the place of z- in the rule, which is then computed without the fused kernel (it knows one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nag_core.method.focus import EVERYWHERE, Focus
from nag_core.method.guidance import average, chunk
from nag_core.method.merge import Kernel, Part, merge
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule

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

    def neg_parts(self, group: Group) -> list[slice]:
        """Where the group's negatives stand in their slot, one behind the other from its first token on."""
        spans = group.entries[0].spans
        if len(spans) == 1:
            return [self.neg_part(group.entries[0].tokens)]
        first = self.image + self.pos if self.image_first else 0
        return [slice(first + at.start, first + at.stop) for at, _ in spans]


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
    focus: Focus = EVERYWHERE,
) -> Tensor:
    """Guided attention of a joint sequence, (B, N, H*D) in the order and dtype of `q`.

    q, k, v: (B, H, N, D) of the whole sequence, rotated and normed by the host. rows: which of the B rows are
        guided. The others attend as without NAG, over prompt and image; what stands in their negative's slot
        attends to nothing, and nobody attends to it (zeros, never read).
    plain: the host's attention. kernel: one that returns a log-sum-exp; without one, or with a mask (additive
        or boolean, broadcastable to (B, H, N, N)), two calls of `plain` are made.
    focus: where its block is not guided, and outside its spot, prompt and image attend as without NAG, to the
        bit; the negatives' own tokens go on as ever.
    """
    shape = (q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
    out = q.new_empty(shape) if _filled(layout, rows) else q.new_zeros(shape)
    own = layout.unguided_part
    if rows.rest is not None:
        one = (x[:, :, own][rows.rest] for x in (q, k, v))
        out[rows.rest, own] = plain(*one, _square(_of_rows(mask, rows.rest), own))
    for group in rows.groups:
        # A view where the rows are consecutive, else a copy to be written back.
        part = out[group.index]
        tensors = [x[group.index] for x in (q, k, v)]
        if not focus.guided or focus.spot is not None or kernel is None or mask is not None:
            of_rows = _of_rows(mask, group.index)
            _two_calls(*tensors, layout, group, plain, rule, part, of_rows, focus)
        else:
            _merged(*tensors, layout, group, kernel, rule, part, focus)
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
        for neg in layout.neg_parts(group):
            out[group.index, neg] = plain(*(x[group.index][:, :, neg] for x in (q, k, v)), None)
    return out


def _filled(layout: Layout, rows: Arrangement) -> bool:
    """Whether every row is guided, by negatives that take the whole slot."""
    parts = (layout.neg_part(group.entries[0].tokens) for group in rows.groups)
    return rows.rest is None and all(part == layout.neg_part(layout.neg) for part in parts)


def _merged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    group: Group,
    kernel: Kernel,
    rule: Rule,
    out: Tensor,
    focus: Focus,
) -> None:
    """Writes the group's result to `out` by three partial attentions, one more for each further negative.

    The prompt's queries ride along in the last ones, unused: they are few, and leaving them out would take a
    copy.
    """
    own, pos, image = layout.unguided_part, layout.pos_part, layout.image_part
    negs = layout.neg_parts(group)
    to_image = kernel.run(q, k[:, :, image], v[:, :, image])
    to_pos = kernel.run(q[:, :, own], k[:, :, pos], v[:, :, pos])
    to_negs = [kernel.run(q, k[:, :, neg], v[:, :, neg]) for neg in negs]
    fused = rule.fused(out) if len(negs) == 1 else None
    if fused is None:
        weights = [weight for _, weight in group.entries[0].spans]
        _merged_apart(to_image, to_pos, to_negs, layout, negs, weights, rule, out)
    else:
        spans = (pos.start, pos.stop, negs[0].start, negs[0].stop, own.start, own.stop)
        fused.merge_and_guide(
            to_image, to_pos, to_negs[0], out, spans, rule.strength, rule.method, rule.counter
        )
    if focus.note is not None:
        focus.note(group, _merged_heads(to_image, image, to_pos, _within(image, own)), out[:, image])


def _merged_apart(
    to_image: Part,
    to_pos: Part,
    to_negs: list[Part],
    layout: Layout,
    negs: list[slice],
    weights: list[float],
    rule: Rule,
    out: Tensor,
) -> None:
    """The fused kernel's twin: merges the parts, then guides, in pieces that bound the fp32 temporaries."""
    own, pos, image = layout.unguided_part, layout.pos_part, layout.image_part
    out[:, pos] = _merged_heads(to_image, pos, to_pos, _within(pos, own))
    for neg, to_neg in zip(negs, to_negs, strict=True):
        out[:, neg] = _merged_heads(to_image, neg, to_neg, neg)
    size = max(1, chunk(out.device) // (out.shape[0] * out.shape[2]))
    for first in range(image.start, image.stop, size):
        part = slice(first, min(first + size, image.stop))
        z_pos = _merged_heads(to_image, part, to_pos, _within(part, own))
        z_neg = average((_merged_heads(to_image, part, to_neg, part) for to_neg in to_negs), weights)
        out[:, part] = rule.guide(z_pos, z_neg, out.dtype)


def _within(part: slice, whole: slice) -> slice:
    """`part` counted from the beginning of `whole`."""
    return slice(part.start - whole.start, part.stop - whole.start)


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
    focus: Focus,
) -> None:
    """The same by the host's attention alone: once over prompt and image, once over each negative and image,
    for no more of the image's queries than are guided.
    """
    own, image = layout.unguided_part, layout.image_part
    out[:, own] = plain(*(x[:, :, own] for x in (q, k, v)), _square(mask, own))
    image_q = focus.queries(q[:, :, image], 2) if focus.guided else q[:, :, :0]

    def negative_outputs() -> Iterator[Tensor]:
        for neg in layout.neg_parts(group):
            tokens = neg.stop - neg.start
            keys = [torch.cat((x[:, :, neg], x[:, :, image]), dim=2) for x in (k, v)]
            between = _rows_of(_square(mask, neg, image), tokens, image_q.shape[2], focus)
            z_neg = plain(torch.cat((q[:, :, neg], image_q), dim=2), *keys, between)
            out[:, neg] = z_neg[:, :tokens]
            yield z_neg[:, tokens:]

    mean = average(negative_outputs(), [weight for _, weight in group.entries[0].spans])
    if focus.guided:
        focus.write(out[:, image], mean, rule, group)


def _rows_of(square: Tensor | None, text: int, image: int, focus: Focus) -> Tensor | None:
    """Of a mask between [text, image] the rows of those who ask: the text and `image` image tokens."""
    if square is None or square.shape[-2] == 1 or square.shape[-2] == text + image:
        return square
    asked = range(text)
    spot = [] if focus.spot is None or not focus.guided else (focus.spot.index + text).tolist()
    return square[..., [*asked, *spot], :]


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
