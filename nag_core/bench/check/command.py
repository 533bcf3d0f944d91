"""The parts in their order, and the two files that grow with them."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nag_core.bench.check import attention, costs, kernels, machine, own_tests, steps
from nag_core.bench.check.part import Found
from nag_core.bench.models import GPU, TOY, Place

# Seconds; what has not begun by then is left out, so that a second run fits into the same quarter of an hour.
BUDGET = 330.0

PARTS: dict[str, Callable[[Place], Found]] = {
    "machine": machine.found,
    "kernels": kernels.found,
    "merge": kernels.merged,
    "attention": attention.found,
    **{name: steps.of(name) for name in (*costs.MODELS, "sd15", "sana", "pixart", "wan")},
    "library": steps.library,
    "costs": costs.found,
    "tests": own_tests.found,
}
# In a process of its own: runs even where the device has failed in this one.
APART = "tests"
NOTHING_PROVEN = (
    "**No GPU here: every part ran at toy size on the CPU. That shows that the check runs; it proves nothing "
    "about a GPU.**"
)


def run(only: Sequence[str] | None, json_path: str | None, markdown_path: str | None) -> int:
    """Runs the parts and writes the files after each. 1 if a part found something wrong, else 0."""
    started = time.monotonic()
    cuda = torch.cuda.is_available()
    place = Place(torch.device("cuda"), torch.bfloat16, GPU) if cuda else _toy()
    result: dict[str, Any] = {"proven": cuda, "parts": {}}
    broken = ""
    for name in only or PARTS:
        begun = time.monotonic()
        why = "no time was left" if begun - started > BUDGET else broken if name != APART else ""
        made = Found({}, f"Left out: {why}.", left_out=True) if why else _made(name, place)
        if not broken and not _usable(place):
            broken = f"the device failed in {name}, and with it this process"
            made.wrong.append("the device failed")
        seconds = time.monotonic() - begun
        result["parts"][name] = {
            "seconds": round(seconds, 1), "wrong": made.wrong, "left_out": made.left_out, "text": made.text,
            **made.data,
        }  # fmt: skip
        print(f"{name}: {seconds:.0f} s{''.join(f'; WRONG: {one}' for one in made.wrong)}", file=sys.stderr)
        _write(json_path, json.dumps(result, indent=1) + "\n")
        _write(markdown_path, text(result))
    print(text(result))
    return int(any(part["wrong"] for part in result["parts"].values()))


def _toy() -> Place:
    torch.set_num_threads(1)
    return Place(torch.device("cpu"), torch.float32, TOY)


def _made(name: str, place: Place) -> Found:
    """The part, or what it raised: the parts behind it are to run all the same."""
    torch.manual_seed(0)
    try:
        with torch.inference_mode():
            return PARTS[name](place)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
        return Found({"error": traceback.format_exc()[-4000:]}, f"Failed: `{message}`", [message])


def _usable(place: Place) -> bool:
    """Frees what the part held. After an illegal access nothing works any more in this process."""
    if place.device.type != "cuda":
        return True
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        traceback.print_exc()
        return False
    return True


def text(result: dict[str, Any]) -> str:
    """The report, as far as it has come."""
    parts = result["parts"]
    wrong = [f"{name}: {one}" for name, part in parts.items() for one in part["wrong"]]
    head = [] if result["proven"] else [NOTHING_PROVEN]
    head += [f"**Wrong:** {'; '.join(wrong)}"] if wrong else []
    bodies = [f"## {name} ({part['seconds']:.0f} s)\n\n{part['text']}" for name, part in parts.items()]
    return "\n\n".join(["# GPU check", *head, *bodies]) + "\n"


def _write(path: str | None, content: str) -> None:
    """In one move: a cut in the middle leaves the file as it was."""
    if path is None:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(target)
