"""The results as Markdown."""

from __future__ import annotations

from typing import Any

from nag_core.evaluate import good, tables
from nag_core.evaluate.plan import CFG, NAG, OFF
from nag_core.evaluate.scores import METRICS

SHOWN_FLAGS = 12


def markdown(results: dict[str, Any]) -> str:
    """What was drawn, whether NAG was there, means, differences to off, and what is missing."""
    names = _names(results["settings"])
    leading = good.sentence(results.get("good", {}), names)
    parts = [_heading(results), *_applied(results), leading, _table(results, names, "mean")]
    if any(arm["difference"] for arm in results["arms"].values()):
        parts.append("Difference to the off picture of the same seed:")
        parts.append(_table(results, names, "difference"))
    shown = [metric for metric in METRICS if _has(results, "mean", metric)]
    parts.append("\n".join(f"- {METRICS[metric][0]}: {METRICS[metric][1]}" for metric in shown))
    parts += [f"Not scored: {sentence}." for sentence in results["missing"]]
    if shown and not any(_range(results, metric) for metric in shown):
        parts.append("No 95 % ranges: they need two pictures and the package scipy.")
    return "\n\n".join(part for part in parts if part)


def _names(settings: dict[str, Any]) -> dict[str, str]:
    base, cfg = settings["base_cfg"], settings["cfg"]
    names = {OFF: f"off, CFG {base:g}", NAG: f"NAG, CFG {base:g}"}
    return names if cfg is None else {**names, CFG: f"CFG {cfg:g}, NAG off"}


def _heading(results: dict[str, Any]) -> str:
    settings = results["settings"]
    nag = ", ".join(f"{name} {value}" for name, value in settings["nag"].items()) or "preset Auto"
    parts = [
        settings["model"] or "unnamed model",
        f"{settings['steps']} steps",
        " ".join(filter(None, (settings["sampler"], settings["scheduler"]))),
        f"{settings['width']}×{settings['height']}",
        f"NAG: {nag}",
        f"{len(settings['pairs'])} pairs × {len(settings['seeds'])} seeds",
    ]
    if settings["distilled_cfg"] is not None:
        parts.insert(4, f"distilled CFG {settings['distilled_cfg']:g}")
    drawn, asked = results["drawn"], results["asked"]
    short = f" **{asked - drawn} of {asked} pictures are not drawn yet.**" if drawn < asked else ""
    models = "; ".join(results["models"].values())
    return f"{'; '.join(parts)}.{short}" + (f" Scores by {models}." if models else "")


def _applied(results: dict[str, Any]) -> list[str]:
    """What the pictures themselves say NAG did, and which pictures do not count."""
    reports = results["nag_reports"]
    total = sum(reports.values())
    flagged = results["flagged"]
    without = sum(one["arm"] == NAG for one in flagged)
    said = "; ".join(f"{report} ({count})" for report, count in list(reports.items())[:4])
    parts = (
        [f"NAG was applied to {total - without} of {total} NAG pictures. They say: {said}."] if total else []
    )
    if flagged:
        lines = [f"- {one['picture']}: {'; '.join(one['problems'])}" for one in flagged[:SHOWN_FLAGS]]
        if len(flagged) > SHOWN_FLAGS:
            lines.append(f"- and {len(flagged) - SHOWN_FLAGS} more, in results.json")
        parts.append(f"**{len(flagged)} pictures do not count:**\n\n" + "\n".join(lines))
    for key in ("Model", "Model hash", "Sampler"):
        seen = results["drawn_with"].get(key, {})
        if len(seen) > 1:
            listed = ", ".join(f"{name or 'none named'} ({count})" for name, count in seen.items())
            parts.append(f"**Not all pictures come from one {key.lower()}:** {listed}.")
    return parts


def _has(results: dict[str, Any], kind: str, metric: str) -> bool:
    return any(metric in arm[kind] for arm in results["arms"].values())


def _range(results: dict[str, Any], metric: str) -> bool:
    found = [arm["mean"].get(metric, {}) for arm in results["arms"].values()]
    return any(one.get("low") is not None for one in found)


def _table(results: dict[str, Any], names: dict[str, str], kind: str) -> str:
    metrics = [metric for metric in METRICS if _has(results, kind, metric)]
    head = ["", "pictures", *(METRICS[metric][0] for metric in metrics)]
    lines = [
        [
            names[arm],
            found["n"],
            *(_cell(found[kind].get(name), METRICS[name][2], kind == "difference") for name in metrics),
        ]
        for arm, found in results["arms"].items()
        if kind != "difference" or arm != OFF
    ]
    return tables.markdown(head, lines)


def _cell(value: dict[str, Any] | None, digits: int, signed: bool) -> str:
    if value is None:
        return ""
    form = f"{'+' if signed else ''}.{digits}f"
    if value["low"] is None:
        return format(value["mean"], form)
    return f"{value['mean']:{form}} ({value['low']:{form}} to {value['high']:{form}})"
