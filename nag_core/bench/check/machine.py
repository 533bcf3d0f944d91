"""Versions, the device, and how fast it multiplies and copies at best."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata

import torch

from nag_core.bench import measure
from nag_core.bench.check.part import Found
from nag_core.bench.models import Place
from nag_core.evaluate import tables
from nag_core.identity import digest


def found(place: Place) -> Found:
    """The first part: without it the others' numbers mean nothing."""
    data = {
        "code": digest(), "python": platform.python_version(), "torch": torch.__version__,
        "device": platform.machine(), "cuda": torch.version.cuda,
        **{name: _version(name) for name in ("numpy", "triton", "diffusers", "pytest")},
    }  # fmt: skip
    if place.device.type == "cuda":
        properties = torch.cuda.get_device_properties(place.device)
        data |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_GiB": round(properties.total_memory / 2**30, 1),
        }
    data |= _ceilings(place)
    return Found(data, tables.markdown(("what", "here"), data.items()))


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "?"


def _ceilings(place: Place) -> dict[str, float]:
    """Best of ten: the product of two large matrices, and a copy."""
    size = place.of(8192, 512)
    one, other = place.normal(size, size), place.normal(size, size)
    seconds = measure.clock(place.device)
    measure.warmed([lambda: one @ other, one.clone], seconds, 3)
    product = min(seconds(lambda: one @ other) for _ in range(10))
    copy = min(seconds(one.clone) for _ in range(10))
    return {
        "product_TFLOPs": round(2 * size**3 / product / 1e12, 2),
        "copy_GBs": round(2 * one.nbytes / copy / 1e9, 1),
    }
