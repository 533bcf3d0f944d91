"""Which version of a WebUI this is, by the files of its folder alone: for what users are asked to report."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

UNKNOWN = "unknown version"

_NAMED = re.compile(r"""^(?:version|release)\s*=\s*["']([^"'\n]+)["']""", re.MULTILINE)
_HEADING = re.compile(r"^## (?:Update for )?(.+?)\s*$", re.MULTILINE)


def running() -> str:
    """The version of the WebUI this process runs in. Never raises."""
    folders = list(getattr(sys.modules.get("modules"), "__path__", ()))
    return of_folder(Path(folders[0]).parent) if folders else UNKNOWN


def of_folder(folder: Path) -> str:
    """What a WebUI calls its version, with the commit where git is there: "neo 2.26, commit 1f95d7170189".
    Never raises.

    Forge and its forks name it in modules_forge/forge_version.py; A1111 and SD.Next only in the first heading
    of their changelog.
    """
    names = _NAMED.findall(_text(folder / "modules_forge" / "forge_version.py"))
    names = names or _HEADING.findall(_text(folder / "CHANGELOG.md"))[:1]
    commit = re.match(r"[0-9a-f]{7,12}", _commit(folder / ".git"))
    parts = [" ".join(names), f"commit {commit[0]}" if commit else ""]
    return ", ".join(part for part in parts if part) or UNKNOWN


def _commit(git: Path) -> str:
    """The commit that is checked out, as git's own files say (git itself may not be installed)."""
    if not os.path.isdir(git):  # of a worktree or a submodule: a file that says where it is
        git = git.parent / _text(git).removeprefix("gitdir:").strip()
    head = _text(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return head
    name = head.removeprefix("ref:").strip()
    shared = git / (_text(git / "commondir").strip() or ".")
    packed = re.search(rf"^(\w+) {re.escape(name)}$", _text(shared / "packed-refs"), re.MULTILINE)
    return _text(shared / name).strip() or (packed[1] if packed else "")


def _text(file: Path) -> str:
    """Empty where there is no such text."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
