"""Kernels that a step starts and bytes that they move, counted at true size and full depth without a GPU: on
the meta device, where tensors have sizes and no contents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.bench import measure
from nag_core.bench.models import FULL, Place
from nag_core.bench.rows import Case
from nag_core.method import fallback
from nag_core.method.merge import Part

# One operation that reads some tensors and writes one: what a fused kernel is to the counter.
_LIBRARY = torch.library.Library("nag_bench", "DEF")
_LIBRARY.define("fused(Tensor[] read, *, Tensor(a!) out) -> Tensor(a!)")
_LIBRARY.impl("fused", lambda read, *, out: out, "Meta")


class Counted(NamedTuple):
    """Of one step. launches: operations that are no views and no allocations, a fused kernel as one."""

    launches: int
    bytes: int


def guide(pos: Tensor, neg: Tensor, *_: Any, out: Tensor | None = None) -> Tensor:
    """Stands for the fused kernel."""
    return torch.ops.nag_bench.fused([pos, neg], out=torch.empty_like(pos) if out is None else out)


def merge_and_guide(image: Part, pos: Part, neg: Part, out: Tensor, *_: Any) -> None:
    """Stands for the fused kernel."""
    torch.ops.nag_bench.fused([*image, *pos, *neg], out=out)


@contextmanager
def _fused() -> Iterator[None]:
    """The functions above in the place of the operations."""
    before = fallback.OPERATIONS
    fallback.forget()
    fallback.OPERATIONS = fallback.Implementation("stand-in", lambda: sys.modules[__name__])
    try:
        yield
    finally:
        fallback.OPERATIONS = before
        fallback.forget()


def counted(make: Callable[[Place], Case]) -> dict[str, Counted]:
    """By variant, a step that is not the pass's first."""
    with torch.inference_mode():
        steps = make(Place(torch.device("meta"), torch.bfloat16, FULL)).steps()
        found = {name: _of(steps[name]) for name in ("baseline", "cfg", "official") if name in steps}
        with _fused():
            found["ours, fused"] = _of(steps["ours"])
        found["ours, not fused"] = _of(steps["ours"])
    return found


def _of(step: measure.Step) -> Counted:
    step()
    return Counted(*measure.operations(step))
