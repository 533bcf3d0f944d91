"""Whether a guided step can be captured as a CUDA graph, and gives the same when it is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nag_core.bench.check.part import Found, table
from nag_core.bench.models import CASES, GPU, QUICK, TOY, Place

MODELS = ("sdxl", "flux-schnell", "sd35-large")


def found(place: Place) -> Found:
    """Of a cross-attention model and two joint ones, at small size: what matters is what is in the graph."""
    small = Place(place.device, place.dtype, QUICK if place.size == GPU else TOY)
    lines, rows, wrong = [], [], []
    for name in MODELS:
        step = CASES[name](small).steps()["ours"]
        for _ in range(3):  # kernels are probed and keys are made in the first
            wanted = step()
        failure = _replayed(step, wanted) if place.size == GPU else "not tried: needs a GPU"
        rows.append({"model": name, "failure": failure})
        lines.append((name, failure or "captured and replayed"))
        if failure and place.size == GPU:
            wrong.append(f"{name}: {failure}")
    return Found({"rows": rows}, table(("model", "CUDA graph"), lines), wrong)


def _replayed(step: Callable[[], Any], wanted: Tensor) -> str:
    """Why the graph is not what the step is; empty if it is."""
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        graph.replay()
        torch.cuda.synchronize()
        error = float((out.double() - wanted.double()).norm() / wanted.double().norm())
        return "" if error < 1e-2 else f"replayed with an error of {error:.1e}"
    except RuntimeError as error:
        return str(error).splitlines()[0][:200]
