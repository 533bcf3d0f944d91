"""The table of neighbours in tests/README.md, made from the files in results/neighbours.

python -m tests.live.neighbours_table    puts it there
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nag_core import identity
from nag_core.evaluate import tables
from tests.live.neighbours import RESULTS, verdict
from tests.live.support import ROOT, STALE

PAGE = ROOT / "tests" / "README.md"
MARK = "neighbours"
HOSTS = {"forge-main": "Forge main", "forge-neo": "Forge Neo"}
SAID = ("a NAG of its own as well: the guidance is doubled", "takes nothing beside it")


def load(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was seen, by WebUI and neighbour."""
    files = {name: folder / f"{name}.json" for name in HOSTS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["neighbours"] if file.exists() else {}
        for name, file in files.items()
    }


def table(seen: Mapping[str, Mapping[str, Any]], code: str | None = None) -> str:
    """Markdown. code: the digest of today's code, by which cells are up to date or marked."""
    code = code or identity.digest()
    names = dict.fromkeys(name for host in seen.values() for name in host)
    head = ("extension", "as it was run", *(HOSTS[host] for host in seen))
    rows = [
        (name, _source(name, seen), *(_cell(host.get(name), code) for host in seen.values()))
        for name in names
    ]
    made = tables.markdown(head, rows)
    stale = any(STALE in cell for row in rows for cell in row)
    return made + (f"\n\n{STALE} Run on an earlier state of `nag_core/`.\n" if stale else "\n")


def _source(name: str, seen: Mapping[str, Mapping[str, Any]]) -> str:
    found = [host[name].get("source") for host in seen.values() if name in host]
    built_in = [HOSTS[key] for key, host in seen.items() if host.get(name, {}).get("source") == ""]
    parts = [*dict.fromkeys(filter(None, found)), *(f"{host}'s own" for host in built_in)]
    return "; ".join(parts) or "–"


def _cell(one: Mapping[str, Any] | None, code: str) -> str:
    if one is None:
        return "not run"
    if "impossible" in one:
        return f"{verdict(one)}: {one['impossible']}"
    report = one["report"]
    said = next((f"; said: `… {part}`" for part in SAID if part in report), "")
    aside = f": `{report}`" if report.startswith("not applied") else ""
    return f"{verdict(one)}{aside or said}{'' if one['code'] == code else STALE}"


def written(page: str, folder: Path = RESULTS) -> str:
    """The page with the table in its place."""
    return tables.written(page, MARK, table(load(folder)))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
