"""A checkout of a WebUI against tests/host_table.py: what of it is no longer as the extension needs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests import host_table
from tests.host_table import Entry, Word

_SOURCES = ("modules", "backend", "ldm_patched", "modules_forge", "scripts", "extensions-builtin")


def changes(tree: Path, host: str) -> dict[str, list[str]]:
    """By part of the table, one sentence for each thing of it that the checkout has no more as it was. A file
    that is gone is one, whatever was needed of it.
    """
    texts = list(_texts(tree))
    said: dict[str, list[str]] = {}
    for part, table in host_table.PARTS.items():
        gone: dict[tuple[str, ...], list[str]] = {}
        for entry in table:
            sentence = host_table.missing(tree, entry) if host in entry.hosts else ""
            if sentence and not any((tree / name).is_file() for name in entry.files):
                gone.setdefault(entry.files, []).append(entry.name.removeprefix("*."))
            elif sentence:
                said.setdefault(part, []).append(sentence + _elsewhere(texts, entry))
        said.setdefault(part, []).extend(
            f"there is no {' or '.join(files)} any more ({', '.join(dict.fromkeys(names))})"
            for files, names in gone.items()
        )
    return {part: sentences for part, sentences in said.items() if sentences}


def _texts(tree: Path) -> Iterator[tuple[str, str]]:
    """Every source file of the host by its name within the checkout."""
    for folder in _SOURCES:
        for file in sorted((tree / folder).rglob("*.py")):
            yield file.relative_to(tree).as_posix(), file.read_text(encoding="utf-8", errors="replace")


def _elsewhere(texts: list[tuple[str, str]], entry: Entry) -> str:
    """Which other files define a function or class of that name now; empty for what has no definition."""
    name = entry.name.rpartition(".")[2]
    if isinstance(entry, Word) or name.startswith("__"):
        return ""
    defined = re.compile(rf"^\s*(?:async def|def|class) {re.escape(name)}\b", re.MULTILINE)
    found = [where for where, text in texts if where not in entry.files and defined.search(text)]
    return f"; now in {' and '.join(found)}?" if 0 < len(found) < 4 else ""
