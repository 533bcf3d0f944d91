"""Which implementation of the rule runs where: the best that works, and the next one when it fails.

Each is a module with two functions of the same arguments, `guide` and `merge_and_guide`, and is tried on
numbers of its own before its first use. A probe cannot try every width and method, so that a compiler or a
launch may fail later, too: then the next one takes over, for the rest of the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nag_core.method import guidance, lean, sign_flip
from nag_core.method.guidance import Method
from nag_core.method.merge import Part

logger = logging.getLogger("nag")


class Implementation(NamedTuple):
    """`name`: in the log and the report. `load`: imports the module; raises what it likes where it cannot."""

    name: str
    load: Callable[[], ModuleType]


def _triton() -> ModuleType:
    from nag_core.method import triton_kernels

    return triton_kernels


def _cuda() -> ModuleType:
    from nag_core.method import cuda_kernels

    return cuda_kernels


FUSED = (Implementation("Triton kernels", _triton), Implementation("CUDA kernels", _cuda))
OPERATIONS = Implementation("PyTorch operations", lambda: lean)

# Methods with kernels of their own, each probed by itself; the others are NAG's with parts left out.
APART = (Method.VSF, Method.ORTHOGONAL)

# By name, device, dtype and method: the module that passed its probe, None for one that did not.
_probed: dict[tuple[str, torch.device, torch.dtype, Method], ModuleType | None] = {}
# By device: what failed after its probe, and of what.
_failed: dict[torch.device, dict[str, str]] = {}


class Chain(NamedTuple):
    """The implementations for tensors of one device and dtype, called like one. may_fuse: off for
    comparisons. method: of `APART`, or NAG for every other.
    """

    device: torch.device
    dtype: torch.dtype
    may_fuse: bool = True
    method: Method = Method.NAG

    def guide(self, *given: Any, **more: Any) -> Tensor:
        """`lean.guide`, by the best implementation that works."""
        return self._first("guide", *given, **more)

    def flip(self, *given: Any) -> Tensor:
        """`lean.flip`, by the best implementation that works."""
        return self._first("flip", *given)

    def merge_and_guide(self, *given: Any) -> None:
        """`lean.merge_and_guide`, by the best implementation that works."""
        self._first("merge_and_guide", *given)

    def working(self) -> Iterator[tuple[str, ModuleType]]:
        """Name and module of those that passed their probe and have not failed since, best first."""
        may_fuse = self.may_fuse and has_fused(self.device, self.dtype)
        for one in (*(FUSED if may_fuse else ()), OPERATIONS):
            where = (self.device, self.dtype, self.method)
            module = None if one.name in failed(self.device) else _tried(one, *where)
            if module is not None:
                yield one.name, module

    def _first(self, function: str, *given: Any, **more: Any) -> Any:
        last, lost = None, ""
        for name, module in self.working():
            if lost:
                logger.warning("NAG: the %s; %s take over", lost, name)
            try:
                return getattr(module, function)(*given, **more)
            except Exception as error:  # Triton's own compilers raise what they like
                last, lost = error, _give_up(name, self.device, error)
        raise last or RuntimeError("no implementation of the guidance rule works here")


def chain(like: Tensor, may_fuse: bool = True, method: Method = Method.NAG) -> Chain | None:
    """The implementations for tensors like `like`; None where the rule is computed as guidance.py has it.

    That is on a CPU, where gradients are to flow, inside torch.compile (which fuses by itself and cannot
    trace a probe), and in fp32 and fp64 without a fused kernel.
    """
    if plain_is_best(like) or _compiling():
        return None
    found = Chain(like.device, like.dtype, may_fuse, method if method in APART else Method.NAG)
    best = next(found.working(), ("", None))[1]
    return None if best is None or (best is lean and torch.finfo(like.dtype).bits > 16) else found


def fused_kernels(like: Tensor) -> ModuleType | None:
    """The fused kernels that run for tensors like `like`, None where none do."""
    found = chain(like)
    best = None if found is None else next(found.working(), ("", None))[1]
    return None if best is lean else best


def has_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a fused kernel may work there."""
    return device.type == "cuda" and dtype in (torch.float32, torch.bfloat16, torch.float16)


