"""The README's table of presets and of where their values are from.

`python -m nag_core.evaluate.values README.md .github/readme/*.md` writes it, and its numbers into the pages
in other languages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nag_core.evaluate import tables
from nag_core.settings import presets
from nag_core.settings.families import FAMILIES

_PAPER = "[paper](https://arxiv.org/abs/2505.21179), Table 5"


def table() -> str:
    """One line a row: its values, the families for which Auto takes it, whose it is."""
    head = ("preset", "φ", "τ", "α", "End", "Auto takes it for", "source")
    return tables.markdown(head, [_line(name) for name in (*presets.TABLE_5, *presets.COMMUNITY)])


def _line(name: str) -> tuple[str, ...]:
    values, row = presets.values(name), presets.COMMUNITY.get(name)
    numbers = (f"{values.get(key, 1):g}" for key in (*presets.STRENGTHS, "end"))
    source = f"[{row.source}]({row.address}): {row.made_with}" if row else _PAPER
    return (name, *numbers, ", ".join(one.name for one in FAMILIES if one.row == name), source)


def numbers() -> str:
    """The same without the last two columns, which are in English."""
    lines = (_line(name)[:5] for name in (*presets.TABLE_5, *presets.COMMUNITY))
    return tables.markdown(("preset", "φ", "τ", "α", "End"), lines)


def written(page: str) -> str:
    """The page with the table between its marks, "values" in English and "numbers" in other languages."""
    if "<!-- values -->" in page:
        return tables.written(page, "values", f"{table()}\n")
    return tables.written(page, "numbers", f"{numbers()}\n")


if __name__ == "__main__":
    for target in map(Path, sys.argv[1:]):
        target.write_text(written(target.read_text(encoding="utf-8")), encoding="utf-8")
