"""The guided joint attention: one sequence of text and image tokens (Flux, Chroma, SD3.5, Qwen and others).

After NAG the image tokens are the same for both prompts, so the host's own blocks run once, on the negative's
text tokens beside the prompt's: every linear, norm and MLP is token-wise. Only the attention knows the
difference:

    text+ queries see [text+, image]      text- queries see [text-, image]
    image queries: z+ over [text+, image], z- over [text-, image], guided to one result
    queries of reference images, which are keys as all the image's: z+ alone

The image keys, nearly all of the work, are attended to once for both where a kernel returns its log-sum-exp.
Of several negatives each has its own keys and its own z-, and the image's part is shared by all of them;
their mean takes the place of z- in the rule, which is then computed without the fused kernel (it knows one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nag_core.method.fallback import Chain
from nag_core.method.focus import EVERYWHERE, NOWHERE, Focus
from nag_core.method.guidance import chunk
from nag_core.method.heat import HeatMap
from nag_core.method.layout import Layout
from nag_core.method.lse import log_sum_exp, together
from nag_core.method.lse_kernels import Kernel, lse_kernel
from nag_core.method.masks import asked, between, of_rows
from nag_core.method.merge import Part, merge
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule

# The host's own attention: q, k, v (B, H, N, D) and a mask or None, to (B, N, H*D).
Plain = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
Block = tuple[str, int]  # a block's kind and its number within its kind


class NotGuided(RuntimeError):  # noqa: N818 - a reason to repeat the call without NAG, not a fault of the host
    """The model call was not what NAG expects; it must be made again without it."""


@dataclass(slots=True)
class JointCall:
    """One model call: the guided attention of its blocks, and the check that every block went through it."""

    rows: Arrangement
    layout: Layout
    rule: Rule  # with a counter of its own, as `heat`: a call that must be made again must not have counted
    focus: Focus
    heat: HeatMap | None
    chosen: Callable[[Block], bool]  # whether a block is to be guided
    may_merge: bool  # whether kernels that return a log-sum-exp are tried
    path: str = ""  # how the last guided block attended, for the report
    refused: tuple[str, Exception] | None = None  # by a kernel: what is said, and why
    attended: int = 0
    entered: list[Block] = field(default_factory=list)  # the blocks that ran

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, plain: Plain, exact: bool, name: str, mask: Tensor | None
    ) -> Tensor:
        """Guided attention (B, N, H*D) of q, k, v (B, H, N, D).

        plain: the host's attention, called `name` in the report. exact: it is torch's own, so that its work
        may go to a kernel which returns a log-sum-exp.
        """
        focus = self.focus if all(map(self.chosen, self.entered[-1:])) else NOWHERE
        split = focus.guided and focus.spot is None and mask is None and self.may_merge
        kernel = lse_kernel(q) if exact and split else None
        given = (q, k, v, self.layout, self.rows, plain)
        try:
            out = joint_attention(*given, kernel, self.rule, mask, focus)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a kernel may pass its probe and refuse these shapes
            if kernel is None:
                raise
            self.may_merge, self.refused = False, (f"the {kernel.name} kernel refused these shapes", error)
            kernel, out = None, joint_attention(*given, None, self.rule, mask, focus)
        self.attended += 1
        if focus.guided:
            self.path = f"LSE merge ({kernel.name})" if kernel else f"two calls ({name})"
        return out

    def check(self) -> None:
        """`NotGuided` unless every block that ran came through `attention`.

        Otherwise some block saw the negative as a part of the prompt: that answer is worthless. Blocks that
        did not run are fine: the user skips them, or an extension (a block cache) answers for them.
        """
        if self.attended != len(self.entered):
            raise NotGuided(
                f"{self.attended} of {len(self.entered)} blocks attended as they are known to; "
                "this WebUI or an extension changed them"
            )


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
    out = q.new_empty(shape) if layout.filled(rows) else q.new_zeros(shape)
    own = layout.unguided_part
    if rows.rest is not None:
        one = (x[:, :, own][rows.rest] for x in (q, k, v))
        out[rows.rest, own] = plain(*one, between(of_rows(mask, rows.rest), (own,), (own,)))
    for group in rows.groups:
        # A view where the rows are consecutive, else a copy to be written back.
        part = out[group.index]
        guided = _Guided(*(x[group.index] for x in (q, k, v)), part, layout, group, rule, focus)
        if not focus.guided or focus.spot is not None or kernel is None or mask is not None:
            guided.by_calls(plain, of_rows(mask, group.index))
        else:
            guided.by_parts(kernel)
        if not isinstance(group.index, slice):
            out[group.index] = part
    return out


@dataclass(frozen=True, slots=True)
class _Guided:
    """One group's rows of a call; the result is written to `out` (B, N, H*D)."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    layout: Layout
    group: Group
    rule: Rule
    focus: Focus

    def by_parts(self, kernel: Kernel) -> None:
        """Three partial attentions, one more for each further negative, and their merge.

        The prompt's queries ride along in the last ones, unused: they are few, and leaving them out would
        take a copy.
        """
        q, layout = self.q, self.layout

        def over(keys: slice, q: Tensor = q) -> Part:
            return kernel.run(q, self.k[:, :, keys], self.v[:, :, keys])

        negs, bare = layout.neg_parts(self.group), layout.bare_parts(self.group)
        to_negs, alone = [over(neg) for neg in negs], None
        if self.rule.needs_lse and bare != negs:
            alone = [over(neg) for neg in bare]
        to_pos = over(layout.pos_part, q[:, :, layout.unguided_part])
        self.merge(over(layout.image_part), to_pos, to_negs, alone)

    def merge(
        self, to_image: Part, to_pos: Part, to_negs: list[Part], alone: list[Part] | None = None
    ) -> None:
        """Merges and guides these parts; the twin of the fused kernel, which it uses where it can.

        alone: over the negatives' keys without padding, for a rule that needs log-sum-exps.
        """
        rule, layout, own = self.rule, self.layout, self.layout.unguided_part
        pos, negs, references = layout.pos_part, layout.neg_parts(self.group), layout.reference_parts

        def z_pos(part: slice) -> Part:
            return _merged(to_image, part, to_pos, _within(part, own), rule.needs_lse)

        def z_negs(part: slice) -> Iterator[Part]:
            if rule.needs_lse:
                yield from (_heads_merged(to_neg, part) for to_neg in alone or to_negs)
            else:
                yield from (_merged(to_image, part, to_neg, part) for to_neg in to_negs)

        for part in references:
            self.out[:, part] = z_pos(part).out
        fused = rule.fused(self.out) if len(negs) == 1 and alone is None and not rule.inert else None
        if fused is not None:
            self._merge_fused(fused, to_image, to_pos, to_negs[0])
            if self.focus.note is not None:
                target = layout.target_part
                self.focus.note(self.group, z_pos(target).out, self.out[:, target])
            return
        self.out[:, pos] = z_pos(pos).out
        for neg, to_neg in zip(negs, to_negs, strict=True):
            self.out[:, neg] = _merged(to_image, neg, to_neg, neg).out
        self.finish(z_pos, z_negs, size=max(1, chunk(self.out.device) // self.out[:, 0].numel()))

    def _merge_fused(self, fused: Chain, to_image: Part, to_pos: Part, to_neg: Part) -> None:
        """By a kernel that knows no reference images: those behind the picture are kept from it, those in
        front of it are more of the prompt's queries to it.
        """
        layout, own, pos = self.layout, self.layout.unguided_part, self.layout.pos_part
        shown = slice(0, layout.total - layout.behind)
        to_image, to_neg = (Part(out[:, :, shown], lse[:, :, shown]) for out, lse in (to_image, to_neg))
        (neg,) = layout.neg_parts(self.group)
        spans = (
            pos.start, pos.stop + layout.before, neg.start, neg.stop, own.start, own.stop - layout.behind,
        )  # fmt: skip
        self.rule.merge_and_guide(fused, to_image, to_pos, to_neg, self.out[:, shown], spans)

    def by_calls(self, plain: Plain, mask: Tensor | None) -> None:
        """The same by the host's attention alone: once over prompt and image, once over each negative and
        image, for no more of the image's queries than are guided.
        """
        own, target, focus = self.layout.unguided_part, self.layout.target_part, self.focus
        self.out[:, own] = plain(
            *(x[:, :, own] for x in (self.q, self.k, self.v)), between(mask, (own,), (own,))
        )
        image_q = focus.queries(self.q[:, :, target], 2) if focus.guided else self.q[:, :, :0]
        negs = self.layout.neg_parts(self.group)
        if not focus.guided or self.rule.needs_lse:
            for neg in negs:
                self._call_over(neg, image_q[:, :, :0], plain, mask)
        if not focus.guided:
            return

        def z_pos(part: slice) -> Part:
            if not self.rule.needs_lse:
                return Part(self.out[:, part])
            seen = asked(between(mask, (part,), (own,)), 0, focus)
            return Part(self.out[:, part], log_sum_exp(image_q, self.k[:, :, own], seen))

        def z_negs(_: slice) -> Iterator[Part]:
            if self.rule.needs_lse:
                bare = self.layout.bare_parts(self.group)
                return (self._alone(neg, image_q, plain, mask) for neg in bare)
            return (self._call_over(neg, image_q, plain, mask) for neg in negs)

        self.finish(z_pos, z_negs, in_place=True)

    def _call_over(self, neg: slice, image_q: Tensor, plain: Plain, mask: Tensor | None) -> Part:
        """One negative's tokens written to `out`, and z- of the image's queries, over negative and image."""
        image, target, tokens = self.layout.image_part, self.layout.target_part, neg.stop - neg.start
        keys = [torch.cat((x[:, :, neg], x[:, :, image]), dim=2) for x in (self.k, self.v)]
        seen = between(mask, (neg, target), (neg, image))
        seen = asked(seen, tokens, self.focus if image_q.shape[2] else None)
        z = plain(torch.cat((self.q[:, :, neg], image_q), dim=2), *keys, seen)
        self.out[:, neg] = z[:, :tokens]
        return Part(z[:, tokens:])

    def _alone(self, neg: slice, image_q: Tensor, plain: Plain, mask: Tensor | None) -> Part:
        """z- of the image's queries over one negative's tokens alone."""
        k, v = (x[:, :, neg] for x in (self.k, self.v))
        seen = asked(between(mask, (self.layout.target_part,), (neg,)), 0, self.focus)
        return Part(plain(image_q, k, v, seen), log_sum_exp(image_q, k, seen))

    def finish(
        self,
        z_pos: Callable[[slice], Part],
        z_negs: Callable[[slice], Iterable[Part]],
        size: int = 0,
        in_place: bool = False,
    ) -> None:
        """The picture's tokens of `out`: z+ guided away from z-.

        size: so many of them at a time, to bound temporaries; 0 for all at once, as a heat map takes them.
        in_place: z+ stands there already.
        """
        target, focus = self.layout.target_part, self.focus
        weights = [weight for _, weight in self.group.entries[0].spans]
        step = size if size and focus.note is None else target.stop - target.start
        for first in range(target.start, target.stop, step):
            part = slice(first, min(first + step, target.stop))
            pos, neg = z_pos(part), together(z_negs(part), weights)
            focus.write(pos.out if in_place else self.out[:, part], pos, neg, self.rule, self.group)


def _within(part: slice, whole: slice) -> slice:
    """`part` counted from the beginning of `whole`."""
    return slice(part.start - whole.start, part.stop - whole.start)


def _merged(one: Part, at: slice, other: Part, there: slice, with_lse: bool = False) -> Part:
    """The merge of the tokens `at` of one part and `there` of the other, (B, N, H*D) in at least fp32."""
    parts = Part(one.out[:, :, at], one.lse[:, :, at]), Part(other.out[:, :, there], other.lse[:, :, there])
    lse = torch.logaddexp(parts[0].lse, parts[1].lse) if with_lse else None
    return Part(merge(*parts).transpose(1, 2).flatten(2), lse)


def _heads_merged(part: Part, at: slice) -> Part:
    return Part(part.out[:, :, at].transpose(1, 2).flatten(2), part.lse[:, :, at])
