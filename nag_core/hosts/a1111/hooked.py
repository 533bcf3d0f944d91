"""NAG on the cross-attention modules of an LDM UNet by torch hooks (AUTOMATIC1111's WebUI, no UNet patcher).

The host's attention runs as it is, whatever optimisation the user chose. One hook takes the queries from
`to_q`, another guides what `to_out` is about to project; where NegPiP put a forward of its own, within that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nag_core.hosts.foreign import replaced_forward
from nag_core.hosts.ldm_unet import LayerKey, cross_attention_layers, split_heads
from nag_core.hosts.replaced import Replaced, left_alone
from nag_core.method.cross import Layer
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement, Batch
from nag_core.passes.guiding import guide
from nag_core.passes.session import Session


class Step(NamedTuple):
    """One denoiser call: its pass, its images, and the identity of the patched weights."""

    session: Session
    batch: Batch
    weights: Hashable


@dataclass(slots=True)
class HookedCall:
    """One denoiser call: the network runs once for all rows, or for consecutive parts of them."""

    step: Step
    images: Sequence[int | None]  # for each row of the denoiser call the image it draws, None for the uncond
    project: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]  # a layer's keys and values of a text
    done: int = 0
    part: Sequence[int | None] = ()  # of `images`, what the network runs for now; empty where nobody knows
    arrangement: Arrangement | None = None
    size: tuple[int, int] | None = None  # of the latent
    taken: dict[nn.Module, Tensor] = field(default_factory=dict)  # what to_q (and to_k) of the layers gave

    def enter(self, stack: ExitStack, network: nn.Module) -> None:
        """Hooks in place until `stack` closes."""
        session = self.step.session
        stack.callback(network.register_forward_pre_hook(self._begin).remove)
        stack.callback(network.register_forward_hook(self._end, always_call=True).remove)
        chosen = {k: one for k, one in cross_attention_layers(network).items() if session.chosen(k[:2])}
        forwards = {key: replaced_forward(layer) for key, layer in chosen.items()}
        others = left_alone(session, forwards)
        for key, layer in chosen.items():
            if key in others:
                continue
            if forwards[key]:  # NegPiP's
                Replaced(key, layer, session, self.step.weights, self._rows, lambda: self.size).enter(stack)
                continue
            for projection in (layer.to_q, layer.to_k) if session.plan.method.needs_lse else (layer.to_q,):
                stack.callback(projection.register_forward_hook(self._take).remove)
            stack.callback(layer.to_out[0].register_forward_pre_hook(partial(self._guide, key, layer)).remove)

    def _begin(self, _: nn.Module, arguments: tuple) -> None:
        """Which rows these are: the host goes through them in order. Anything else is nobody's guess.

        What comes behind all of them is another extension's call. Only one of all rows is taken for another
        round of the host's: SAG's has the uncond's alone.
        """
        rows = arguments[0].shape[0]
        if self.done == rows == len(self.images):
            self.done = 0
        is_further = self.done >= len(self.images)
        part = [None] * rows if is_further else self.images[self.done : self.done + rows]
        self.done, self.size = self.done + rows, tuple(arguments[0].shape[-2:])
        self.arrangement, self.part = None, part if len(part) == rows else ()
        if is_further:
            self.step.session.remark("another extension's own call of the model is left unguided")
        elif len(part) < rows:
            self.step.session.problem("a batch layout nobody knows; there the attention ran unguided")
        elif any(image is not None for image in part):
            self.arrangement = self.step.batch.of_images(part, arguments[0].device)

    def _rows(self, total: int, part: slice, device: torch.device) -> Arrangement | None:
        return self.step.batch.of_images(self.part[part], device) if len(self.part) == total else None

    def _end(self, *_: object) -> None:
        self.arrangement = None
        self.taken.clear()

    def _take(self, projection: nn.Module, _: tuple, made: Tensor) -> None:
        if self.arrangement is not None:
            self.taken[projection] = made

    def _guide(self, key: LayerKey, layer: nn.Module, _: nn.Module, arguments: tuple) -> None:
        q, k = (self.taken.pop(projection, None) for projection in (layer.to_q, layer.to_k))
        session = self.step.session
        if q is None:
            return

        def attend(q: Tensor, k: Tensor, v: Tensor, _: Entry) -> Tensor:
            return session.plan.attention(q, k, v, {"n_heads": layer.heads})

        guided = Layer(
            key=key, q=q, attend=attend, project=partial(self.project, layer), weights=self.step.weights,
            k=k, heads=lambda x: split_heads(x, layer.heads),
        )  # fmt: skip
        guide(session, arguments[0], guided, self.arrangement, self.size)
