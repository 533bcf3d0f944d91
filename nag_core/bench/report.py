"""The bench's results as a Markdown table and as a plot.

`python -m nag_core.bench.report RESULT.json nag_core/bench/README.md README.md` writes the table into the
first page, and what it comes to in two lines into the second, between their marks.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nag_core.bench.counts import Counted

from nag_core.evaluate import tables

# Overhead over the unguided step that we aim for at true size on an A100-class GPU, and what the paper's
# Table 4 says (one row for Flux; none for SD1.5, Chroma and PixArt). Shown beside numbers from a GPU only.
TARGETS = {
    "sd15": (0.03, None), "sdxl": (0.03, 0.22), "flux-schnell": (0.11, 0.87), "flux-dev": (0.17, 0.87),
    "chroma": (0.11, None), "sd35-large": (0.13, 0.43), "sana": (0.03, 0.13), "pixart": (0.03, None),
    "wan": (0.01, 0.12),
}  # fmt: skip
FEW_STEPS = 4


def table(result: dict[str, Any]) -> str:
    """One row a model: the overhead of each variant with its 95 % range, that of a whole loop of four steps
    of which the first is guided, and the peak memory ours adds.
    """
    parts = sorted({row["variant"] for row in result["rows"] if row["variant"].startswith("ours-")})
    on_gpu = not result["device"].startswith("CPU")
    head = [
        "model",
        "noise (A/A)",
        "CFG",
        "official-style NAG",
        "ours",
        "4 steps, End 0.25",
        *parts,
        "memory",
    ]
    head += ["target", "paper"] if on_gpu else []
    lines = []
    for model, rows in _models(result).items():
        noise, first = rows["baseline"], rows.get("first", rows["ours"])
        cells = [model, f"{_percent(noise['low'])} to {_percent(noise['high'])}"]
        cells += [_cell(rows.get(name)) for name in ("cfg", "official", "ours")]
        cells += [_percent(first["overhead"] / FEW_STEPS), *(_cell(rows.get(name)) for name in parts)]
        cells.append(f"{(rows['ours']['peak_bytes'] - noise['peak_bytes']) / 2**20:+.1f} MiB")
        if on_gpu:
            target, paper = TARGETS[model.removesuffix("-library")]
            cells += [f"≤ {_percent(target)}", _percent(paper) if paper else ""]
        lines.append(cells)
    return tables.markdown(head, lines)


def _models(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows by model and variant."""
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        models.setdefault(row["model"], {})[row["variant"]] = row
    return models


def doubts(result: dict[str, Any]) -> str:
    """Which models' noise is as large as what ours costs there, in one sentence; empty where none's is."""
    noisy = []
    for model, rows in _models(result).items():
        noise = max(abs(rows["baseline"]["low"]), abs(rows["baseline"]["high"]))
        if noise >= abs(rows["ours"]["overhead"]):
            noisy.append(model)
    if not noisy:
        return ""
    return (
        f"Noise (A/A) is as large as what ours costs for {', '.join(noisy)}: there the row says only that it "
        "is small, or that the machine was busy."
    )


def counts_table(counts: dict[str, dict[str, Counted]]) -> str:
    """One row a model: kernels that a step starts, and what it moves beyond the unguided step."""
    names = ("official", "ours, fused", "ours, not fused")
    lines = []
    for model, found in counts.items():
        base = found["baseline"]
        started = [found[name].launches for name in ("baseline", *names)]
        moved = [f"{(found[name].bytes - base.bytes) / 1e9:+.1f} GB" for name in names]
        lines.append([model, *started, f"{base.bytes / 1e9:.1f} GB", *moved])
    titles = ("unguided", "official-style", "ours", "ours, not fused")
    head = ("model", *(f"kernels, {title}" for title in titles), *(f"bytes, {title}" for title in titles))
    return tables.markdown(head, lines)


def memory_table(extra: dict[str, dict[str, int]]) -> str:
    """One row a model: MiB beyond the unguided step's peak."""
    lines = [
        [model, *(f"{found[variant] / 2**20:+.0f} MiB" for variant in ("cfg", "official", "ours"))]
        for model, found in extra.items()
    ]
    return tables.markdown(("model", "CFG", "official-style NAG", "ours"), lines)


def heading(result: dict[str, Any]) -> str:
    """Where and how large, in one sentence."""
    parts = (
        result["device"],
        result["dtype"],
        f"PyTorch {result['torch']}",
        result["sizes"],
        result["rounds"],
    )
    return "; ".join(parts)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{_percent(row['overhead'])} ({_percent(row['low'])} to {_percent(row['high'])})"


def _percent(share: float) -> str:
    return f"{share * 100:+.1f} %"


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of the overhead by model, with their ranges."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    models = [model for model in models if "official" in _models(result)[model]]
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    shown = (
        ("cfg", "CFG", "#bbbbbb"),
        ("official", "official-style NAG", "#e8963c"),
        ("ours", "this extension", "#3c78c8"),
    )
    for place, (variant, label, colour) in enumerate(shown):
        rows = [next(r for r in result["rows"] if (r["model"], r["variant"]) == (m, variant)) for m in models]
        at = [i + (place - 1) * 0.27 for i in range(len(models))]
        heights = [100 * row["overhead"] for row in rows]
        error = [
            [100 * (r["overhead"] - r["low"]) for r in rows],
            [100 * (r["high"] - r["overhead"]) for r in rows],
        ]
        axes.bar(at, heights, 0.25, yerr=error, label=label, color=colour, capsize=2)
    axes.set_xticks(range(len(models)), models, rotation=20)
    axes.set_ylabel("extra time over the unguided step, %")
    axes.set_title("\n".join(textwrap.wrap(heading(result), 130)), fontsize=8)
    axes.margins(y=0.15)
    axes.legend(loc="upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def written(page: str, result: dict[str, Any]) -> str:
    """The page with the table of `result` between its marks."""
    doubt = doubts(result)
    behind = f"\n{doubt}\n" if doubt else ""
    return tables.written(page, "bench", f"{heading(result)}.\n\n{table(result)}\n{behind}")


def in_two_lines(page: str, result: dict[str, Any]) -> str:
    """The page with the least and the most that a step costs between its marks; not the library's."""
    models = {name: rows for name, rows in _models(result).items() if not name.endswith("-library")}

    def ends(variant: str) -> tuple[tuple[float, str], tuple[float, str]]:
        found = sorted((rows[variant]["overhead"], name) for name, rows in models.items())
        return found[0], found[-1]

    (least, cheap), (most, dear) = ends("ours")
    cfg = " to ".join(_percent(share) for share, _ in ends("cfg"))
    on_cpu = result["device"].startswith("CPU")
    where = (
        "a CPU, at reduced sizes; no GPU has run it yet"
        if on_cpu
        else f"{result['device']}, {result['sizes']}"
    )
    text = (
        f"Time of a guided step beside one without guidance: {_percent(least)} ({cheap}) to "
        f"{_percent(most)} ({dear}); CFG in its place {cfg}.\n"
        f"Below zero: with NAG the prompt's keys and values are kept over the steps. Measured on {where}.\n"
    )
    return tables.written(page, "cost", text)


if __name__ == "__main__":
    source, *targets = (Path(argument) for argument in sys.argv[1:4])
    measured = json.loads(source.read_text(encoding="utf-8"))
    for write, target in zip((written, in_two_lines), targets, strict=True):
        target.write_text(write(target.read_text(encoding="utf-8"), measured), encoding="utf-8")
