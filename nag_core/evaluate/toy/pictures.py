"""The two pictures: a sheet of methods by prompts, and curves over φ with and without normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from nag_core.evaluate import sheet
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.toy.draw import SEEDS_APART, Sandbox
from nag_core.evaluate.toy.plan import Row, rows
from nag_core.evaluate.toy.report import NAMES

LOOK = sheet.Look(cell=48, gap=3, left=190, top=42, size=13, line=17, between=9)
EACH, MOST_PAIRS, STEPS = 3, 6, 1


def draw_pictures(result: dict[str, Any], sandbox: Sandbox, pairs: tuple[Pair, ...], folder: Path) -> None:
    """Writes `evaluation-sheet.png`, and `evaluation-curves.png` where φ was swept."""
    folder.mkdir(parents=True, exist_ok=True)
    models = list(result["weights"])
    page = _sheet(models, sandbox, pairs[:MOST_PAIRS], result["seed"])
    page.save(folder / "evaluation-sheet.png", optimize=True)
    if any(row["sweep"] == "phi" for row in result["rows"]):
        _curves(result, models, folder / "evaluation-curves.png")


def _sheet(models: list[str], sandbox: Sandbox, pairs: tuple[Pair, ...], seed: int) -> Image.Image:
    """The first seeds of every pair at one step, one line a model and method; none are picked out."""

    def drawn(row: Row, pair: Pair) -> list[Image.Image]:
        pictures, _ = sandbox.row(row, pair, seed * SEEDS_APART, EACH)
        return [small(picture, LOOK) for picture in pictures]

    lines = [row for model in models for row in rows([model], [STEPS], sweeps=False)]
    return sheet.sheet(
        [caption(pair) for pair in pairs],
        [(f"{row.model}: {_name(row)}", [drawn(row, pair) for pair in pairs]) for row in lines],
        LOOK,
    )


def caption(pair: Pair) -> sheet.Caption:
    """Prompt and negative, a line each."""
    return [(pair.prompt, "black"), (f"negative: {pair.negative}", sheet.NEGATIVE)]


def small(picture: Image.Image, look: sheet.Look) -> Image.Image:
    """The picture for a cell, its pixels kept apart."""
    return picture.resize((look.cell, look.cell), Image.Resampling.NEAREST)


def _name(row: Row) -> str:
    return f"{NAMES[row.method]} {row.phi:g}" if row.method != "none" else NAMES[row.method]


def _curves(result: dict[str, Any], models: list[str], path: Path) -> None:
    """Good, valid and unwanted pictures over φ, one column a model (the paper's Figure 8)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = (("good", "good pictures"), ("valid", "valid pictures"), ("unwanted", "unwanted"))
    figure = Figure(figsize=(4.4 * len(models), 3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), len(models), squeeze=False, sharex=True, sharey=True)
    for column, model in enumerate(models):
        for line, (measure, label) in enumerate(shown):
            axis = axes[line][column]
            for method, colour in (("nag", "#1f6fb4"), ("no-normalisation", "#d1581f")):
                _curve(axis, result, model, method, measure, colour)
            axis.set(title=f"{model}: {label}", ylim=(0, 1))
            axis.set_xscale("symlog", base=2, linthresh=1)
            axis.set_xticks([0, 1, 2, 4, 8, 16], ["0", "1", "2", "4", "8", "16"])
            axis.grid(alpha=0.3)
        axes[-1][column].set_xlabel("scale φ")
    axes[0][0].legend()
    figure.savefig(path, dpi=110)


def _curve(axis: Any, result: dict[str, Any], model: str, method: str, measure: str, colour: str) -> None:
    steps = next(row["steps"] for row in result["rows"] if row["sweep"] == "phi")
    found = [row for row in result["rows"] if row["model"] == model and row["steps"] == steps]
    points = [row for row in found if row["sweep"] == "phi" and row["method"] == method]
    points += [row for row in found if row["method"] == "none"][:1]
    points.sort(key=lambda row: row["phi"])
    phis, shares = [row["phi"] for row in points], [row[measure] for row in points]
    low, high = zip(*(row["interval"][measure] for row in points), strict=True)
    axis.plot(phis, shares, marker="o", color=colour, label=NAMES[method])
    axis.fill_between(phis, low, high, color=colour, alpha=0.15)
