"""The table of soaks in tests/README.md, made from the files in results/soak.

soak.py and clients.py wrote them on each WebUI: WEBUI-with.json, WEBUI-without.json and WEBUI-clients.json.

python -m tests.live.soak_table    puts it there
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nag_core.evaluate import tables
from tests.live.support import ROOT

PAGE = ROOT / "tests" / "README.md"
RESULTS = Path(__file__).parent / "results" / "soak"
MARK = "soak"
HOSTS = {"forge-main": "Forge main", "forge-neo": "Forge Neo"}


def load(host: str) -> dict[str, dict[str, Any]]:
    """The three results of a WebUI."""
    files = {kind: RESULTS / f"{host}-{kind}.json" for kind in ("with", "without", "clients")}
    return {kind: json.loads(file.read_text(encoding="utf-8")) for kind, file in files.items()}


def column(seen: dict[str, dict[str, Any]]) -> dict[str, str]:
    """A WebUI's cells by line."""
    soak, bare, clients = (seen[kind] for kind in ("with", "without", "clients"))
    counts, met = soak["counts"], clients["counts"]
    other = [number for number, files in soak["drawn"].items() if bare["drawn"][number] != files]
    jobs = sum(count for name, count in met.items() if " client by the " in name)
    minutes = f"{clients['seconds'] / 60:.0f} minutes"
    return {
        "jobs (on, off, of these interrupted)": f"{counts['on'] + counts['off']} ({counts['on']}, "
        f"{counts['off']}, {counts['interrupted']})",
        "compared with their first twin: on, off": f"{counts['twins compared, on']}, "
        f"{counts['twins compared, off']}",
        "different off jobs; of these unlike the WebUI's without NAG": f"{len(soak['drawn'])}; {len(other)}",
        "found: unlike its twin, left behind, memory": _number(soak),
        "resident memory at the end, and its change since the first twins, MiB": _memory(soak),
        "the same without NAG": _memory(bare),
        "change of all tensors since the first twins, MiB; without NAG": "; ".join(
            f"{one['memory']['tensors_growth_mib']:.0f}" for one in (soak, bare)
        ),
        f"two clients, {minutes}: jobs, interrupts": f"{jobs}, {met['interrupts']}",
        "compared in full with the job alone": f"{met['compared with alone']}",
        "found: another's seed, settings, negative, report or picture": _number(clients),
    }


def _number(one: dict[str, Any]) -> str:
    return str(len(one["findings"]) or "nothing")


def _memory(one: dict[str, Any]) -> str:
    found = one["memory"]
    return f"{found['resident_mib'][-1]:.0f}, {found['growth_mib']:+.0f}"


def written(page: str) -> str:
    """The page with the table in its place."""
    columns = [column(load(host)) for host in HOSTS]
    lines = [(name, *(one[name] for one in columns)) for name in columns[0]]
    return tables.written(page, MARK, tables.markdown(("", *HOSTS.values()), lines) + "\n")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
