"""Files that are whole or not there, whatever ends the program."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from nag_core.evaluate.errors import EvaluationError


def read_json(path: Path) -> Any:
    """The file's content; None for one that is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Raises EvaluationError as `write` does."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def write(path: Path, data: bytes) -> None:
    """Puts the file there, and its folder. Raises EvaluationError when it cannot."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise EvaluationError(
            f"cannot write {path}: {error.strerror or error}; what was written before is whole"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
