"""Which tests run which lines: the unit and contract tests once, under coverage, a context for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = ("tests/unit", "tests/contract")
# They read the sources themselves, so that any change of a file would be found by them.
READERS = ("tests/unit/test_support.py", "tests/unit/test_structure.py", "tests/unit/test_readme.py")


class Covering:
    """The tests of a line, the quickest unit tests first. Made once, and kept in `file`."""

    def __init__(self, root: Path, file: Path) -> None:
        if not file.is_file():
            command = [sys.executable, "-m", "tests.mutation.covering", str(file.resolve())]
            subprocess.run(command, cwd=root, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = json.loads(file.read_text(encoding="utf-8"))
        self.seconds, self.lines = found["seconds"], found["lines"]

    def tests(self, module: str, lines: range) -> list[str]:
        """Those that run one of a module's lines; of lines that run at its import, those that run any."""
        by_line = self.lines.get(module, {})
        names = {name for line in lines for name in by_line.get(str(line), ())} - {""}
        if not names and any(str(line) in by_line for line in lines):
            names = {name for some in by_line.values() for name in some} - {""}
        order = {name: number for number, name in enumerate(self.seconds)}

        # Contract tests share a host, and keep the order in which that is known to go well.
        def place(name: str) -> tuple:
            shared = name.startswith("tests/contract/")
            return shared, order.get(name, 0) if shared else self.seconds.get(name, 0), name

        return sorted(names, key=place)

    def within(self, seconds: float, tests: list[str]) -> list[str]:
        """Of these tests, in their order, the quickest that take no longer together."""
        kept, taken = set(), 0.0
        for name in sorted(tests, key=lambda name: self.seconds.get(name, 0)):
            taken += self.seconds.get(name, 0)
            if kept and taken > seconds:
                break
            kept.add(name)
        return [name for name in tests if name in kept]


class _Contexts:
    """A pytest plugin: coverage's context is the test that runs, its fixtures with it."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.seconds, self.failed = coverage, {}, []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def main(file: str) -> None:
    """Runs the tests in this process and writes what they ran."""
    import coverage
    import pytest

    cover = coverage.Coverage(data_file=None, source=["nag_core"])
    cover.start()
    contexts = _Contexts(cover)
    left_out = [f"--ignore={name}" for name in READERS]
    pytest.main(["-q", "-p", "no:cacheprovider", *TESTS, *left_out], plugins=[contexts])
    cover.stop()
    data, root = cover.get_data(), Path.cwd()
    lines = {}
    for name in data.measured_files():
        by_line = data.contexts_by_lineno(name).items()
        of_file = {line: sorted(set(names) - set(contexts.failed)) for line, names in by_line}
        lines[Path(name).relative_to(root).as_posix()] = of_file
    Path(file).write_text(json.dumps({"seconds": contexts.seconds, "lines": lines}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
