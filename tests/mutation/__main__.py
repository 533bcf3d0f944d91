"""`python -m tests.mutation FOLDER ... --into RESULTS`: how many changes of the code do the tests notice?

A seeded sample of Cosmic Ray's mutants, each tried in a copy of the tree against the unit and contract tests
that run its lines. RESULTS is a folder: what is there is not run again, so that a run can be broken off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import mutants
from tests.mutation.covering import Covering
from tests.mutation.mutants import Mutant

ROOT = Path(__file__).parents[2]
FOLDERS = ["nag_core/method", "nag_core/passes", "nag_core/hosts"]
LEAST_SECONDS = 240
EXPLAINED = Path(__file__).with_name("explained.json")
KILLED, TIMED_OUT, SURVIVED, UNCOVERED = "killed", "timed out", "survived", "uncovered"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=FOLDERS, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of tests of a folder, the quickest")
    parser.add_argument("--again", action="store_true", help="try those once more that were not found")
    parser.add_argument("--into", type=Path, required=True, metavar="RESULTS")
    given = parser.parse_args(arguments)
    given.into.mkdir(parents=True, exist_ok=True)
    chosen = mutants.sample(ROOT, given.folders, given.count, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), given.into, given.again, given.seconds)
        results = [trial.of(mutant) for mutant in chosen]
    tell(results)
    return 0


class Trial:
    """Mutants tried in a copy of the tree."""

    def __init__(self, copy: Path, into: Path, again: bool = False, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self.tree, self.file = copy / "tree", into / "results.jsonl"
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self.covering = Covering(self.tree, into / "covering.json")
        self.sound: dict[str, bool] = {}
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        self.known = {result["key"]: result for result in map(json.loads, lines)}
        if again:
            kept = self.known.items()
            self.known = {key: one for key, one in kept if one["status"] in (KILLED, TIMED_OUT)}

    def of(self, mutant: Mutant) -> dict[str, Any]:
        """The mutant's fate: of an earlier run where nothing has changed, else found out and noted."""
        text = (ROOT / mutant.module).read_text(encoding="utf-8")
        difference = mutants.difference(text, mutant)
        tests = self.covering.tests(mutant.module, mutants.statement(text, mutant.line))
        key = hashlib.sha256(json.dumps([mutant, difference, text]).encode()).hexdigest()[:16]
        if key not in self.known:
            begun = time.monotonic()
            status, by = self._tried(mutant, text, tests)
            result = {
                "key": key, "module": mutant.module, "line": mutant.line, "operator": mutant.operator,
                "difference": difference, "status": status, "by": by, "tests": len(tests),
                "seconds": round(time.monotonic() - begun, 1),
            }  # fmt: skip
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(result) + "\n")
            print(f"{status:10} {mutant.module}:{mutant.line} {by}", flush=True)
            self.known[key] = result
        return self.known[key]

    def _tried(self, mutant: Mutant, text: str, tests: list[str]) -> tuple[str, str]:
        """What became of it, and the test that found it."""
        if not tests:
            return UNCOVERED, ""
        file, changed = self.tree / mutant.module, mutants.applied(text, mutant)
        try:
            # The contract tests' host takes seconds to start.
            for folder in ("tests/unit/", "tests/contract/"):
                some = self.covering.within(self.seconds, [one for one in tests if one.startswith(folder)])
                file.write_text(changed, encoding="utf-8")
                while failed := self._first_failure(some):
                    if failed == TIMED_OUT:
                        return TIMED_OUT, ""
                    if self._is_sound(failed, file, text, changed):
                        return KILLED, failed
                    some = [name for name in some if name != failed]
        finally:
            file.write_text(text, encoding="utf-8")
        return SURVIVED, ""

    def _is_sound(self, test: str, file: Path, text: str, changed: str) -> bool:
        """Whether a test by itself fails with the mutant and passes without it."""
        if not self._first_failure([test]):
            return False
        if test not in self.sound:
            file.write_text(text, encoding="utf-8")
            self.sound[test] = not self._first_failure([test])
            file.write_text(changed, encoding="utf-8")
        return self.sound[test]

    def _first_failure(self, tests: list[str]) -> str:
        """The first of the tests that fails, TIMED_OUT, or nothing."""
        if not tests:
            return ""
        listed = self.tree.parent / "tests.txt"
        listed.write_text("\n".join(tests), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-rfE"]
        limit = LEAST_SECONDS + 10 * sum(self.covering.seconds.get(name, 1) for name in tests)
        try:
            done = subprocess.run(
                [*command, f"@{listed}"], cwd=self.tree, capture_output=True, text=True, check=False,
                timeout=limit, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        if done.returncode == 0:
            return ""
        if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise RuntimeError(f"no such tests: {done.stdout[-500:]}")
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        failed = lines[0].partition(" ")[2].partition(" - ")[0].strip() if lines else ""
        # A source that does not even import fails at the collection, of whatever test.
        return failed if failed in tests else tests[0]


def tell(results: list[dict[str, Any]]) -> None:
    """Prints the numbers, and every mutant that was not found."""
    reasons = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    counted: dict[str, Counter] = {}
    for result in results:
        reason = reasons.get(result["module"], {}).get(result["difference"])
        status = "explained" if reason and result["status"] in (SURVIVED, UNCOVERED) else result["status"]
        counted.setdefault("/".join(result["module"].split("/")[:2]), Counter())[status] += 1
        if status in (SURVIVED, UNCOVERED):
            print(f"\n{status}: {result['module']}:{result['line']}\n{result['difference']}")
    print()
    for folder, numbers in sorted(counted.items()):
        found, all_of_it = numbers[KILLED] + numbers[TIMED_OUT], sum(numbers.values())
        print(f"{folder}: {found} of {all_of_it} found, {dict(numbers)}")


if __name__ == "__main__":
    sys.exit(main())
