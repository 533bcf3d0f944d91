"""Errors of scripts are reported, never raised: a broken script must not cost the user his picture."""

import sys
import textwrap
import traceback

exception_records: list[dict[str, str]] = []
KEPT = 5


def record_exception() -> None:
    """Remember the exception being handled; only the latest few are kept."""
    error = sys.exc_info()[1]
    if error is not None:
        exception_records.append({"exception": str(error), "traceback": traceback.format_exc()})
        del exception_records[:-KEPT]


def report(message: str, *, exc_info: bool = False) -> None:
    """Write `*** message` to stderr, with the traceback of the exception being handled when asked."""
    record_exception()
    for line in message.splitlines():
        sys.stderr.write(f"*** {line}\n")
    if exc_info:
        sys.stderr.write(textwrap.indent(traceback.format_exc(), "    ") + "\n---\n")
    sys.stderr.flush()


def display(error: BaseException, task: str) -> None:
    """Report an exception by the task that met it."""
    report(f"{task or 'error'}: {type(error).__name__}: {error}", exc_info=True)
