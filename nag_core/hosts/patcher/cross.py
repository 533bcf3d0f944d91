"""NAG on the cross-attention of DiTs without an attn2 hook (Wan, Anima), for the length of one model call.

The negative's keys and values are made once per pass, by the host's own projections. The host's attention
function is replaced while the call runs; it acts only within the cross-attention modules, which torch hooks
tell it of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.ldm_unet import split_heads
from nag_core.hosts.patcher.networks import CrossModel, replaced
from nag_core.hosts.patcher.provenance import marks_of
from nag_core.hosts.patcher.step import Step
from nag_core.hosts.patcher.wrapper import ApplyModel, reason, wrapped
from nag_core.method.cross import Layer
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement
from nag_core.passes.guiding import guide, rows_of


def patch_cross_call(model_options: dict, model: CrossModel, step: Step) -> dict:
    """A copy of `model_options` whose model calls run under NAG; the original is not touched."""

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        marks = marks_of(c.get("transformer_options"))
        rows = rows_of(step.session, step.batch, x.shape[0], marks, x.device)
        if rows is None:
            return apply(x, timestep, **c)
        try:
            picture = model.picture(x) if model.picture else None
        except Exception as error:  # ours: it must cost the guidance, not the picture
            step.session.off(reason(error), error)
            return apply(x, timestep, **c)
        video = x.dim() == 5 and x.shape[2] > 1
        size = None if video else tuple(x.shape[-2:])
        with ExitStack() as stack:
            _Call(model, step, size, rows, model.namespace[model.attribute], picture).enter(stack)
            return apply(x, timestep, **c)

    return wrapped(model_options, run)


@dataclass(slots=True)
class _Call:
    """The replaced attention of one model call."""

    model: CrossModel
    step: Step
    size: tuple[int, int] | None
    rows: Arrangement
    original: Any
    picture: tuple[int, int] | None = None  # the first of how many tokens; the rest are reference images'
    within: int | None = None  # the layer that runs now
    seen: int = 0  # its attention calls so far
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
        module, session = self.model.layers[number], self.step.session
        self.seen += 1
        if self.seen - 1 != self.model.text_call(module) or not session.chosen(("cross", number)):
            return out

        tokens, split = out.shape[1], self.model.heads_split
        own, total = self.picture or (tokens, tokens)
        if tokens != total:
            session.problem(f"an attention over {tokens} tokens, expected {total}; there it ran unguided")
            return out

        def attend(q: Tensor, k: Tensor, v: Tensor, _: Entry) -> Tensor:
            return self.original(q, k, v, heads, *args, **kwargs)

        layer = Layer(
            key=("cross", number), q=q.narrow(2 if split else 1, 0, own), attend=attend,
            project=lambda text: self._projected(module, text),
            weights=self.step.weights, token_dim=2 if split else 1, k=k,
            heads=(lambda x: x) if split else partial(split_heads, heads=heads),
        )  # fmt: skip
        guided = guide(session, out[:, :own], layer, self.rows, self.size, self.step.batch.tiled, of=total)
        return guided if own == total else torch.cat((guided, out[:, own:]), dim=1)

    def _projected(self, module: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.project(module, self._embed(context))

    def _embed(self, context: Tensor) -> Tensor:
        """Once per call and text, not once per layer; the texts themselves are kept for the pass."""
        if id(context) not in self.embedded:
            self.embedded[id(context)] = self.model.embed(context)
        return self.embedded[id(context)]
