"""Timing variants side by side: interleaved rounds, medians of paired ratios with their 95 % range, peak
memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Overhead:
    """Extra time over the baseline as a fraction: the median of the rounds and its 95 % range."""

    overhead: float
    low: float
    high: float


def clock(device: torch.device) -> Callable[[Step], float]:
    """`seconds(step)`: device time by events on a GPU; the process's CPU time on a CPU, which other programs
    on the machine disturb less than wall time.
    """
    if device.type == "cuda":

        def on_gpu(step: Step) -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000

        return on_gpu

    def on_cpu(step: Step) -> float:
        start = time.process_time()
        step()
        return time.process_time() - start

    return on_cpu


def interleaved(
    steps: dict[str, Step],
    seconds: Callable[[Step], float],
    rounds: int,
    tick: Callable[[], None],
    before: dict[str, list[float]] | None = None,
) -> dict[str, list[float]]:
    """Times of every step, one of each a round, behind those of the rounds `before`; the order turns, so that
    no variant always follows the same one.
    """
    times = {name: [] for name in steps} if before is None else before
    names = list(steps)
    done = len(times[names[0]])
    for turn in range(done, done + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(steps[name]))
            tick()
    return times


def overhead(times: list[float], base: list[float], seed: int = 0) -> Overhead:
    """Paired by round; the range is that of the median over 2000 resamples of the rounds."""
    ratios = np.asarray(times) / np.asarray(base) - 1
    random = np.random.default_rng(seed)
    medians = np.median(random.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Overhead(float(np.median(ratios)), float(low), float(high))


class _LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are still alive; the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {id_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and id_of(tensor) not in given:
                storage = tensor.untyped_storage()
                self.alive[id_of(tensor)] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def id_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_bytes(step: Step) -> int:
    """The most memory that the step's own tensors take at a time; the same on every device. Workspaces inside
    of kernels are not seen.
    """
    with _LiveBytes() as live:
        step()
    return live.peak


# They start nothing: memory without contents, and a view by another name.
_IDLE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
# They write what they are called on, and do not read it.
_OVER = ("copy_", "fill_", "zero_")


class _Operations(TorchDispatchMode):
    """Operations on tensors that are neither views nor mere allocations, and the bytes that they read and
    write: on a GPU each is one kernel or more, whose bytes come from memory or from the cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        if made and not func.is_view and name not in _IDLE:
            self.count += 1
            given = [*zip(func._schema.arguments, args, strict=False)]
            given += [(one, kwargs[one.name]) for one in func._schema.arguments if one.name in (kwargs or {})]
            read = [value for one, value in given if not _written_only(name, one)]
            self.bytes += sum(map(_size, tree_leaves(read))) + sum(map(_size, made))
        return out


def _written_only(name: str, argument: torch.Argument) -> bool:
    """Whether the operation of that name writes the argument without reading it."""
    is_out = argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write
    return is_out or (name in _OVER and argument.name == "self")


def _size(value: Any) -> int:
    """Bytes of a tensor's different elements, 0 of what is none."""
    if not isinstance(value, torch.Tensor):
        return 0
    sizes = (size for size, stride in zip(value.shape, value.stride(), strict=True) if stride or not size)
    return math.prod(sizes) * value.element_size()


def operations(step: Step) -> tuple[int, int]:
    """How many operations a step makes that are no views and no allocations, and the bytes that they move."""
    with _Operations() as found:
        step()
    return found.count, found.bytes


def launches(step: Step, device: torch.device) -> int | None:
    """Kernels that ran on a GPU, None where its profiler sees none; elsewhere `operations`.

    By what ran on the device, and not by the calls: what those are called changes with CUDA's releases. The
    profiler stays attached and slows what comes behind it: count after everything is timed.
    """
    if device.type != "cuda":
        return operations(step)[0]
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    ran = [one.name for one in profiled.events() if one.device_type == DeviceType.CUDA]
    return sum(not name.lower().startswith(("memcpy", "memset")) for name in ran) or None


def allocated(step: Step) -> int:
    """Bytes that a step takes of a GPU at its peak, beyond what was there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def enqueued(step: Step) -> float:
    """Seconds until a GPU's work is ordered, without waiting for it: the step's own time if that is less."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds


def warmed(steps: Iterable[Step], seconds: Callable[[Step], float], times: int) -> None:
    """Runs every step `times` times, by the clock that will time it."""
    for step in [*steps] * times:
        seconds(step)
