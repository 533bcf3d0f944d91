"""The table of neighbours in tests/README.md, made from the files in results/neighbours.

python -m tests.live.neighbours_table    puts it there
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nag_core.evaluate import tables
from tests.live import seen as files
from tests.live.neighbours import KIND, RESULTS, verdict
from tests.live.seen import HOSTS, PAGE, Seen

SAID = ("a NAG of its own as well: the guidance is doubled", "takes nothing beside it")


def load(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was seen, by WebUI and neighbour."""
    return files.load(folder, KIND)


def table(seen: Seen, code: str | None = None) -> str:
    """Markdown. code: as in `seen.table`."""
    head = ("extension", "as it was run")
    return files.table(head, seen, lambda name: (_source(name, seen),), _cell, code)


def _source(name: str, seen: Seen) -> str:
    found = [host[name].get("source") for host in seen.values() if name in host]
    built_in = [HOSTS[key] for key, host in seen.items() if host.get(name, {}).get("source") == ""]
    parts = [*dict.fromkeys(filter(None, found)), *(f"{host}'s own" for host in built_in)]
    return "; ".join(parts) or "–"


def _cell(one: Mapping[str, Any]) -> str:
    if "impossible" in one:
        return f"{verdict(one)}: {one['impossible']}"
    report = one["report"]
    said = next((f"; said: `… {part}`" for part in SAID if part in report), "")
    aside = f": `{report}`" if report.startswith("not applied") else ""
    return f"{verdict(one)}{aside or said}"


def written(page: str, folder: Path = RESULTS) -> str:
    """The page with the table in its place."""
    return tables.written(page, KIND, table(load(folder)))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
