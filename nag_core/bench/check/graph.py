"""Steps as CUDA graphs: what a step costs where Python orders nothing, and whether it can be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nag_core.bench.check.part import distance
from nag_core.bench.measure import Step


def captured(step: Step) -> tuple[Step, str]:
    """The step as one replay, and why not: with a reason the step is what it was."""
    try:
        return _captured(step), ""
    except Exception as error:
        # What the step raised is behind what the end of the capture makes of it.
        behind = error.__context__ or error
        return step, f"{type(behind).__name__}: {(str(behind).splitlines() or [''])[0][:200]}"


def _captured(step: Step) -> Callable[[], Tensor]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are probed and keys are made in the first
            wanted = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    graph.replay()
    torch.cuda.synchronize()
    error = distance(out, wanted)
    if not error < 1e-2:
        raise RuntimeError(f"the replay gives something else, error {error:.1e}")

    def replay() -> Any:
        graph.replay()
        return out

    return replay
