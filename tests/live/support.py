"""The support tables, made from the files in tests/live/results and by nobody's hand.

    python -m tests.live.support            prints the full one
    python -m tests.live.support --write    puts it into tests/README.md, and the short one into README.md

A row whose code is not today's is marked: the suites have not been run on that host since.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nag_core import identity
from nag_core.evaluate import tables

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
SUITES = {
    "live": "`tests/live`",
    "nowebui": "of it with `--nowebui`",
    "api-auth": "with `--api-auth`",
    "browser": "`tests/browser`",
    "checkout": "`tests/contract/test_checkout*.py`",
}
STALE = "¹"
Result = dict[str, Any]


class RefusedError(ValueError):
    """A result file that may not stand in the table; the message says which and why."""


def load(folder: Path = RESULTS, repository: Path = ROOT) -> list[Result]:
    """The result files. `RefusedError` for one of a commit that HEAD does not descend from, for one whose
    server ran other code than the tests knew, and for a run of a part of a suite.
    """
    results = [
        (file.name, json.loads(file.read_text(encoding="utf-8"))) for file in sorted(folder.glob("*.json"))
    ]
    for name, one in results:
        check(name, one, repository)
        if not one["whole"]:
            raise RefusedError(f"{name}: only a part of the suite was run")
    return [one for _, one in results]


def check(name: str, one: Result, repository: Path = ROOT) -> None:
    """`RefusedError` where the commit is not in the history, or the server ran code that was not known."""
    if _known(one["commit"], repository) is False:
        raise RefusedError(f"{name}: commit {one['commit'] or '(none)'} is not in this history")
    if one["code"] != one["tests"]:
        ran = one["code"] or "(unknown)"
        raise RefusedError(f"{name}: the server ran code {ran}, the tests knew {one['tests']}")


def table(results: Sequence[Result], code: str | None = None) -> str:
    """Markdown. code: the digest of today's code, by which rows are up to date or marked."""
    code = code or identity.digest()
    lines = [
        "| WebUI | version, as it reports itself | checkpoint | " + " | ".join(SUITES.values()) + " |",
        "|---|---|---|" + "---|" * len(SUITES),
    ]
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for one in results:
        rows.setdefault((one["host"], one["family"] or ""), {})[one["suite"]] = one
    lines += [_row(*key, suites, code) for key, suites in sorted(rows.items())]
    return "\n".join([*lines, *_note(results, code)]) + "\n"


def _row(host: str, family: str, suites: dict[str, Result], code: str) -> str:
    versions = sorted({_version(one) for one in suites.values()} - {""})
    cells = [_cell(suites[name], code) if name in suites else "–" for name in SUITES]
    return f"| {host} | {', '.join(versions)} | {family or '–'} | {' | '.join(cells)} |"


def _version(one: Result) -> str:
    return f"{one['version']} ({one['note']})" if one["version"] and one["note"] else one["version"]


def _cell(one: Result, code: str) -> str:
    failed = f", **{one['failed']} failed**" if one["failed"] else ""
    return f"{one['passed']} / {one['skipped']}{failed}{'' if one['code'] == code else STALE}"


def _known(commit: str, repository: Path) -> bool | None:
    """Whether HEAD descends from the commit; None where nobody can tell (no git, or a shallow clone).

    That the repository has it is not enough: after a rebase the old commits stay where it was made, and
    there alone.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", *arguments], cwd=repository, capture_output=True, text=True, check=False
        )

    try:
        shallow = git("rev-parse", "--is-shallow-repository")
    except OSError:
        return None
    if shallow.stdout.strip() != "false":
        return None
    return bool(commit) and git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0


def short(results: Sequence[Result], code: str | None = None) -> str:
    """Markdown, one row a WebUI: the checkpoints with which `tests/live` ran there. code: as in `table`."""
    code = code or identity.digest()
    found: dict[str, list[Result]] = {}
    for one in results:
        if one["suite"] == "live":
            found.setdefault(one["host"], []).append(one)
    lines = [
        (
            host,
            ", ".join(sorted({_version(one) for one in runs})),
            ", ".join(_checkpoint(one, code) for one in runs),
        )
        for host, runs in sorted(found.items())
    ]
    made = tables.markdown(("WebUI", "version, as it reports itself", "checkpoints"), lines)
    return "\n".join([made, *_note(results, code)]) + "\n"


def _checkpoint(one: Result, code: str) -> str:
    failed = f" (**{one['failed']} failed**)" if one["failed"] else ""
    return f"{one['family']}{failed}{'' if one['code'] == code else STALE}"


def _note(results: Sequence[Result], code: str) -> list[str]:
    if all(one["code"] == code for one in results):
        return []
    return ["", f"{STALE} Run on an earlier state of `nag_core/`."]


# The page, the marks in it, and what makes the table between them.
PLACES = {"tests/README.md": ("support", table), "README.md": ("where", short)}


def written(page: str, name: str, results: Sequence[Result]) -> str:
    """The page of that name with its table in its place."""
    mark, make = PLACES[name]
    return tables.written(page, mark, make(results))


def main(arguments: Sequence[str]) -> int:
    """Prints or writes the tables; 1 with one line where a file is refused."""
    try:
        results = load()
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if "--write" not in arguments:
        sys.stdout.write(table(results))
        return 0
    for name in PLACES:
        file = ROOT / name
        file.write_text(written(file.read_text(encoding="utf-8"), name, results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