def plain_is_best(like: Tensor) -> bool:
    """Whatever works: on a CPU few operations save nothing, and no gradient passes through the others."""
    return like.device.type == "cpu" or (like.requires_grad and torch.is_grad_enabled())


def failed(device: torch.device) -> dict[str, str]:
    """What has failed there after its probe, by name, and of what."""
    return _failed.get(device, {})


def path(device: torch.device) -> str:
    """What guides there in place of what has failed, for the report; empty where nothing has."""
    lost = failed(device)
    passed = {name for (name, where, *_), module in _probed.items() if where == device and module is not None}
    left = [one.name for one in (*FUSED, OPERATIONS) if one.name in passed - lost.keys()]
    return f"{', '.join(left[:1])} (the {' and the '.join(lost)} failed)".strip() if lost else ""


def forget() -> None:
    """Everything is tried anew; for tests."""
    _probed.clear()
    _failed.clear()


def _compiling() -> bool:
    compiler = getattr(torch, "compiler", None)
    return bool(getattr(compiler, "is_compiling", lambda: False)())


def _says_nothing(error: Exception) -> bool:
    """Of the implementation: the next one is tried for this call alone."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


def _give_up(name: str, device: torch.device, error: Exception) -> str:
    """What failed and of what, empty where it says nothing of the implementation."""
    logger.debug("NAG: the %s failed", name, exc_info=error)
    if _says_nothing(error):
        return ""
    reason = type(error).__name__
    _failed.setdefault(device, {})[name] = reason
    return f"{name} failed ({reason}: {(str(error).splitlines() or [''])[0][:200]})"


def _tried(
    one: Implementation, device: torch.device, dtype: torch.dtype, method: Method
) -> ModuleType | None:
    """Its module if it gives the right numbers there; tried once."""
    key = (one.name, device, dtype, method)
    if key in _probed:
        return _probed[key]
    made = None
    try:
        module = one.load()
        # Nothing can be tried on the meta device, where tensors have sizes and no contents.
        if device.type == "meta" or agrees(module, device, dtype, method):
            made = module
        else:
            logger.debug("NAG: the %s gave other numbers than the rule; not used", one.name)
    except Exception as error:
        if _says_nothing(error):
            return None  # this time
        logger.debug("NAG: no %s here", one.name, exc_info=error)
    _probed[key] = made
    return made


def agrees(module: ModuleType, device: torch.device, dtype: torch.dtype, method: Method = Method.NAG) -> bool:
    """Whether both functions give the rule's numbers, at the widest row there is (Flux: 24 heads of 128)."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 24, 3, 128, generator=generator).to(device, dtype) for _ in range(2)]
    pos, neg = (part.transpose(1, 2).flatten(2) for part in parts)
    counter, strength = torch.zeros((), dtype=torch.int64, device=device), (4.0, 2.5, 0.5)
    lse = torch.zeros(parts[0].shape[:3], device=device)
    if method is Method.VSF:
        guided = module.flip(Part(pos, lse), Part(neg, lse), strength)
        flipped = sign_flip.flip(*(Part(x.cpu(), lse.cpu()) for x in (pos, neg)), *strength[:2])
        wanted = guidance.Guided(flipped, counter)
    else:
        wanted = guidance.guide(pos.cpu(), neg.cpu(), *strength, method)
        guided = module.guide(pos, neg, strength, method, counter)
    # The same from parts: of nothing but the prompt's, and of nothing but the negative's keys.
    absent, (z_pos, z_neg) = Part(torch.zeros_like(parts[0]), lse - 1e4), (Part(part, lse) for part in parts)
    merged = torch.empty_like(pos)
    spans = (0, 0, 0, 0, 0, pos.shape[1])
    module.merge_and_guide(absent, z_pos, z_neg, merged, spans, strength, method, counter)
    exact = wanted.out.double()
    errors = [(found.cpu().double() - exact).norm() / exact.norm() for found in (guided, merged)]
    # Each by itself: the maximum of a number and a NaN may be the number.
    return all(bool(error < 2e-2) for error in errors) and int(counter) == 2 * int(wanted.clipped)
