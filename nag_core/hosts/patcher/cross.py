"""NAG on the cross-attention of DiTs without an attn2 hook (Wan, Anima), for the length of one model call.

As in cross.py the queries are shared and the negative's keys and values are made once per pass, by the host's
own projections. The host's attention function is replaced while the call runs; it acts only within the
cross-attention modules, which torch hooks tell it of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.hosts.patcher.joint_model import replaced
from nag_core.hosts.patcher.unet import Call, guide_arranged
from nag_core.hosts.patcher.wrapper import ApplyModel, wrapped
from nag_core.method.focus import Focus
from nag_core.method.guidance import average
from nag_core.method.rows import Arrangement, Batch, Group
from nag_core.passes.session import Session

Project = Callable[[Tensor], Tensor]


class Projections(NamedTuple):
    """A layer's keys and values of a context (1, tokens, channels), in the shape its attention takes them."""

    to_k: Project
    to_v: Project


@dataclass(frozen=True, slots=True)
class CrossModel:
    """One loaded network.

    layers: its cross-attention modules in the order they run. text_call: which of the attention calls in
        such a module is the one over the text (Wan I2V has one over an image before it).
    projections: of a layer, given how the network embeds the text. embed: that, (1, tokens, channels) to the
        layers' context.
    namespace, attribute, heads_split: as in `JointModel`.
    """

    layers: tuple[nn.Module, ...]
    text_call: Callable[[nn.Module], int]
    projections: Callable[[nn.Module, Project], Projections]
    embed: Project
    namespace: dict[str, Any]
    attribute: str
    heads_split: bool


def patch_cross_call(
    model_options: dict, model: CrossModel, session: Session, batch: Batch, weights: Hashable
) -> dict:
    """A copy of `model_options` whose model calls run under NAG; the original is not touched. weights: the
    identity of the patched weights.
    """

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        rows = None
        if not session.closed:
            rows = batch.arrangement(x.shape[0], c["transformer_options"]["cond_or_uncond"], x.device)
            if rows is None:
                session.problem("a batch layout nobody knows; there the model ran unguided")
        if rows is None or not rows.groups:
            return apply(x, timestep, **c)
        video = x.dim() == 5 and x.shape[2] > 1
        shared = Call(session, batch, weights, None if video else tuple(x.shape[-2:]))
        call = _Call(model, shared, rows, model.namespace[model.attribute])
        with ExitStack() as stack:
            call.enter(stack)
            return apply(x, timestep, **c)

    return wrapped(model_options, run)


@dataclass(slots=True)
class _Call:
    """The replaced attention of one model call. `within`: the layer that runs now; `seen`: its attention
    calls so far.
    """

    model: CrossModel
    call: Call
    rows: Arrangement
    original: Any
    within: int | None = None
    seen: int = 0
    embedded: dict[int, Tensor] = field(default_factory=dict)

    def enter(self, stack: ExitStack) -> None:
        """Everything in place until `stack` closes."""
        for number, layer in enumerate(self.model.layers):
            stack.callback(layer.register_forward_pre_hook(self._entering(number)).remove)
            stack.callback(layer.register_forward_hook(self._leaving, always_call=True).remove)
        stack.enter_context(replaced(self.model.namespace, self.model.attribute, self.attention))

    def _entering(self, number: int) -> Callable[..., None]:
        def entering(*_: Any) -> None:
            self.within, self.seen = number, 0

        return entering

    def _leaving(self, *_: Any) -> None:
        self.within = None

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        """In the host's place: guided in the text call of a cross-attention, the host's own elsewhere."""
        out = self.original(q, k, v, heads, *args, **kwargs)
        number = self.within
        if number is None:
            return out
        layer, session = self.model.layers[number], self.call.session
        self.seen += 1
        if self.seen - 1 != self.model.text_call(layer) or session.closed:
            return out
        if session.blocks is not None and ("cross", number) not in session.blocks:
            return out
        try:
            self._guide(out, q, number, heads, *args, **kwargs)
        except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
            session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)
        return out

    def _guide(self, out: Tensor, q: Tensor, number: int, heads: int, *args: Any, **kwargs: Any) -> None:
        """The conditional rows of `out` (B, N, C) guided in place; it is the host attention's own tensor."""
        dim = 2 if self.model.heads_split else 1

        def attend(group: Group, focus: Focus) -> Tensor:
            k, v = self._negative(group, q, number)
            queries = focus.queries(q[group.index], dim)
            spans = group.entries[0].spans
            parts = (
                [x.narrow(dim, at.start, at.stop - at.start) for x in (k, v)] if len(spans) > 1 else [k, v]
                for at, _ in spans
            )
            outs = (self.original(queries, *part, heads, *args, **kwargs) for part in parts)
            return average(outs, [weight for _, weight in spans])

        guide_arranged(out, self.rows, ("cross", number), self.call, attend, may_write=True)

    def _negative(self, group: Group, q: Tensor, number: int) -> tuple[Tensor, Tensor]:
        projections = self.model.projections(self.model.layers[number], self._embed)
        return self.call.session.cache.get(number, projections, group.entries, q, self.call.weights)

    def _embed(self, context: Tensor) -> Tensor:
        """Once per call and text, not once per layer; the texts themselves are kept for the pass."""
        if id(context) not in self.embedded:
            self.embedded[id(context)] = self.model.embed(context)
        return self.embedded[id(context)]
