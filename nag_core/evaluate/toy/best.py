"""`python -m nag_core.evaluate.toy.best`: every rule at its best, by the share of good pictures.

A picture is good that is valid, honours its prompt and has not the unwanted attribute. Every rule gets as
many settings as the others; the best is chosen on half of the seeds and counted on the other half, so that
the choice flatters nobody.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nag_core.evaluate import files, tables
from nag_core.evaluate.options import OneLineParser, whole
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.statistics import difference, share
from nag_core.evaluate.toy import draw
from nag_core.evaluate.toy.__main__ import about, models, steps
from nag_core.evaluate.toy.pairs import BUILT_IN
from nag_core.evaluate.toy.plan import Row
from nag_core.evaluate.toy.report import NAMES
from nag_core.evaluate.toy.summary import MEASURES, parts
from nag_core.sandbox.model.miniature import KINDS

NAME = {**NAMES, "vsf": "VSF", "orthogonal": "Orthogonal"}
# Three each: a weak one, a usual one, a strong one.
SETTINGS: dict[str, tuple[dict[str, float], ...]] = {
    "cfg": tuple({"phi": weight, "cfg": weight} for weight in (1.5, 3.0, 5.0)),
    "nasa": tuple({"phi": phi} for phi in (0.25, 0.5, 1.0)),
    "nag": tuple({"phi": 4.0, "tau": 2.5, "alpha": alpha} for alpha in (0.25, 0.5, 1.0)),
    "no-normalisation": tuple({"phi": phi, "alpha": 0.5} for phi in (1.0, 2.0, 4.0)),
    "no-refinement": tuple({"phi": phi, "tau": 2.5} for phi in (1.0, 2.0, 4.0)),
    "orthogonal": tuple({"phi": phi} for phi in (0.5, 1.0, 2.0)),
    "vsf": ({"phi": 1.0, "offset": 1.0}, {"phi": 3.5, "offset": 0.1}, {"phi": 3.0, "offset": 2.0}),
}


def main(argv: list[str] | None = None) -> int:
    """Draw, choose, count, write."""
    options = _parser().parse_args(argv)
    result = evaluate(options, BUILT_IN)
    files.write_json(options.json, result)
    print(f"{markdown(result)}\n{told(result)}")
    if options.readme:
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(written(text, result), encoding="utf-8")
    return 0


def evaluate(options: argparse.Namespace, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """Of every model and number of steps each rule's chosen setting, and what it does on the other seeds.
    A killed run goes on behind the last of these that it finished.
    """
    found = about(options, pairs) | {"rows": []}
    before = files.read_json(options.json)
    if isinstance(before, dict) and before | {"rows": []} == found:
        found = before
    done = {(row["model"], row["steps"]) for row in found["rows"]}
    sandbox = draw.Sandbox.start(options.weights)
    for model in options.models:
        for count in (count for count in options.steps if (model, count) not in done):
            found["rows"] += _of(sandbox, model, count, pairs, options)
            files.write_json(options.json, found)  # so far
    return found


def _of(
    sandbox: draw.Sandbox, model: str, count: int, pairs: tuple[Pair, ...], options: argparse.Namespace
) -> list[dict[str, Any]]:
    def see(row: Row, half: int) -> draw.Seen:
        return sandbox.see(row, pairs, options.n // 2, 2 * options.seed + half)

    chosen: dict[str, Row] = {"none": Row(model, "none", count, 0.0)}
    tried: dict[str, list[float]] = {"none": []}
    for method, settings in SETTINGS.items():
        rows = [Row(model, method, count, **one) for one in settings]
        tried[method] = [sum(good) / len(good) for good in (see(row, 0).good for row in rows)]
        chosen[method] = rows[max(range(len(rows)), key=tried[method].__getitem__)]
    seen = {method: see(row, 1) for method, row in chosen.items()}
    return [_row(chosen[method], seen[method], tried[method], seen["nag"]) for method in chosen]


def _row(row: Row, seen: draw.Seen, tried: list[float], nag: draw.Seen) -> dict[str, Any]:
    found = row.settings() | {"n": len(seen.valid), "tried": tried, "applied": seen.applied}
    found |= {name: share(getattr(seen, name)) for name in MEASURES}
    if seen is not nag:
        found["against_nag"] = difference(seen.good, nag.good)
    return found


def markdown(result: dict[str, Any]) -> str:
    """A table for each number of steps: `good` of every rule by model, then its three parts and the setting
    that was chosen.
    """
    parts = []
    for count in dict.fromkeys(row["steps"] for row in result["rows"]):
        lines = []
        names = list(dict.fromkeys(row["model"] for row in result["rows"] if row["steps"] == count))
        for method in ("none", *SETTINGS):
            rows = [_find(result, model, method, count) for model in names]
            lines.append((NAME[method], *(cell for row in rows for cell in _cells(row))))
        head = ("", *(text for model in names for text in (f"{model}: good", "beside NAG", "of it", "at")))
        parts.append(f"{count} step{'s' * (count > 1)}:\n\n{tables.markdown(head, lines)}\n")
    return "\n".join(parts)


def told(result: dict[str, Any]) -> str:
    """Which rules were ahead of NAG and which behind, where McNemar's exact test says so."""
    lines = []
    places = dict.fromkeys((row["model"], row["steps"]) for row in result["rows"])
    for model, count in places:
        rows = [_find(result, model, method, count) for method in SETTINGS if method != "nag"]
        ahead, behind = (_names(rows, sign) for sign in (1, -1))
        where = f"{model}, {count} step{'s' * (count > 1)}"
        lines.append(f"- {where}: ahead of NAG {ahead or 'none'}; behind it {behind or 'none'}")
    return "By McNemar's exact test (p < 0.05):\n\n" + "\n".join(lines) + "\n"


def _names(rows: list[dict[str, Any]], sign: int) -> str:
    beside = ((row, row["against_nag"]) for row in rows)
    apart = (row for row, found in beside if found["p"] < 0.05 and sign * found["points"] > 0)
    return ", ".join(NAME[row["method"]] for row in apart)


def _find(result: dict[str, Any], model: str, method: str, count: int) -> dict[str, Any]:
    wanted = (model, method, count)
    return next(r for r in result["rows"] if (r["model"], r["method"], r["steps"]) == wanted)


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    beside = row.get("against_nag")
    change = "" if beside is None else tables.points(beside)
    values = (("φ", row["phi"]), ("α", row["alpha"]), ("offset", row.get("offset")))
    setting = " ".join(f"{letter} {value:g}" for letter, value in values if value)
    return tables.percent(row["good"]), change, parts(row), setting


def written(readme: str, result: dict[str, Any]) -> str:
    """The README with the tables, and who was ahead, between its marks."""
    return tables.written(readme, "best", f"{markdown(result)}\n{told(result)}")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nag_core.evaluate.toy.best", description=__doc__)
    parser.add_argument("--n", type=whole(16, 10**6), default=192, help="pictures a rule (default 192)")
    parser.add_argument("--steps", type=steps, default=[1, 2, 4], help="default 1,2,4")
    parser.add_argument("--seed", type=whole(0, 2000), default=350, help="of the noise (default 350)")
    parser.add_argument("--json", type=Path, default=Path("outputs/best.json"), help="results")
    parser.add_argument("--models", type=models, default=list(KINDS), help=f"default {','.join(KINDS)}")
    parser.add_argument("--readme", type=Path, help="write the tables between its marks, too")
    parser.set_defaults(weights={})
    return parser


if __name__ == "__main__":
    sys.exit(main())
