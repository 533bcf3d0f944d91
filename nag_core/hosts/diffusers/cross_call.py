"""A model call under NAG in cross-attention: UNets, PixArt, SANA, Wan."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.keys import weighted_keys, with_last_repeated
from nag_core.hosts.diffusers.processors import Attention
from nag_core.hosts.patcher.unet import Call, guided_rows
from nag_core.method.focus import Focus
from nag_core.method.guidance import average
from nag_core.method.rows import Group

# Wan I2V takes the last 512 tokens of its context for the text, whatever is before (transformer_wan.py).
WAN_TEXT = 512


@dataclass(slots=True)
class _Running:
    """A processor at work. `seen`: attention calls it has made; `taken`: K and V, where asked for."""

    attn: nn.Module
    code: Callable[..., Any]
    processor: Any
    query: Tensor
    context: Any
    seen: int = 0
    taken: list[tuple[Tensor, Tensor]] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the attention call under way is over the text. Beside it there may be ones over image
        prompts: before it in Wan's I2V, behind it in IP-Adapter's processors.
        """
        before = 1 if getattr(self.attn, "add_k_proj", None) is not None else 0
        return self.seen == before + 1


@dataclass(slots=True)
class CrossCall:
    """`network`: the hooked model. `embedded`: the negatives as attention gets them, by their context."""

    network: Hooked
    call: Call
    marks: tuple[int, ...]
    embedded: dict[int, Tensor]
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
            return q  # of the right shape; nobody reads it
        if not running.is_text or not self._chosen(running.attn):
            return attention.plain(q, k, v, mask)
        return self._guided(running, attention, q, k, v, mask)

    def _chosen(self, attn: nn.Module) -> bool:
        blocks = self.call.session.blocks
        return blocks is None or self.network.blocks.get(attn) in blocks

    def _guided(
        self, running: _Running, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        pos = attention.merged(attention.plain(q, k, v, mask))
        key = self.network.layers[running.attn]
        self.call.session.attention_name = attention.name

        def attend(group: Group, focus: Focus) -> Tensor:
            return focus.queries(self._negative(running, attention, q, group, key))

        heads = q.shape[3 - attention.token_dim]
        return attention.split(guided_rows(pos, self.marks, key, self.call, attend), heads)

    def _negative(
        self, running: _Running, attention: Attention, q: Tensor, group: Group, key: Hashable
    ) -> Tensor:
        """z- of the group's rows, merged heads; of several negatives the mean."""

        def project(_attn: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
            return self._keys_and_values(running, context, attention.token_dim)

        call, entry, dim = self.call, group.entries[0], attention.token_dim
        k, v = call.session.cache.get(key, running.attn, group.entries, q, call.weights, project)
        queries = q[group.index]

        def outputs() -> Iterator[Tensor]:
            for at, _ in entry.spans:
                keys = [x.narrow(dim, at.start, at.stop - at.start) for x in (k, v)]
                yield self._attended(attention, queries, *keys, entry.repeats)

        return average(outputs(), [weight for _, weight in entry.spans])

    @staticmethod
    def _attended(attention: Attention, q: Tensor, k: Tensor, v: Tensor, repeats: int) -> Tensor:
        dim = attention.token_dim
        if attention.is_sdpa:
            k, v, bias = weighted_keys(k, v, repeats, dim)
        else:  # another backend may take no bias
            k, v, bias = with_last_repeated(k, repeats, dim), with_last_repeated(v, repeats, dim), None
        return attention.merged(attention.plain(q, k, v, bias))

    def _keys_and_values(self, running: _Running, context: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """K and V of a negative (1, tokens, channels), from the processor's own code: with one query, stopped
        at its attention. So fused projections, norms and adapters need nothing.
        """
        if context.shape[1] > WAN_TEXT and getattr(running.attn, "add_k_proj", None) is not None:
            each = [self._keys_and_values(running, one, dim) for one in context.split(WAN_TEXT, dim=1)]
            return torch.cat([k for k, _ in each], dim), torch.cat([v for _, v in each], dim)
        text = self._embedded(context)
        tokens = text.shape[1]
        if getattr(running.attn, "add_k_proj", None) is not None:
            # The pads are there once; they are equal, so any number of them is made from that one.
            text = with_last_repeated(text, WAN_TEXT - tokens + 1, 1)
            text = torch.cat([running.context[:1, :-WAN_TEXT], text], dim=1)
        elif isinstance(running.context, tuple):  # the UNet's text and its image prompts
            text = (text, [one[:1] for one in running.context[1]])
        asked = _Running(running.attn, running.code, running.processor, running.query, text, taken=[])
        self.running.append(asked)
        try:
            running.code(running.processor, running.attn, running.query[:1, :1], encoder_hidden_states=text)
        finally:
            self.running.pop()
        ((k, v),) = asked.taken
        return k.narrow(dim, 0, tokens).clone(), v.narrow(dim, 0, tokens).clone()

    def _embedded(self, context: Tensor) -> Tensor:
        # By identity: the session's cache holds the context for as long as this.
        if id(context) not in self.embedded:
            self.embedded[id(context)] = self.network.family.embed(self.network.model, context)
        return self.embedded[id(context)]


def opened(network: Hooked, arrived: Arrived, given: dict[str, Any]) -> CrossCall:
    """The call that is about to be made."""
    session = arrived.session
    # On the session, so that the negative is embedded once in a pass, and not in every call.
    embedded = session.batches.setdefault(("embedded", id(network.model)), {})
    return CrossCall(network, Call(session, arrived.batch, id(network.model)), arrived.marks, embedded)
