"""`python -m tests.mutation`: which changes are made, which tests are asked, and what counts as found."""

import json
import subprocess

import pytest

pytest.importorskip("cosmic_ray", reason="Cosmic Ray is not installed (the mutation extra)")


from tests.mutation import __main__ as program
from tests.mutation import mutants
from tests.mutation.covering import Covering

SOURCE = '''def grown(value: int | None, limit: int = 3) -> int | None:
    """One more than `value`."""
    while value < 0:
        value += 1
    if (
        value > limit
        and limit
    ):
        return limit
    return value + 1


def unasked():
    return 1


from dataclasses import dataclass
@dataclass(frozen=True)
class Kept:
    value: int = 1

    def is_known(self):
        return self.value is not None
'''
TESTS = """import sys

from nag_core.method.a import grown


def test_by_one():
    assert grown(-1) == 1


def test_that_fails_by_itself():
    assert False
"""
NAMES = [f"tests/unit/test_a.py::{name}" for name in ("test_by_one", "test_that_fails_by_itself")]
MODULE = "nag_core/method/a.py"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small project with what its tests run, as a first run would have noted it."""
    for name, text in ((MODULE, SOURCE), ("tests/unit/test_a.py", TESTS), ("pyproject.toml", "")):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "tree", check=True)
    lines = {str(line): NAMES for line in range(3, 11)} | {"1": [""], "13": [""]}
    noted = {"seconds": dict.fromkeys(NAMES, 0.1), "lines": {MODULE: lines}}
    (tmp_path / "covering.json").write_text(json.dumps(noted))
    monkeypatch.setattr(program, "ROOT", tmp_path / "tree")
    return tmp_path


def changes(difference):
    return [m for m in mutants.of_source(SOURCE, MODULE) if mutants.difference(SOURCE, m) == difference]


def test_what_nothing_can_tell_is_left_alone_and_everything_else_is_a_place(tree):
    places = {(mutant.line, mutant.column) for mutant in mutants.of_source(SOURCE, MODULE)}
    assert {line for line, _ in places} == {1, 3, 4, 5, 6, 7, 10, 14, 20, 23}
    assert changes("-        return self.value is not None\n+        return self.value is None")
    assert not changes("-        return self.value is not None\n+        return self.value != None")
    assert [column for line, column in places if line == 1] == [42]
    assert changes("-    return value + 1\n+    return value - 1")


def test_a_sample_is_of_places_and_the_same_for_the_same_seed(tree):
    root, folders = tree / "tree", ["nag_core/method"]
    first = mutants.sample(root, folders, 5, 1)
    assert first == mutants.sample(root, folders, 5, 1) != mutants.sample(root, folders, 5, 2)
    everything = mutants.sample(root, folders, 100, 1)
    places = {(mutant.line, mutant.column) for mutant in everything}
    assert len(places) == len(everything) < len(list(mutants.of_source(SOURCE, MODULE)))
    for mutant in everything:
        assert mutants.applied(SOURCE, mutant) != SOURCE
    with pytest.raises(ValueError, match="not of this source"):
        mutants.applied(SOURCE, everything[0]._replace(occurrence=99))


@pytest.mark.parametrize(
    ("line", "lines"), [(3, [3]), (4, [4]), (6, [5, 6, 7, 8]), (9, [9]), (1, [1, 2]), (14, [14])]
)
def test_a_change_belongs_to_its_whole_statement(line, lines):
    found = mutants.statement(SOURCE, line)
    assert [one for one in found if one != 2] == [one for one in lines if one != 2]


def test_tests_are_those_of_the_lines_and_of_the_file_where_the_import_runs_them(tree):
    covering = Covering(tree / "tree", tree / "covering.json")
    covering.seconds[NAMES[0]] = 9
    assert covering.tests(MODULE, range(3, 4)) == NAMES[::-1], "the quickest first"
    assert covering.tests(MODULE, range(1, 2)) == NAMES[::-1]
    assert covering.tests(MODULE, range(14, 15)) == []
    assert covering.tests("nag_core/other.py", range(1, 2)) == []
    assert [len(covering.within(seconds, NAMES)) for seconds in (0, 1, 9.2)] == [1, 1, 2]
    assert covering.within(0, NAMES) == [NAMES[1]]


@pytest.mark.parametrize(
    ("difference", "status"),
    [
        ("-    return value + 1\n+    return value - 1", "killed"),
        ("-        value > limit\n+        value >= limit", "survived"),
        ("-    return 1\n+    return 2", "uncovered"),
        ("-        value += 1\n+        value += 0", "timed out"),
    ],
)
def test_a_mutant_is_found_by_a_test_that_passes_without_it(tree, monkeypatch, difference, status):
    (mutant,) = changes(difference)
    trial = program.Trial(tree / "copy", tree)
    monkeypatch.setattr(program, "LEAST_SECONDS", 8 if status == "timed out" else 120)
    result = trial.of(mutant)
    assert (result["status"], result["by"]) == (status, NAMES[0] if status == "killed" else "")
    assert (trial.tree / MODULE).read_text() == SOURCE
    monkeypatch.setattr(program.Trial, "_tried", None)
    again = program.Trial(tree / "again", tree)
    assert again.of(mutant) == result, "it is not run a second time"
    later = program.Trial(tree / "later", tree, again=True)
    assert (len(later.known) == 1) == (status in ("killed", "timed out"))


def test_the_numbers_name_what_was_not_found_unless_it_is_explained(tree, monkeypatch, capsys):
    result = {"module": MODULE, "line": 6, "difference": "-a\n+b", "status": "survived"}
    program.tell([result, {**result, "status": "killed"}])
    assert capsys.readouterr().out == (
        f"\nsurvived: {MODULE}:6\n-a\n+b\n\nnag_core/method: 1 of 2 found, {{'survived': 1, 'killed': 1}}\n"
    )
    (tree / "explained.json").write_text(json.dumps({MODULE: {"-a\n+b": "the same"}}))
    monkeypatch.setattr(program, "EXPLAINED", tree / "explained.json")
    program.tell([result])
    assert capsys.readouterr().out == "\nnag_core/method: 0 of 1 found, {'explained': 1}\n"


def test_what_is_explained_still_stands_in_the_code():
    for module, reasons in json.loads(program.EXPLAINED.read_text("utf-8")).items():
        text = (program.ROOT / module).read_text("utf-8")
        for difference, reason in reasons.items():
            taken = [line[1:] for line in difference.splitlines() if line.startswith("-")]
            assert all(line in text.splitlines() for line in taken), (module, difference)
            assert reason.endswith(".")
