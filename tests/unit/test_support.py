"""The support tables: made from result files, which are held to the code that they are about."""

import json
import subprocess

import pytest

from nag_core import identity
from tests.live import support
from tests.readme import PAGES

ONE = {
    "suite": "live", "host": "reForge", "note": "", "adapter": "ldm_patched", "version": "f1.2",
    "family": "SD1.5", "code": "aaa", "tests": "aaa", "date": "2026-01-01", "whole": True, "passed": 98,
    "skipped": 4, "failed": 0, "failures": [], "skips": {"no second checkpoint": 4},
}  # fmt: skip


def git(root, *arguments):
    """What git prints."""
    identity_of = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *identity_of, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A git repository with one commit: (folder for results, folder, commit)."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    (tmp_path / "results").mkdir()
    return tmp_path / "results", tmp_path, git(tmp_path, "rev-parse", "HEAD")


def put(folder, **changes):
    one = {**ONE, **changes}
    (folder / f"{one['host']}-{one['family']}-{one['suite']}.json".lower()).write_text(json.dumps(one))


def test_a_row_a_host_and_family_with_its_suites_in_columns(repository):
    folder, root, commit = repository
    put(folder, commit=commit)
    put(folder, commit=commit, suite="browser", passed=37, skipped=0)
    put(folder, commit=commit, host="Forge Neo", version="neo-2.26", note="a fork's tree", family="Klein")
    lines = support.table(support.load(folder, root), "aaa").splitlines()
    assert lines[2:] == [
        "| Forge Neo | neo-2.26 (a fork's tree) | Klein | 98 / 4 | – | – | – | – |",
        "| reForge | f1.2 | SD1.5 | 98 / 4 | – | – | 37 / 0 | – |",
    ]


def test_a_row_of_earlier_code_is_marked(repository):
    folder, root, commit = repository
    put(folder, commit=commit)
    made = support.table(support.load(folder, root), "bbb")
    assert "| 98 / 4¹ |" in made
    assert made.endswith("¹ Run on an earlier state of `nag_core/`.\n")


def test_failures_are_shown(repository):
    folder, root, commit = repository
    put(folder, commit=commit, failed=2)
    assert "98 / 4, **2 failed**" in support.table(support.load(folder, root), "aaa")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"commit": "0" * 40}, "commit 0000000000000000000000000000000000000000 is not in this history"),
        ({"commit": ""}, r"commit \(none\) is not in this history"),
        ({"code": "bbb"}, "the server ran code bbb, the tests knew aaa"),
        ({"code": ""}, r"the server ran code \(unknown\)"),
        ({"whole": False}, "only a part of the suite was run"),
    ],
    ids=["unknown commit", "uncommitted code", "other code", "an older extension", "a part"],
)
def test_what_does_not_count_is_refused(repository, changes, said):
    folder, root, commit = repository
    put(folder, **{"commit": commit, **changes})
    with pytest.raises(support.RefusedError, match=said):
        support.load(folder, root)


def test_a_commit_that_was_rewritten_is_refused_where_it_was_made_too(repository):
    """There the repository still has it, so that the table passed here and failed in every clone."""
    folder, root, commit = repository
    git(root, "commit", "-q", "--allow-empty", "--amend", "-m", "another word")
    put(folder, commit=commit)
    with pytest.raises(support.RefusedError, match="is not in this history"):
        support.load(folder, root)


def test_the_short_table_has_a_row_a_host_with_its_checkpoints(repository):
    folder, root, commit = repository
    put(folder, commit=commit)
    put(folder, commit=commit, suite="browser")
    put(folder, commit=commit, family="SDXL", failed=2, code="bbb", tests="bbb")
    made = support.short(support.load(folder, root), "aaa")
    assert "\n| reForge | f1.2 | SD1.5, SDXL (**2 failed**)¹ |\n" in made
    assert made.endswith("¹ Run on an earlier state of `nag_core/`.\n")


@pytest.mark.parametrize("name", support.PLACES)
def test_the_support_tables_are_what_the_files_say(name):
    """Red after a change of nag_core: `python -m tests.live.support --write` marks what to run again."""
    results = support.load()
    assert results, "no run is recorded"
    assert support.written(PAGES[name], name, results) == PAGES[name]


def test_the_digest_is_of_the_files_that_run_in_a_webui(tmp_path, monkeypatch):
    def digest_of(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text)
        identity.digest.cache_clear()
        return identity.digest()

    monkeypatch.setattr(identity, "_PACKAGE", tmp_path / "nag_core")
    first = digest_of({"nag_core/a.py": b"1\n", "scripts/s.py": b"2\n", "nag_core/sandbox/b.py": b"3\n"})
    assert digest_of({"nag_core/a.py": b"1\r\n", "nag_core/sandbox/b.py": b"4\n", "README.md": b"5"}) == first
    assert digest_of({"nag_core/a.py": b"6\n"}) != first
    assert digest_of({"nag_core/a.py": b"1\n", "scripts/s.py": b"7\n"}) != first
    identity.digest.cache_clear()
