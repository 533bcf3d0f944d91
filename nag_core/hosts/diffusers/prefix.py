"""A model call under NAG where the text never sees the image: Qwen-Image 2.1.

Text and image are one sequence, but the text attends to itself alone and knows no time step. So its keys and
values are the same in all steps: the negative's are made once, by the model itself, and take the place of the
prompt's beside the image's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.processors import Attention
from nag_core.method.cross import Layer
from nag_core.method.joint import NotGuided
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement
from nag_core.passes.guiding import guide, rows_of

# Tokens of the smallest image that the model takes: none of them is read.
LEAST = (1, 2, 2)


@dataclass(slots=True)
class PrefixCall:
    """One call of `network`. made: of each negative's context the keys and values by layer."""

    network: Hooked
    arrived: Arrived
    rows: Arrangement
    made: dict[int, dict[Hashable, tuple[Tensor, Tensor]]]
    text: int  # tokens of the prompt
    image: int
    entered: int = 0
    reached: int = 0
    running: nn.Module | None = None

    def arguments(self, given: dict[str, Any]) -> None:
        """None: the model is called as it was going to be."""

    def entering(self, layer: Hashable) -> None:
        self.entered += 1

    def around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        self.running = attn
        try:
            return code(processor, attn, *args, **kwargs)
        finally:
            self.running = None

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The image's attention is known by its exact length on both sides."""
        dim = attention.token_dim
        of_image = q.shape[dim] == self.image and k.shape[dim] == self.text + self.image
        if self.running is None or not of_image:
            return attention.plain(q, k, v, mask)
        self.reached += 1
        pos = attention.plain(q, k, v, mask)
        session, attn = self.arrived.session, self.running
        if not session.chosen(self.network.blocks.get(attn)):
            return pos
        key = self.network.layers[attn]
        own = [x.narrow(dim, self.text, self.image) for x in (k, v)]
        alone = session.plan.method.needs_lse

        def attended(q: Tensor, k: Tensor, v: Tensor, _entry: Entry) -> Tensor:
            keys = (k, v) if alone else (torch.cat(pair, dim) for pair in zip((k, v), own, strict=True))
            return attention.merged(attention.plain(q, *keys, None))

        layer = Layer(
            key=key, q=q, weights=id(self.network.model), token_dim=dim, attend=attended,
            project=lambda context: self.made[id(context)][key],
            heads=attention.swapped, k=k, mask=mask, path=attention.name, whole=True,
        )  # fmt: skip
        return attention.split(guide(session, attention.merged(pos), layer, self.rows), q.shape[3 - dim])

    def finish(self) -> str:
        if self.reached == self.entered:
            return ""
        return f"{self.reached} of {self.entered} blocks attended as they are known to"


def opened(network: Hooked, arrived: Arrived, given: dict[str, Any]) -> PrefixCall | None:
    """The call that is about to be made; None where no row of it is guided."""
    session, model, text = arrived.session, network.model, given["encoder_hidden_states"]
    rows = rows_of(session, arrived.batch, len(text), arrived.marks, text.device)
    if rows is None:
        return None
    shapes = given["img_shapes"][0]
    if len(shapes) > 1:
        raise NotGuided("reference images are within the text here, where NAG does not know them")
    if not getattr(model.config, "causal_condition", False):
        raise NotGuided("the text depends on the time step here")
    made = session.cache.embedded.setdefault(id(model), {})
    for group in rows.groups:
        for entry in group.entries:
            context = session.cache.context(entry, text)
            if id(context) not in made:
                parts = [_keys_and_values(network, context[:, at], given) for at, _ in entry.spans]
                made[id(context)] = {
                    key: tuple(torch.cat(x, dim=1) for x in zip(*(part[key] for part in parts), strict=True))
                    for key in parts[0]
                }
    return PrefixCall(network, arrived, rows, made, text.shape[1], prod(shapes[-1]))


def _keys_and_values(
    network: Hooked, text: Tensor, given: dict[str, Any]
) -> dict[Hashable, tuple[Tensor, Tensor]]:
    """Of a text (1, tokens, channels) each layer's keys and values (1, tokens, heads, channels), as the model
    itself keeps them over the steps, from a call of it beside the smallest image.
    """
    model = network.model
    store = inspect.unwrap(type(model).forward).__globals__["QwenImage21KVCache"](len(network.layers))
    slots = prod(LEAST) // 4
    model(
        hidden_states=given["hidden_states"].new_zeros(1, prod(LEAST), given["hidden_states"].shape[-1]),
        encoder_hidden_states=text, timestep=given["timestep"][:1], img_shapes=[[LEAST]],
        img_mask=(torch.arange(text.shape[1] + slots, device=text.device) >= text.shape[1])[None],
        attention_kwargs=given.get("attention_kwargs"), kv_cache=store, kv_cache_mode="extract",
    )  # fmt: skip
    return {key: store.get_layer(place).get() for place, key in enumerate(network.layers.values())}
