"""The table of model families in tests/README.md, made from the files in results/families.

python -m tests.live.families_table    puts it there
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nag_core.evaluate import tables
from tests.live import seen as files
from tests.live.families import KIND, RESULTS, verdict
from tests.live.seen import PAGE, Seen
from tests.live.support import check


def load(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """What was seen, by WebUI and family. `support.RefusedError` for what ran code that nobody knows."""
    found = {host: seen for host, seen in files.load(folder, KIND).items() if seen}
    for host, seen in found.items():
        for family, one in seen.items():
            check(f"{host}, {family}", dict(one))
    return found


def table(seen: Seen, code: str | None = None) -> str:
    """Markdown. code: as in `seen.table`."""
    return files.table(("family",), seen, lambda _: (), _cell, code)


def _cell(one: Mapping[str, Any]) -> str:
    said = one.get("fails") or one["reports"]["on"]
    return f"{verdict(dict(one))}: `{said}`"


def written(page: str, folder: Path = RESULTS) -> str:
    """The page with the table in its place."""
    return tables.written(page, KIND, table(load(folder)))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
