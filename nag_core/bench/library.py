"""Models in the bench as the diffusers library runs them: its own processors, masks and padded texts, and NAG
through the hooks of `nag_core.applied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.published import published_nag
from nag_core.hosts.diffusers.families import CROSS, family_of
from nag_core.hosts.diffusers.network import Arrived, Network
from nag_core.hosts.diffusers.prompts import entry, static
from nag_core.method.guidance import Method
from nag_core.method.negative import Entry
from nag_core.method.rows import Batch
from nag_core.passes.plan import Plan, Progress
from nag_core.passes.session import Session
from nag_core.settings.presets import Strength

F = nn.functional

# Real tokens of prompt and negative; what is behind them up to the model's text length is padding.
REAL = 24


class Source:
    """Guides the one row of every call."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.batch = Batch(session.negative.at(0))

    def arrived(self, context: Tensor | None) -> Arrived:
        return Arrived(self.session, self.batch, (0,))

    def failed(self, reason: str, error: BaseException | None = None) -> None:
        raise RuntimeError(f"NAG stood aside: {reason}") from error


class Official:
    """A processor in the published style: both texts at full length, which the model embeds and the layer
    projects in every step.
    """

    def __init__(self, case: LibraryCase) -> None:
        self.case = case

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        q = attn.to_q(hidden_states)
        both = encoder_hidden_states.reshape(2, -1, encoder_hidden_states.shape[-1])
        k, v = attn.to_k(both), attn.to_v(both)
        if getattr(attn, "norm_q", None) is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        bias = self.case.bias
        outs = [
            F.scaled_dot_product_attention(q, k[i : i + 1], v[i : i + 1], attn_mask=bias) for i in range(2)
        ]
        pos, neg = (out.transpose(1, 2).flatten(2) for out in outs)
        return attn.to_out[0](published_nag(pos, neg, *self.case.strength))


class LibraryCase:
    """One model. `call(network, context, mask, rows)` runs a step. pads: "masked" by a mask of the texts,
    "zeros", or "" where all tokens are real.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Callable[..., Any],
        context: Tensor,
        strength: Strength,
        pads: str,
    ) -> None:
        self.network, self.call = network, call
        self.strength = (strength.phi, strength.tau, strength.alpha)
        self.family = family_of(network)
        self.texts = torch.cat([context, torch.randn_like(context)])
        mask = torch.zeros(2, context.shape[1], device=context.device, dtype=context.dtype)
        mask[:, : REAL if pads else None] = 1
        if pads == "zeros":
            self.texts = self.texts * mask[:, :, None]
        self.pads, self.mask = pads, mask if pads == "masked" else None
        self.bias = (1 - mask[:1, None, None]) * -10000.0 if pads == "masked" else None

    def _plain(self, rows: int = 1, texts: int | None = None) -> Callable[[], Any]:
        texts = texts or rows
        mask = None if self.mask is None else self.mask[:texts]
        return lambda: self.call(self.network, self.texts[:texts], mask, rows)

    def _session(self) -> Session:
        plan = Plan(strength=Strength(*self.strength), method=Method.NAG, progress=lambda: Progress(0, 1))
        return Session(plan, static([self._entry()]))

    def _entry(self) -> Entry:
        text, mask = self.texts[1], None if self.mask is None else self.mask[1]
        if not text.is_meta or not self.pads:
            return entry(self.family, text, mask)
        # Nothing can be compared there, so what comes of it is said.
        return Entry(text[:REAL]) if mask is not None else Entry(text[: REAL + 1], len(text) - REAL)

    @contextmanager
    def _guided(self, session: Session) -> Iterator[None]:
        network = Network(self.network, Source(session))
        try:
            yield
        finally:
            network.remove()
        if session.problems:
            raise RuntimeError(f"NAG stood aside: {'; '.join(session.problems)}")

    def _ours(self, first: bool = False) -> Callable[[], Any]:
        """A step of a pass of its own; of a new pass each time with `first`."""
        session, plain = self._session(), self._plain()

        def step() -> Any:
            nonlocal session
            if first:
                session = self._session()
            with self._guided(session):
                return plain()

        return step

    def _official(self) -> Callable[[], Any]:
        plain, processor = self._plain(texts=2), Official(self)
        layers = list(self.family.layers(self.network))

        def step() -> Any:
            before = [layer.processor for layer in layers]
            try:
                for layer in layers:
                    layer.processor = processor
                return plain()
            finally:
                for layer, own in zip(layers, before, strict=True):
                    layer.processor = own

        return step

    def steps(self) -> dict[str, Callable[[], Any]]:
        """The step of every variant."""
        steps = {
            "baseline": self._plain(),
            "baseline again": self._plain(),
            "cfg": self._plain(2),
            "ours": self._ours(),
            # The one that projects the negative for all the others.
            "first": self._ours(first=True),
        }
        # What is published for joint models replaces whole blocks; the networks of torch alone have it.
        return steps | {"official": self._official()} if self.family.mechanism == CROSS else steps
