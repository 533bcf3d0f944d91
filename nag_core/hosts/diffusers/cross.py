"""A model call under NAG in cross-attention: UNets, PixArt, SANA, Wan."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.keys import weighted_keys, with_last_repeated
from nag_core.hosts.diffusers.processors import Attention
from nag_core.method.cross import Layer
from nag_core.method.negative import Entry
from nag_core.passes.guiding import guide, rows_of

# Wan I2V takes the last 512 tokens of its context for the text, whatever is before (transformer_wan.py).
WAN_TEXT = 512


class _TakenError(Exception):
    """Ends a processor that was asked for K and V alone."""


@dataclass(slots=True)
class _Running:
    """A processor at work."""

    attn: nn.Module
    code: Callable[..., Any]
    processor: Any
    query: Tensor
    context: Any
    seen: int = 0  # attention calls it has made
    taken: list[tuple[Tensor, Tensor]] | None = None  # K and V, where asked for

    @property
    def with_image(self) -> bool:
        """Whether it attends to an image before the text (Wan's I2V)."""
        return getattr(self.attn, "add_k_proj", None) is not None

    @property
    def is_text(self) -> bool:
        """Whether the attention call under way is over the text. Beside it there may be ones over image
        prompts: before it in Wan's I2V, behind it in IP-Adapter's processors.
        """
        return self.seen == self.with_image + 1


@dataclass(slots=True)
class CrossCall:
    """One call of `network`."""

    network: Hooked
    arrived: Arrived
    embedded: dict[int, Tensor]  # the negatives as attention gets them, by their context
    running: list[_Running] = field(default_factory=list)

    def arguments(self, given: dict[str, Any]) -> None:
        """None: the model is called as it was going to be."""

    def entering(self, layer: Hashable) -> None:
        """Layers are counted where they are guided."""

    def finish(self) -> str:
        return ""

    def around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        query = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
        self.running.append(_Running(attn, code, processor, query, context))
        try:
            return code(processor, attn, *args, **kwargs)
        finally:
            self.running.pop()

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        running = self.running[-1] if self.running else None
        if running is None:
            return attention.plain(q, k, v, mask)
        running.seen += 1
        if running.taken is not None:
            if running.is_text:
                running.taken.append((k, v))
                raise _TakenError  # what follows is for all queries: an image prompt's mask
            return q  # of the right shape; nobody reads it
        chosen = self.arrived.session.chosen(self.network.blocks.get(running.attn))
        if not running.is_text or not chosen:
            return attention.plain(q, k, v, mask)
        return self._guided(running, attention, q, k, v, mask)

    def _guided(
        self, running: _Running, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        session, dim = self.arrived.session, attention.token_dim
        pos = attention.merged(attention.plain(q, k, v, mask))
        layer = Layer(
            key=self.network.layers[running.attn], q=q, weights=id(self.network.model), token_dim=dim,
            attend=lambda q, k, v, entry: _attended(attention, q, k, v, entry),
            project=lambda text: self._keys_and_values(running, text, dim),
            heads=attention.swapped, k=k, mask=mask, path=attention.name,
        )  # fmt: skip
        rows = rows_of(session, self.arrived.batch, len(pos), self.arrived.marks, pos.device, "attention")
        return attention.split(guide(session, pos, layer, rows), q.shape[3 - dim])

    def _keys_and_values(self, running: _Running, context: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """K and V of a negative (1, tokens, channels), from the processor's own code: with one query, stopped
        at its attention. So fused projections, norms and adapters need nothing.
        """
        text = self._embedded(context)
        if text.shape[1] <= WAN_TEXT or not running.with_image:
            return self._projected(running, text, dim)
        each = [self._projected(running, one, dim) for one in text.split(WAN_TEXT, dim=1)]
        return torch.cat([k for k, _ in each], dim), torch.cat([v for _, v in each], dim)

    def _projected(self, running: _Running, text: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The same of an embedded text, which for Wan's I2V is one negative's."""
        tokens = text.shape[1]
        if running.with_image:
            # The pads are there once; they are equal, so any number of them is made from that one.
            text = with_last_repeated(text, WAN_TEXT - tokens + 1, 1)
            text = torch.cat([running.context[:1, :-WAN_TEXT], text], dim=1)
        elif isinstance(running.context, tuple):  # the UNet's text and its image prompts
            text = (text, [one[:1] for one in running.context[1]])
        asked = _Running(running.attn, running.code, running.processor, running.query, text, taken=[])
        self.running.append(asked)
        try:
            running.code(running.processor, running.attn, running.query[:1, :1], encoder_hidden_states=text)
        except _TakenError:
            pass
        finally:
            self.running.pop()
        ((k, v),) = asked.taken
        return k.narrow(dim, 0, tokens).clone(), v.narrow(dim, 0, tokens).clone()

    def _embedded(self, context: Tensor) -> Tensor:
        # By identity: the session's cache holds the context for as long as this. A view of it, which nobody
        # holds, would leave its id to another one.
        if id(context) not in self.embedded:
            self.embedded[id(context)] = self.network.family.embed(self.network.model, context)
        return self.embedded[id(context)]


def _attended(attention: Attention, q: Tensor, k: Tensor, v: Tensor, entry: Entry) -> Tensor:
    """z- (rows, tokens, channels); what the negative's last token stands for counts."""
    dim, bias = attention.token_dim, None
    if attention.is_sdpa:
        k, v, bias = weighted_keys(k, v, entry.repeats, dim)
    else:  # another backend may take no bias
        k, v = (with_last_repeated(x, entry.repeats, dim) for x in (k, v))
    return attention.merged(attention.plain(q, k, v, bias))


def opened(network: Hooked, arrived: Arrived, given: dict[str, Any]) -> CrossCall:
    """The call that is about to be made."""
    # In the session's cache, so that the negative is embedded once in a pass, and not in every call.
    return CrossCall(network, arrived, arrived.session.cache.embedded.setdefault(id(network.model), {}))
