"""The support table of the README, made from the files in tests/live/results and by nobody's hand.

    python -m tests.live.support            prints it
    python -m tests.live.support --write    puts it into README.md

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

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
START, END = "<!-- support -->\n", "<!-- /support -->\n"
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
    """The result files. `RefusedError` for one of a commit that the repository does not have, for one whose
    server ran other code than the tests knew, and for a run of a part of a suite.
    """
    results = [
        (file.name, json.loads(file.read_text(encoding="utf-8"))) for file in sorted(folder.glob("*.json"))
    ]
    for name, one in results:
        if _known(one["commit"], repository) is False:
            raise RefusedError(f"{name}: commit {one['commit'] or '(none)'} is not in this repository")
        if one["code"] != one["tests"]:
            ran = one["code"] or "(unknown)"
            raise RefusedError(f"{name}: the server ran code {ran}, the tests knew {one['tests']}")
        if not one["whole"]:
            raise RefusedError(f"{name}: only a part of the suite was run")
    return [one for _, one in results]


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
    if any(one["code"] != code for one in results):
        lines += ["", f"{STALE} Run on an earlier state of `nag_core/`."]
    return "\n".join(lines) + "\n"


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
    """Whether the repository has the commit; None where nobody can tell (no git, or a shallow clone)."""

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
    return bool(commit) and git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def written(readme: str, made: str) -> str:
    """The README with the table in its place."""
    before, found, rest = readme.partition(START)
    if not found or END not in rest:
        raise ValueError(f"README.md has no {START.strip()} ... {END.strip()}")
    return f"{before}{START}{made}{END}{rest.partition(END)[2]}"


def main(arguments: Sequence[str]) -> int:
    """Prints or writes the table; 1 with one line where a file is refused."""
    try:
        made = table(load())
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if "--write" in arguments:
        file = ROOT / "README.md"
        file.write_text(written(file.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        sys.stdout.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
