"""K+ and V+ of UNet cross-attention, made once for each text and reused over the steps of a pass.

The host makes them anew in every step from a context that has not changed. Skipping that saves two launches a
layer, about what NAG adds. Tensors are never compared: a context is recognised by where it came from
(provenance.py). The pass names the schedule entries in use, and a layer reuses only what was made from the
very tensor the network was called with. Whoever changes the text on the way (a patch, a wrapper) makes
another tensor, and the layer computes as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.patcher.provenance import Provenance
from nag_core.hosts.patcher.wrapper import ApplyModel, wrapped

# Texts kept at a time: two suffice for `[a|b]`, which alternates, and bound what a long schedule may take.
MOST_TEXTS = 2


@dataclass(slots=True)
class KeyValueReuse:
    """The kept K+ and V+ of one pass, and the replaced forwards of `to_k` and `to_v` while a call runs.

    Size: MOST_TEXTS x rows x tokens x 2 x channels of all layers (SDXL, one row of 77 tokens, fp16: 28 MB
        each).
    """

    kept: OrderedDict[Hashable, dict] = field(default_factory=OrderedDict)
    forwards: dict[nn.Module, Callable] = field(default_factory=dict)
    context: Tensor | None = None
    made: dict = field(default_factory=dict)
    used: bool = False

    def prepare(self, layers: dict[Hashable, nn.Module]) -> None:
        """Makes the replacements for attn2 modules."""
        projections = [module for attn2 in layers.values() for module in (attn2.to_k, attn2.to_v)]
        self.forwards = {module: self._forward(module) for module in projections}
        self.kept.clear()

    def _forward(self, module: nn.Module) -> Callable:
        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if x is not self.context:
                return type(module).forward(module, x, *args, **kwargs)
            if module not in self.made:
                self.made[module] = type(module).forward(module, x, *args, **kwargs)
            return self.made[module]

        return forward

    @contextmanager
    def during(self, network: nn.Module, texts: Hashable, shape: torch.Size) -> Iterator[None]:
        """One call of `network`, whose context holds `texts` and has that shape; everything is put back
        afterwards.

        The context of the first call inside counts, and only as a whole: others are computed as ever. A
        projection whose forward someone else replaced is theirs.
        """

        def remember(_module: nn.Module, _args: tuple, kwargs: dict) -> None:
            context, self.context = kwargs.get("context"), None
            if not self.used and context is not None and context.shape == shape:
                self.context, self.made = context, self._kept(texts, context)
            self.used = True

        self.used = False
        placed = {
            module: forward for module, forward in self.forwards.items() if "forward" not in module.__dict__
        }
        # Before the hooks of others: a context that one of them changes is another tensor then.
        hook = network.register_forward_pre_hook(remember, with_kwargs=True, prepend=True)
        try:
            for module, forward in placed.items():
                module.__dict__["forward"] = forward
            yield
        finally:
            hook.remove()
            for module, forward in placed.items():
                if module.__dict__.get("forward") is forward:
                    del module.__dict__["forward"]
            self.context = None

    def _kept(self, texts: Hashable, context: Tensor) -> dict:
        key = (texts, context.device, context.dtype, context.shape)
        made = self.kept.setdefault(key, {})
        self.kept.move_to_end(key)
        while len(self.kept) > MOST_TEXTS:
            self.kept.popitem(last=False)
        return made

    def clear(self) -> None:
        self.kept.clear()
        self.forwards.clear()
        self.context, self.made = None, {}


def patch_reuse(
    model_options: dict, network: nn.Module, reuse: KeyValueReuse, provenance: Provenance,
    texts: tuple[Hashable, Hashable],
) -> dict:  # fmt: skip
    """A copy of `model_options` whose model calls reuse K+ and V+ where `provenance` knows the context.

    texts: names of what the keys and values of prompt and uncond depend on.
    """

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        context = c.get("c_crossattn")
        origins = provenance.of(context)
        if origins is None:
            return apply(x, timestep, **c)
        names = tuple((texts[origin.mark], origin.place) for origin in origins)
        with reuse.during(network, names, context.shape):
            return apply(x, timestep, **c)

    return wrapped(model_options, run)
