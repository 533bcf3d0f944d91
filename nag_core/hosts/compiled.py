"""Models that torch.compile runs: code made without NAG knows nothing of it, and code made under NAG would go
on with it. So they run as they were written while NAG is applied, and compiled again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

RUNS_UNCOMPILED = "the compiled model runs uncompiled while NAG is applied"
_TOO_OLD = "the model is compiled, and this PyTorch cannot run it uncompiled for a while"


def original(model: nn.Module) -> nn.Module:
    """The model as it was written, whether torch.compile was given it or not."""
    return getattr(model, "_orig_mod", model)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The model's modules without what torch.compile put around some, by the names they had before."""
    for name, module in model.named_modules():
        if original(module) is module:
            yield name.replace("._orig_mod", ""), module


def original_function(function: Any) -> Any:
    """The function that torch.compile was given, else itself."""
    if getattr(function, "_torchdynamo_disable", False):  # kept out of compiled code, and marked alike
        return function
    return getattr(function, "_torchdynamo_orig_callable", function)


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or one of its parts is run by torch.compile."""
    return original(model) is not model or any(map(_runs_compiled, original(model).modules()))


def _runs_compiled(part: nn.Module) -> bool:
    """By `part.compile()`, `torch.compile(part)`, or `part.forward = torch.compile(part.forward)`."""
    forward = vars(part).get("forward")
    compiled = getattr(part, "_compiled_call_impl", None) is not None or "_orig_mod" in part._modules
    return compiled or original_function(forward) is not forward


def why_compiled_only() -> str:
    """Why compiled code cannot run as it was written for a while; empty where it can (from PyTorch 2.6)."""
    return "" if hasattr(getattr(torch, "compiler", None), "set_stance") else _TOO_OLD


@contextmanager
def uncompiled() -> Iterator[None]:
    """All compiled code runs as it was written inside, and none is made.

    Of the whole process, not of the model alone; torch refuses it (RuntimeError) in code that it compiles.
    """
    with torch.compiler.set_stance("force_eager"):
        yield
