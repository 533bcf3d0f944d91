"""Sources that the table is content with, and changes of them that it must find."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests import host_table
from tests.host_table import Entry, Function, Word


def renamed(text: str, entry: Entry) -> str:
    """A source in which the thing has another name, wherever it stands."""
    name = entry.name.rpartition(".")[2]
    return re.sub(rf"\b{re.escape(name)}\b", f"{name}_of_old", text)


def copied(tree: Path, folder: Path, entry: Entry, change=renamed) -> Path:
    """`folder` with the entry's files of `tree`, changed."""
    for name in entry.files:
        if (tree / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            text = (tree / name).read_text(encoding="utf-8-sig")
            (folder / name).write_text(change(text, entry), encoding="utf-8")
    return folder


def write(tree: Path, host: str) -> None:
    """The smallest checkout of the host that has all that the table names, in the first file of each."""
    modules: dict[str, list[Entry]] = defaultdict(list)
    for entry in host_table.entries(host):
        modules[entry.files[0]].append(entry)
    for name, entries in modules.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("\n".join(_source(entries)) + "\n", encoding="utf-8")


def _source(entries: list[Entry]) -> Iterator[str]:
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if not isinstance(entry, Word):
            members[entry.name.rpartition(".")[0].replace("*", "Anything")].append(entry)
    for entry in members.pop("", []):
        if entry.name not in members:
            yield f"{signature(entry)}: ..." if isinstance(entry, Function) else f"{entry.name} = None"
    for owner, inner in members.items():
        yield f"class {owner}:"
        for entry in inner:
            is_function = isinstance(entry, Function)
            yield f"    {signature(entry)}: ..." if is_function else f"    {_last(entry)} = None"
    yield f"WORDS = {[entry.name for entry in entries if isinstance(entry, Word)]}"


def signature(entry: Function, more: str = "") -> str:
    """The head of a function that takes just what we pass, and `more`."""
    order = [one.partition("|")[0] for one in entry.order] or [f"a{n}" for n in range(entry.args)]
    positional = ["self", *order] if "." in entry.name else order
    named = ["*", *(f"{name}=None" for name in entry.names)] if entry.names else []
    return f"def {_last(entry)}({', '.join([*positional, *([more] if more else []), *named])})"


def _last(entry: Entry) -> str:
    return entry.name.rpartition(".")[2]
