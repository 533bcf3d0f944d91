"""The results as Markdown tables, with what they do not flatter said beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nag_core.evaluate import tables
from nag_core.evaluate.toy.summary import PARTS

NAMES = {
    "none": "no guidance",
    "cfg": "CFG",
    "nasa": "NASA",
    "nag": "NAG",
    "no-normalisation": "no normalisation",
    "no-refinement": "no refinement",
    "nag+cfg": "NAG + CFG",
}
SWEPT = {"phi": "φ", "tau": "τ", "alpha": "α", "theta": "θ"}


def markdown(result: dict[str, Any]) -> str:
    """Main tables by model and steps, then the sweeps by model, then where another method does better."""
    parts = []
    main = [row for row in result["rows"] if row["sweep"] is None]
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in main):
        rows = [row for row in main if (row["model"], row["steps"]) == (model, steps)]
        parts.append(f"**{model}, {steps} step{'s' * (steps > 1)}** (n = {rows[0]['n']})\n\n" + _table(rows))
        parts += [text for text in (_honest(rows),) if text]
    for model in dict.fromkeys(row["model"] for row in main):
        for sweep, letter in SWEPT.items():
            rows = [row for row in result["rows"] if row["sweep"] == sweep and row["model"] == model]
            if rows:
                parts.append(f"**{model}, {letter} varied**, {_steps(rows)}\n\n" + _table(_sorted(rows)))
    return "\n\n".join(parts)


def _steps(rows: list[dict[str, Any]]) -> str:
    steps = rows[0]["steps"]
    return f"{steps} step{'s' * (steps > 1)} (n = {rows[0]['n']})"


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = list(NAMES)
    return sorted(rows, key=lambda row: (order.index(row["method"]), row[row["sweep"]]))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            _label(row),
            f"**{_share(row, 'good')}**",
            _change(row),
            _share(row, "unwanted"),
            _share(row, "honoured"),
            _share(row, "valid"),
            f"{row['rmse']:.3f}",
        )
        for row in rows
    ]
    head = ("", "good", "beside no guidance", "unwanted", "prompt honoured", "valid picture", "RMSE")
    return tables.markdown(head, lines)


def _label(row: dict[str, Any]) -> str:
    name = NAMES[row["method"]]
    if row["method"] == "cfg":
        return f"{name} {row['phi']:g}"
    values = [("φ", row["phi"] or None), ("τ", row["tau"]), ("α", row["alpha"])]
    if row["theta"] not in (None, 1.0) or row["sweep"] == "theta":
        values.append(("θ", row["theta"]))
    label = " ".join([name, *(f"{letter} {value:g}" for letter, value in values if value is not None)])
    missing = 1 - (1 if row["applied"] is None else row["applied"])
    return f"{label} (**not applied** to {100 * missing:.0f} %)" if missing else label


def _share(row: dict[str, Any], name: str) -> str:
    low, high = row["interval"][name]
    return f"{100 * row[name]:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def _change(row: dict[str, Any]) -> str:
    if "against_none" not in row:
        return ""
    found = row["against_none"]["good"]
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    return f"{100 * found['points']:+.1f} ({100 * found['low']:+.0f} to {100 * found['high']:+.0f}, {p})"


def _honest(rows: list[dict[str, Any]]) -> str:
    """Which methods draw more good pictures than NAG at these values."""
    nag = next((row for row in rows if row["method"] == "nag"), None)
    if nag is None:
        return ""
    better = [NAMES[row["method"]] for row in rows if row["method"] != "nag" and row["good"] > nag["good"]]
    if not better:
        return ""
    return f"At these values more pictures are good than with NAG: {', '.join(better)}."


def short(results: list[dict[str, Any]], steps: int) -> str:
    """One table of several trainings' main rows at so many steps: good, and what it is made of."""
    columns = [(result, model) for result in results for model in result["weights"]]
    heads = [f"{model}{_seed(result['made_by'][model])}" for result, model in columns]
    lines = []
    for method in NAMES:
        rows = [_row(result, model, method, steps) for result, model in columns]
        lines.append((_label(rows[0]), *map(_four, rows)))
    return tables.markdown(("**good**: unwanted / honoured / valid", *heads), lines)


def _four(row: dict[str, Any]) -> str:
    """A training that was counted by 0.1 has the three alone."""
    good = f"**{100 * row['good']:.0f}**: " if "good" in row else ""
    return good + " / ".join(f"{100 * row[name]:.0f}" for name in PARTS)


def _row(result: dict[str, Any], model: str, method: str, steps: int) -> dict[str, Any]:
    wanted = (model, method, steps, None)
    found = (row for row in result["rows"] if wanted == tuple(row[key] for key in _KEYS))
    return next(found)


_KEYS = ("model", "method", "steps", "sweep")


def _seed(made_by: str) -> str:
    seed = made_by.rpartition("--seed ")[2]
    return "" if seed == "0" else f" (trained with seed {seed})"


def written(page: str, results: list[dict[str, Any]]) -> str:
    """The page with the short tables of one and four steps between its marks."""
    n = results[0]["n"]
    parts = [
        f"{steps} step{'s' * (steps > 1)}, in % of {n} pictures:\n\n{short(results, steps)}\n"
        for steps in (1, 4)
    ]
    return tables.written(page, "evaluation", "\n".join(parts))


if __name__ == "__main__":
    *sources, target = (Path(argument) for argument in sys.argv[1:])
    read = [json.loads(source.read_text(encoding="utf-8")) for source in sources]
    target.write_text(written(target.read_text(encoding="utf-8"), read), encoding="utf-8")
