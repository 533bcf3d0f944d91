"""NAG on one diffusers model: torch hooks that open and close each model call, and what the attention does in
between.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.diffusers import cross, joint, prefix, zimage
from nag_core.hosts.diffusers.calls import Arrived, ModelCall, Source
from nag_core.hosts.diffusers.families import CROSS, Family, family_of
from nag_core.hosts.diffusers.processors import Attention, Swaps, door
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.joint import NotGuided


class Network:
    """The hooks on one model, from construction to `remove`.

    number: tells the layers of several models of a pipeline (Wan 2.2) apart.
    """

    def __init__(self, model: nn.Module, source: Source, number: int = 0) -> None:
        self.model, self.source = model, source
        self.family: Family = family_of(model)
        layers = self.family.layers(model)
        self.layers: dict[nn.Module, Hashable] = {
            module: (*name, number) if number else name for module, name in layers.items()
        }
        self.blocks = self.family.blocks(model)
        self.among_texts = self.family.among_texts(model)
        check([*self.layers, *self.among_texts])
        self.names = list(inspect.signature(type(model).forward).parameters)[1:]
        self.swaps = Swaps(self._around, self._attend)
        self.call: ModelCall | None = None
        self.given: dict[str, Any] = {}
        self.again = False
        # Before anything is hooked: what raises here is not there to be removed.
        pos_embed = _attribute(model, "pos_embed") if self.family.positioned else None
        self.lay_out = _attribute(model, self.family.lays_out) if self.family.lays_out else None
        self.handles = [
            model.register_forward_pre_hook(self._entering, with_kwargs=True),
            model.register_forward_hook(self._leaving, with_kwargs=True, always_call=True),
            *(module.register_forward_pre_hook(self._block) for module in self.layers),
        ]
        if pos_embed is not None:
            self.handles.append(pos_embed.register_forward_hook(self._positions))
        if self.lay_out is not None:
            self.before = vars(model).get(self.family.lays_out)
            vars(model)[self.family.lays_out] = self._laid_out

    def remove(self) -> None:
        """Leaves the model as it was."""
        self.swaps.leave()
        if self.handles and self.family.lays_out:
            if self.before is None:
                del vars(self.model)[self.family.lays_out]
            else:
                vars(self.model)[self.family.lays_out] = self.before
        self.call, self.given = None, {}
        while self.handles:
            self.handles.pop().remove()

    def _entering(self, model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self.swaps.leave()  # of a call that an interrupt ended
        self.call = None
        if self.again:
            return None
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        try:
            arrived = self.source.arrived(given.get(self.family.text))
            if arrived is None:
                return None
            call = self._opened(arrived, given)
            if call is None:
                return None
            foreign = self.swaps.enter([module.processor for module in (*self.layers, *self.among_texts)])
            if foreign:
                self.source.failed(f"the attention processor {foreign} is none that NAG can reach into")
                return None
            arguments = call.arguments(given)
        except NotGuided as reason:
            self.swaps.leave()
            self.source.failed(str(reason))
            return None
        except Exception as error:  # a failure of ours must cost the guidance, not the picture
            self.swaps.leave()
            self.source.failed(f"{type(error).__name__}: {str(error)[:120]}", error)
            return None
        self.call, self.given = call, given
        return None if arguments is None else ((), arguments)

    def _opened(self, arrived: Arrived, given: dict[str, Any]) -> ModelCall | None:
        if self.family.mechanism == CROSS:
            return cross.opened(self, arrived, given)
        if self.family.prefix:
            self.again = True  # it calls the model for the negative
            try:
                return prefix.opened(self, arrived, given)
            finally:
                self.again = False
        return (zimage if self.family.lays_out else joint).opened(self, arrived, given)

    def _leaving(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        self.swaps.leave()
        call, given = self.call, self.given
        self.call, self.given = None, {}
        # No output: the model raised, and this hook only cleans up.
        reason = "" if call is None or output is None else call.finish()
        if not reason:
            return None
        self.source.failed(reason)
        self.again = True
        try:
            return model(**given)
        finally:
            self.again = False

    def _block(self, module: nn.Module, *_: Any) -> None:
        if self.call is not None:
            self.call.entering(self.layers[module])

    def _positions(self, _module: nn.Module, _args: tuple, output: tuple) -> tuple | None:
        return None if self.call is None else self.call.positions(*output)

    def _laid_out(self, *args: Any, **kwargs: Any) -> tuple:
        if self.call is None:
            return self.lay_out(*args, **kwargs)
        return self.call.laid_out(self.lay_out, args, kwargs)

    def _around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        if self.call is None or not (attn in self.layers or attn in self.among_texts):
            return code(processor, attn, *args, **kwargs)
        return self.call.around(code, processor, attn, args, kwargs)

    def _attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self.call is None:
            return attention.plain(q, k, v, mask)
        return self.call.attend(attention, q, k, v, mask)


_attribute = partial(asked.attribute, whose="diffusers")


def serving(model: nn.Module) -> bool:
    """Whether hooks of ours are on the model already."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return any(isinstance(owner, Network) for owner in owners)


def check(layers: Sequence[nn.Module] | dict[nn.Module, Any]) -> None:
    """`UnsupportedHost` where a model has no text attention, or one whose processor NAG cannot reach into."""
    if not layers:
        raise UnsupportedHost("the model has no attention over text that NAG knows")
    for module in layers:
        if door(module.processor) is None:
            name = type(module.processor).__name__
            raise UnsupportedHost(f"the attention processor {name} is none that NAG can reach into")
