"""Which code this is, for reports about it: two installations with the same digest behave alike."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
# What no WebUI runs.
_APART = ("sandbox", "bench", "evaluate")


@cache
def digest() -> str:
    """Twelve hexadecimal digits over the Python files that run in a WebUI; whatever their line ends."""
    sums = hashlib.sha256()
    for path in sorted(_files(), key=lambda path: path.relative_to(_PACKAGE.parent).as_posix()):
        sums.update(path.relative_to(_PACKAGE.parent).as_posix().encode())
        sums.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return sums.hexdigest()[:12]


def _files() -> list[Path]:
    found = [*_PACKAGE.rglob("*.py"), *(_PACKAGE.parent / "scripts").glob("*.py")]
    return [path for path in found if not set(path.relative_to(_PACKAGE.parent).parts) & set(_APART)]
