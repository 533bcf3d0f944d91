"""What a step of the largest models launches and holds; last, because counting slows what comes behind it."""

from __future__ import annotations

from typing import Any

from nag_core.bench import measure
from nag_core.bench.check.part import Found
from nag_core.bench.models import CASES, Place
from nag_core.evaluate import tables

MODELS = ("sdxl", "flux-schnell", "flux-dev", "sd35-large")


def found(place: Place) -> Found:
    """Of a step that is not the pass's first."""
    cuda = place.device.type == "cuda"
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        steps = CASES[name](place).steps()
        del steps["baseline again"]
        for step in steps.values():
            step()
        held = {variant: measure.allocated(step) for variant, step in steps.items()} if cuda else {}
        for variant, step in steps.items():
            count = measure.launches(step, place.device)
            rows.append({"model": name, "variant": variant, "launches": count, "bytes": held.get(variant)})
    counted = "launches" if cuda else "operations"
    lines = [
        (row["model"], row["variant"], "not seen" if row["launches"] is None else row["launches"],
         "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.0f}") for row in rows
    ]  # fmt: skip
    wrong = ["the profiler saw no kernels"] if any(row["launches"] is None for row in rows) else []
    return Found(
        {"rows": rows}, tables.markdown(("model", "variant", counted, "allocated, MiB"), lines), wrong
    )
