"""What every joint model call under NAG shares, on any host: the widened text, the guided attention
of its blocks, and the check that every block went through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nag_core.method.focus import EVERYWHERE, NOWHERE, Focus
from nag_core.method.heat import HeatMap
from nag_core.method.joint import Layout, Plain, joint_attention
from nag_core.method.merge import Kernel, lse_kernel
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement
from nag_core.method.rule import Rule
from nag_core.passes.session import Session


class NotGuided(RuntimeError):  # noqa: N818 - a reason to repeat the call without NAG, not a fault of the host
    """The model call was not what NAG expects; it must be made again without it."""


def slot_width(rows: Arrangement) -> int:
    """Tokens of the longest negative among the call's rows."""
    return max(group.entries[0].tokens for group in rows.groups)


def with_negative(
    context: Tensor, rows: Arrangement, width: int, session: Session, image_first: bool = False
) -> Tensor:
    """`context` (B, T, C) with the negatives in front (behind with `image_first`), (B, width + T, C).

    A negative that is shorter is repeated to `width`, an unguided row gets the first negative: nobody attends
    to either. Real tokens and no zeros, so that layers which scale by their largest input see usual values.
    """
    slot = context.new_empty(context.shape[0], width, context.shape[2])
    slot[:] = _filled(rows.groups[0].entries[0], width, context, session)
    for group in rows.groups:
        slot[group.index] = torch.stack([_filled(one, width, context, session) for one in group.entries])
    return torch.cat((context, slot) if image_first else (slot, context), dim=1)


def _filled(entry: Entry, width: int, like: Tensor, session: Session) -> Tensor:
    tokens = session.cache.context(entry, like)[0]
    return tokens if len(tokens) == width else tokens[torch.arange(width, device=like.device) % len(tokens)]


@dataclass(slots=True)
class JointCall:
    """One model call. `rule` has a counter of its own, and so has `heat`: a call that must be made again must
    not have counted.

    focus: which image tokens are guided. entered: the blocks that ran, (kind, number) each; attended: how
        many attentions came through `guided_attention`.
    """

    session: Session
    rows: Arrangement
    layout: Layout
    rule: Rule
    focus: Focus = EVERYWHERE
    heat: HeatMap | None = None
    attended: int = 0
    entered: list[tuple[str, int]] = field(default_factory=list)

    def guided_attention(
        self, q: Tensor, k: Tensor, v: Tensor, plain: Plain, exact: bool, name: str, mask: Tensor | None
    ) -> Tensor:
        """Guided attention (B, N, H*D) of q, k, v (B, H, N, D).

        plain: the host's attention, called `name` in the report. exact: it is torch's own, so that its work
        may go to a kernel which returns a log-sum-exp.
        """
        focus = self.focus if self._chosen(*self.entered[-1:]) else NOWHERE
        split = focus.guided and focus.spot is None and mask is None and not self.session.two_calls
        kernel = lse_kernel(q) if exact and split else None
        try:
            out = self._attended(q, k, v, plain, kernel, mask, focus)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a kernel may pass its probe and refuse these shapes
            if kernel is None:
                raise
            self.session.two_calls = True
            self.session.problem(f"the {kernel.name} kernel refused these shapes", error)
            kernel, out = None, self._attended(q, k, v, plain, None, mask, focus)
        self.attended += 1
        if focus.guided:
            self.session.attention_name = f"LSE merge ({kernel.name})" if kernel else f"two calls ({name})"
        return out

    def _chosen(self, block: tuple[str, int] | None = None) -> bool:
        """Whether this block is to be guided."""
        return self.session.blocks is None or block in self.session.blocks

    def _attended(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plain: Plain,
        kernel: Kernel | None,
        mask: Tensor | None,
        focus: Focus,
    ) -> Tensor:
        return joint_attention(q, k, v, self.layout, self.rows, plain, kernel, self.rule, mask, focus)

    def hand_over(self) -> None:
        """Hands the counts to the session, if every block that ran went through `guided_attention`.

        Otherwise some block saw the negative as a part of the prompt: that answer is worthless. Blocks that
        did not run are fine: the user skips them, or an extension (a block cache) answers for them.
        """
        if self.attended != len(self.entered):
            raise NotGuided(
                f"{self.attended} of {len(self.entered)} blocks attended as they are known to; "
                "this WebUI or an extension changed them"
            )
        images = sum(len(group.entries) for group in self.rows.groups)
        spot = self.focus.spot
        tokens = images * (self.layout.image if spot is None else len(spot.index))
        for kind, number in self.entered:
            if self._chosen((kind, number)):
                self.session.count((kind, number), tokens, kind)
        self.session.rule(self.rule.counter.device).counter.add_(self.rule.counter)
        if self.heat is not None:
            self.session.heat.add(self.heat)
