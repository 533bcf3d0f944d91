"""What programs saw on running WebUIs: one file for each WebUI, and a table of these files on a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nag_core import identity
from nag_core.evaluate import tables
from tests.live.support import ROOT, STALE

PAGE = ROOT / "tests" / "README.md"
# The files' names, and what the page calls these WebUIs.
HOSTS = {"forge-main": "Forge main", "forge-neo": "Forge Neo"}
# Next to nothing: what still differs from the picture without NAG then is not guidance.
WHISPER = 0.001
LEVELS = 4  # of 256
Seen = Mapping[str, Mapping[str, Any]]


def read(file: Path, kind: str) -> dict[str, Any]:
    """What a WebUI's file has of this kind, by name; empty without the file."""
    return json.loads(file.read_text(encoding="utf-8"))[kind] if file.exists() else {}


def write(file: Path, made: dict[str, Any]) -> None:
    """Replaces a WebUI's file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What was seen, by WebUI and name."""
    return {name: read(folder / f"{name}.json", kind) for name in HOSTS}


def table(
    head: Sequence[str],
    seen: Seen,
    first: Callable[[str], Sequence[str]],
    cell: Callable[[Mapping[str, Any]], str],
    code: str | None = None,
) -> str:
    """Markdown: a row for each name, with the cells of `first` ahead of one for each WebUI.

    code: the digest of today's code, by which cells are up to date or marked.
    """
    code = code or identity.digest()

    def marked(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return "not run"
        return cell(one) + (STALE if one.get("code", code) != code else "")

    names = dict.fromkeys(name for host in seen.values() for name in host)
    rows = [(name, *first(name), *(marked(host.get(name)) for host in seen.values())) for name in names]
    made = tables.markdown((*head, *(HOSTS[host] for host in seen)), rows)
    stale = any(one.get("code", code) != code for host in seen.values() for one in host.values())
    return made + (f"\n\n{STALE} Run on an earlier state of `nag_core/`.\n" if stale else "\n")
