"""Which code this is, for reports about it: installations of the same digest run the same code in a WebUI."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

VERSION = "0.2.0"
_PACKAGE = Path(__file__).parent
# What a WebUI runs, and what of it no WebUI runs.
FOLDERS = ("nag_core", "scripts", "javascript")
_APART = ("sandbox", "bench", "evaluate")


# Not `cache`: Python 3.8 reads this file, too, before the sandbox says that it is too old.
@lru_cache(maxsize=None)  # noqa: UP033
def digest() -> str:
    """Twelve hexadecimal digits over the files that run in a WebUI, whatever their line ends; of the files as
    they are at the first call (a WebUI's start), since that is the code that was loaded.
    """
    sums = hashlib.sha256()
    for path in sorted(_files(), key=lambda path: path.relative_to(_PACKAGE.parent).as_posix()):
        sums.update(path.relative_to(_PACKAGE.parent).as_posix().encode())
        sums.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return sums.hexdigest()[:12]


def _files() -> list[Path]:
    root = _PACKAGE.parent
    found = [file for name in FOLDERS for kind in ("*.py", "*.js") for file in (root / name).rglob(kind)]
    return [path for path in found if not set(path.relative_to(root).parts) & set(_APART)]
