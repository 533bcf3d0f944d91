"""The two pictures: a sheet of methods by prompts, and curves over φ with and without normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nag_core.sandbox.evaluate.draw import SEEDS_APART
from nag_core.sandbox.evaluate.pairs import Pair
from nag_core.sandbox.evaluate.plan import Row, rows
from nag_core.sandbox.evaluate.report import NAMES

if TYPE_CHECKING:
    from nag_core.sandbox.evaluate.draw import Sandbox

EACH, CELL, GAP, LEFT, TOP = 3, 48, 3, 190, 42
MOST_PAIRS = 6
STEPS = 1


def draw_pictures(result: dict[str, Any], sandbox: Sandbox, pairs: tuple[Pair, ...], folder: Path) -> None:
    """Writes `evaluation-sheet.png`, and `evaluation-curves.png` where φ was swept."""
    folder.mkdir(parents=True, exist_ok=True)
    models = list(result["weights"])
    _sheet(models, sandbox, pairs[:MOST_PAIRS], result["seed"]).save(
        folder / "evaluation-sheet.png", optimize=True
    )
    if any(row["sweep"] == "phi" for row in result["rows"]):
        _curves(result, models, folder / "evaluation-curves.png")


def _sheet(models: list[str], sandbox: Sandbox, pairs: tuple[Pair, ...], seed: int) -> Image.Image:
    """The first seeds of every pair at one step, one line a model and method; none are picked out."""
    lines = [row for model in models for row in rows([model], [STEPS], sweeps=False)]
    group = EACH * (CELL + GAP) + 3 * GAP
    sheet = Image.new("RGB", (LEFT + group * len(pairs), TOP + len(lines) * (CELL + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, pair in enumerate(pairs):
        draw.text((LEFT + column * group, 4), pair.prompt, "black", font)
        draw.text((LEFT + column * group, 21), f"negative: {pair.negative}", "#a00000", font)
    for line, row in enumerate(lines):
        y = TOP + line * (CELL + GAP)
        draw.text((4, y + CELL // 2 - 8), f"{row.model}: {_name(row)}", "black", font)
        for column, pair in enumerate(pairs):
            pictures, _ = sandbox.pictures(row, pair, seed * SEEDS_APART, EACH)
            for index, picture in enumerate(pictures):
                x = LEFT + column * group + index * (CELL + GAP)
                sheet.paste(_image(picture).resize((CELL, CELL), Image.Resampling.NEAREST), (x, y))
    return sheet


def _name(row: Row) -> str:
    return f"{NAMES[row.method]} {row.phi:g}" if row.method != "none" else NAMES[row.method]


def _image(picture: Tensor) -> Image.Image:
    values = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def _curves(result: dict[str, Any], models: list[str], path: Path) -> None:
    """Valid pictures and unwanted attributes over φ, one column a model (the paper's Figure 8)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(models), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(models), squeeze=False, sharex=True, sharey=True)
    for column, model in enumerate(models):
        for line, (measure, label) in enumerate((("valid", "valid pictures"), ("unwanted", "unwanted"))):
            axis = axes[line][column]
            for method, colour in (("nag", "#1f6fb4"), ("no-normalisation", "#d1581f")):
                _curve(axis, result, model, method, measure, colour)
            axis.set(title=f"{model}: {label}", ylim=(0, 1))
            axis.set_xscale("symlog", base=2, linthresh=1)
            axis.set_xticks([0, 1, 2, 4, 8, 16], ["0", "1", "2", "4", "8", "16"])
            axis.grid(alpha=0.3)
        axes[1][column].set_xlabel("scale φ")
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
