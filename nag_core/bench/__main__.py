"""`python -m nag_core.bench`: what NAG costs here, beside no guidance, CFG and official-style NAG."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from nag_core.bench import library_models, measure, models, report
from nag_core.bench.models import CPU, GPU, QUICK, Place

CASES = {**models.CASES, **library_models.CASES}

# Rounds (least, most) and the seconds that a model's rounds may take.
ROUNDS = {GPU: (20, 60), CPU: (5, 40), QUICK: (5, 30)}
BUDGET = {GPU: 25.0, CPU: 9.0, QUICK: 8.0}
QUICK_MODELS = ("sd15", "flux-schnell")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    place = _place(options)
    if options.memory:
        print(report.memory_table(extra_memory(options.models or list(CASES))))
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
    cuda = place.device.type == "cuda"
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
        "rounds": f"{clock}, median of {ROUNDS[place.size][0]} or more interleaved rounds, 95 % range",
        "rows": [],
    }


def _measured(name: str, place: Place) -> list[dict[str, Any]]:
    """The rows of one model."""
    from tqdm import tqdm

    torch.manual_seed(0)
    with torch.inference_mode():
        case = CASES[name](place)
        steps = case.steps()
        seconds = measure.clock(place.device)
        round_seconds = measure.warmed(steps.values(), seconds, 3 if place.device.type == "cuda" else 1)
        rounds = measure.rounds_for(BUDGET[place.size], round_seconds, *ROUNDS[place.size])
        with tqdm(total=rounds * len(steps), desc=f"{name:13s}", unit="step", mininterval=1) as bar:
            times = measure.interleaved(steps, seconds, rounds, bar.update)
        # Of a pass that begins: what it keeps for its other steps counts.
        peaks = {variant: measure.peak_bytes(step) for variant, step in case.steps().items()}
    rows = []
    for variant in steps:
        if variant == "baseline again":
            continue
        # The baseline's own row is the noise floor: it against itself.
        compared = "baseline again" if variant == "baseline" else variant
        found = measure.overhead(times[compared], times["baseline"])
        rows.append({
            "model": name, "variant": variant,
            "overhead": found.overhead, "low": found.low, "high": found.high,
            "rounds": rounds, "peak_bytes": peaks[variant], "seconds": sorted(times[compared])[rounds // 2],
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    sys.exit(main())
