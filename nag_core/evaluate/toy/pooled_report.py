"""The tables of pooled.py, and which of the two rules was ahead."""

from __future__ import annotations

from typing import Any

from nag_core.evaluate import tables
from nag_core.evaluate.toy.summary import parts


def markdown(result: dict[str, Any]) -> str:
    """What the pooled vector does in each model; good pictures under each rule; who was ahead."""
    return f"{_vectors(result)}\n\n{_counted(result)}\n\n{told(result)}\n"


def written(readme: str, result: dict[str, Any]) -> str:
    """The README with these tables between its marks."""
    return tables.written(readme, "pooled", markdown(result))


def told(result: dict[str, Any]) -> str:
    """Where McNemar's exact test tells the rules apart, and what one image stream cost on the whole."""
    lines = ["By McNemar's exact test (p < 0.05) the shared rule was, beside two streams,"]
    for model in result["models"]:
        beside = [row for row in _shared(result) if row["model"] == model]
        apart = [row for row in beside if row["beside_two_streams"]["p"] < 0.05]
        ahead = [_where(row) for row in apart if row["beside_two_streams"]["points"] > 0]
        behind = [_where(row) for row in apart if row["beside_two_streams"]["points"] < 0]
        mean = sum(row["beside_two_streams"]["points"] for row in beside) / len(beside)
        lines.append(
            f"- {model}: ahead at {', '.join(ahead) or 'none'}; behind at {', '.join(behind) or 'none'}; "
            f"{100 * mean:+.1f} points of good pictures on average"
        )
    return "\n\n".join((lines[0], "\n".join(lines[1:])))


def _vectors(result: dict[str, Any]) -> str:
    head = ("", "rho", "rules apart", "captions obeyed", "by the vector alone", "by the tokens alone")
    lines = []
    for model, found in result["models"].items():
        rho, obeyed = found["rho"], found["obeyed"]
        spread = f"{rho['mean']:.3f} ({rho['low']:.3f}–{rho['high']:.3f})"
        shares = (f"{100 * obeyed[name]:.0f}" for name in ("nothing", "tokens", "vector"))
        lines.append((model, spread, f"{found['apart']:.4f}", *shares))
    return tables.markdown(head, lines)


def _counted(result: dict[str, Any]) -> str:
    head = ("", "no guidance", "two streams", "of it", "shared rule", "of it", "shared beside two streams")
    lines = []
    for row in _shared(result):
        place = (row["model"], row["steps"])
        none, authors = (
            _find(result, *place, method, alpha)
            for method, alpha in (("none", None), ("two-streams", row["alpha"]))
        )
        cells = (tables.percent(none["good"]), tables.percent(authors["good"]), parts(authors))
        cells += (tables.percent(row["good"]), parts(row), tables.points(row["beside_two_streams"]))
        lines.append((f"{row['model']}, {_where(row)}", *cells))
    return tables.markdown(head, lines)


def _shared(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if "beside_two_streams" in row]


def _find(result: dict[str, Any], *wanted: Any) -> dict[str, Any]:
    names = ("model", "steps", "method", "alpha")
    return next(row for row in result["rows"] if tuple(row[name] for name in names) == wanted)


def _where(row: dict[str, Any]) -> str:
    return f"{row['steps']} step{'s' * (row['steps'] > 1)}, α {row['alpha']:g}"
