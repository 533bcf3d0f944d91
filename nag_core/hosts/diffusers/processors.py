"""The processors' own attention function, handed to NAG for the length of a call.

A processor looks its attention up among its module's globals, by one of two names. A subclass of the
processor's class runs the same code with that one name bound to ours: projections, norms and rotations stay
the library's, in whatever version, and so does the attention itself.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

DISPATCH, FUNCTIONAL = "dispatch_attention_fn", "F"
SDPA = "scaled_dot_product_attention"

# Runs a processor's call: `around(code, processor, attn, *args, **kwargs)`; code takes what follows it.
Around = Callable[..., Any]
# In the attention's place: `attend(attention, q, k, v, mask)`.
Attend = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention call as a processor makes it. `function` is what it would have called, with `options`.

    heads_first: q, k, v are (B, H, N, D) (torch's own function), else (B, N, H, D).
    """

    function: Callable[..., Tensor]
    heads_first: bool
    options: dict[str, Any]

    @property
    def token_dim(self) -> int:
        return 2 if self.heads_first else 1

    def plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The call itself, in its own layout."""
        return self.function(q, k, v, attn_mask=mask, **self.options)

    def merged(self, out: Tensor) -> Tensor:
        """(B, N, H*D) of a result in the call's layout."""
        return (out.transpose(1, 2) if self.heads_first else out).flatten(2)

    def split(self, out: Tensor, heads: int) -> Tensor:
        """The reverse of `merged`."""
        out = out.unflatten(2, (heads, -1))
        return out.transpose(1, 2) if self.heads_first else out

    def swapped(self, x: Tensor) -> Tensor:
        """Between the call's layout and (B, H, N, D), either way."""
        return x if self.heads_first else x.transpose(1, 2)

    @property
    def name(self) -> str:
        """The backend for the report."""
        if self.heads_first:
            return getattr(self.function, "__name__", SDPA)
        return f"{self._backend()} backend"

    @property
    def is_sdpa(self) -> bool:
        """Whether this is torch's own attention, plainly: only then may its work go to another kernel."""
        usual = {
            "dropout_p": 0.0,
            "is_causal": False,
            "enable_gqa": False,
            "backend": self.options.get("backend"),
        }
        plain = all(value is None or usual.get(name, ...) == value for name, value in self.options.items())
        builtin = inspect.isbuiltin(nn.functional.scaled_dot_product_attention)
        if self.heads_first:
            return plain and builtin and self.function is nn.functional.scaled_dot_product_attention
        return plain and builtin and self._backend() == "native"

    def _backend(self) -> str:
        """Of the dispatcher: the processor's own, else the one chosen for the process."""
        backend = self.options.get("backend")
        registry = getattr(self.function, "__globals__", {}).get("_AttentionBackendRegistry")
        if backend is None and registry is not None:
            backend = registry.get_active_backend()[0]
        return str(getattr(backend, "value", backend))


def door(processor: Any) -> str | None:
    """The global by which the processor reaches its attention; None where there is none of the two."""
    function = type(processor).__call__
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return None
    names = function.__code__.co_names
    if DISPATCH in names and DISPATCH in function.__globals__:
        return DISPATCH
    return FUNCTIONAL if SDPA in names and FUNCTIONAL in function.__globals__ else None


class _Functional:
    """torch.nn.functional, or what the processor's module has under that name, with our attention in it."""

    def __init__(self, original: Any, attention: Callable[..., Tensor]) -> None:
        self._original = original
        self.scaled_dot_product_attention = attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def rebound(kind: type, name: str, around: Around, attend: Attend) -> type:
    """A subclass of a processor's class whose calls go through `around`, and its attention through `attend`.

    name: the class's `door`. Signature and name stay: the library filters arguments by them. What is called
    beneath is looked up at every call, as the library does.
    """
    function = kind.__call__
    space = function.__globals__

    def dispatched(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        return attend(Attention(space[DISPATCH], False, options), q, k, v, attn_mask)

    def scaled(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        return attend(Attention(getattr(space[FUNCTIONAL], SDPA), True, options), q, k, v, attn_mask)

    ours = dispatched if name == DISPATCH else _Functional(space[FUNCTIONAL], scaled)
    code = types.FunctionType(
        function.__code__,
        {**space, name: ours},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    code.__kwdefaults__ = function.__kwdefaults__

    @functools.wraps(function)
    def call(self: Any, attn: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return around(code, self, attn, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


class Swaps:
    """The classes of a model's processors: ours between `enter` and `leave`, else the library's.

    Swapped for each model call and not for the whole context: processors may be set in the meantime.
    """

    def __init__(self, around: Around, attend: Attend) -> None:
        self.around, self.attend = around, attend
        self.made: dict[type, type] = {}
        self.swapped: list[tuple[Any, type]] = []

    def enter(self, processors: list[Any]) -> str:
        """Swaps all of them; else the name of one that NAG cannot reach into, and none is swapped."""
        for processor in processors:
            kind = type(processor)
            name = door(processor)
            if any(processor is seen for seen, _ in self.swapped):
                continue
            if name is None:
                self.leave()
                return kind.__name__
            if kind not in self.made:
                self.made[kind] = rebound(kind, name, self.around, self.attend)
            processor.__class__ = self.made[kind]
            self.swapped.append((processor, kind))
        return ""

    def leave(self) -> None:
        """Gives every processor its class back. Safe twice."""
        while self.swapped:
            processor, kind = self.swapped.pop()
            processor.__class__ = kind
