"""The one way this program gives up."""

from __future__ import annotations

FAILED, BAD_USE, NOT_APPLIED, INTERRUPTED = 1, 2, 3, 130


class EvaluationError(Exception):
    """One readable line: what happened and what to do. `code` is the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
