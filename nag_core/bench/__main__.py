"""`python -m nag_core.bench`: what NAG costs here, beside no guidance, CFG and official-style NAG."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nag_core.bench import counts, library_models, measure, models, report, rows
from nag_core.bench.check import command
from nag_core.bench.models import CPU, GPU, QUICK, Place
from nag_core.bench.rows import Effort

CASES = {**models.CASES, **library_models.CASES}

EFFORT = {GPU: Effort(20, 60, 25.0), CPU: Effort(5, 40, 14.0), QUICK: Effort(5, 30, 8.0)}
QUICK_MODELS = ("sd15", "flux-schnell")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.gpu_check:
        return command.run(options.only, options.json, options.markdown)
    place = _place(options)
    if options.memory:
        print(report.memory_table(extra_memory(options.models or list(CASES))))
        return 0
    if options.counts:
        names = options.models or list(models.CASES)
        print(report.counts_table({name: counts.counted(CASES[name]) for name in names}))
        return 0
    names = options.models or (list(QUICK_MODELS) if options.quick else list(CASES))
    if place.device.type == "cpu":
        # Two threads that fight over a core give noise, not speed.
        torch.set_num_threads(1)
    result = _result(place)
    for name in names:
        try:
            result["rows"] += _measured(name, place)
        except torch.cuda.OutOfMemoryError:
            print(f"{name}: not enough memory on this device, left out", file=sys.stderr)
        gc.collect()
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
    if not result["rows"]:
        return 1
    print(f"\n{report.heading(result)}\n\n{report.table(result)}")
    if doubt := report.doubts(result):
        print(f"\n{doubt}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        report.plot(result, Path(options.plot))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nag_core.bench", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, two models, under a minute on a CPU"
    )
    parser.add_argument("--json", metavar="PATH", help="write the numbers there")
    parser.add_argument("--plot", metavar="PATH", help="write a picture of them there (PNG)")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory at true sizes instead; needs no GPU"
    )
    parser.add_argument(
        "--counts", action="store_true", help="kernels started and bytes moved at true sizes instead; as well"
    )
    parser.add_argument(
        "--gpu-check", action="store_true", help="everything that only a GPU can show, in six minutes"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(command.PARTS), metavar="PART",
        help=f"with --gpu-check: of {', '.join(command.PARTS)}",
    )  # fmt: skip
    parser.add_argument("--markdown", metavar="PATH", help="with --gpu-check: write its report there")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one, by default")
    return parser


def _place(options: argparse.Namespace) -> Place:
    unknown = [name for name in options.models if name not in CASES]
    if unknown:
        raise SystemExit(f"no such model: {', '.join(unknown)}; there are {', '.join(CASES)}")
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise SystemExit("PyTorch finds no CUDA device here")
    if cuda and options.device != "cpu":
        return Place(torch.device("cuda"), torch.bfloat16, QUICK if options.quick else GPU)
    return Place(torch.device("cpu"), torch.float32, QUICK if options.quick else CPU)


def extra_memory(names: list[str]) -> dict[str, dict[str, int]]:
    """Bytes that each variant's step takes at its peak beyond the baseline's, by model: true sizes, bf16,
    batch 1, on the meta device, where tensors have sizes and no contents.
    """
    place = Place(torch.device("meta"), torch.bfloat16, GPU)
    found = {}
    for name in names:
        with torch.inference_mode():
            steps = CASES[name](place).steps()
            peaks = {
                variant: measure.peak_bytes(steps[variant])
                for variant in ("baseline", "cfg", "official", "ours")
            }
        found[name] = {variant: peak - peaks["baseline"] for variant, peak in peaks.items()}
    return found


def _result(place: Place) -> dict[str, Any]:
    cuda, effort = place.device.type == "cuda", EFFORT[place.size]
    sizes = {
        GPU: "true widths and token counts, transformers at reduced depth",
        CPU: "reduced sizes, for a CPU: ratios of the same code, not those of the real models",
        QUICK: "much reduced sizes: a check that the bench runs",
    }
    clock = "device time" if cuda else "CPU time of the process, one thread"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})",
        "dtype": str(place.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "sizes": sizes[place.size],
        "rounds": f"{clock}, median of {effort.least} to {effort.most} interleaved rounds, 95 % range",
        "rows": [],
    }


def _measured(name: str, place: Place) -> list[dict[str, Any]]:
    from tqdm import tqdm

    torch.manual_seed(0)
    with torch.inference_mode():
        case = CASES[name](place)
    with tqdm(desc=f"{name:13s}", unit="step", mininterval=1) as bar:

        def ticked(total: int) -> Callable[[], None]:
            bar.reset(total)
            return bar.update

        return rows.rows(name, case, place.device, EFFORT[place.size], ticked)


if __name__ == "__main__":
    sys.exit(main())
