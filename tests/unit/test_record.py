"""What a run of a suite on a live WebUI leaves behind: counts, reasons, and whether it was a whole run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nag_core import identity
from tests.live import record

LIVE_FILES = [str(path) for path in (record.ROOT / "tests" / "live").glob("test_*.py")]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """`ran(files, outcomes, ...)` plays a run of pytest and gives the file that it wrote."""
    monkeypatch.setattr(
        record, "_server", lambda url, *how: {"adapter": "a", "version": "1", "code": identity.digest()}
    )
    monkeypatch.setattr(
        record.httpx, "get", lambda *args, **more: SimpleNamespace(status_code=options["page"])
    )
    options = {"page": 200}

    def play(files=LIVE_FILES, outcomes=("passed",), collected=None, exitstatus=0, args=(), **given):
        options.update({"page": given.pop("page", 200)})
        asked = {
            "--record": str(tmp_path), "--host": "reForge", "--webui-url": "http://host", "--family": "SD1.5",
            **given,
        }  # fmt: skip
        recorder = record.Recorder(SimpleNamespace(getoption=asked.get, args=list(args)))
        recorder.pytest_collection_modifyitems([SimpleNamespace(path=path) for path in files])
        for outcome in outcomes:
            recorder.pytest_runtest_logreport(report(outcome))
            recorder.pytest_runtest_logfinish()
        session = SimpleNamespace(testscollected=len(outcomes) if collected is None else collected)
        recorder.pytest_sessionfinish(session, exitstatus)
        (file,) = tmp_path.glob("*.json")
        return file.name, json.loads(file.read_text())

    return play


def report(outcome):
    return SimpleNamespace(
        skipped=outcome == "skipped", failed=outcome == "failed", when="call", nodeid="a::b",
        longrepr=("file", 3, "Skipped: no second checkpoint"),
    )  # fmt: skip


def test_counts_and_reasons_of_a_whole_run(ran):
    name, found = ran(outcomes=("passed", "passed", "skipped", "failed"), exitstatus=1)
    assert name == "reforge-sd1.5-live.json"
    assert [found[key] for key in ("passed", "skipped", "failed", "whole")] == [2, 1, 1, True]
    assert found["skips"] == {"no second checkpoint": 1}
    assert found["failures"] == ["a::b (call)"]
    assert found["code"] == found["tests"] == identity.digest()


@pytest.mark.parametrize(
    "run",
    [
        {"exitstatus": 2},
        {"collected": 5},
        {"args": ["tests/live/test_api.py::test_one"]},
        {"files": LIVE_FILES[1:]},
    ],
    ids=["interrupted", "stopped at the first failure", "one test by name", "a file less"],
)
def test_a_part_of_a_suite_is_no_whole_run(ran, run):
    assert ran(**run)[1]["whole"] is False


def test_tests_that_a_keyword_left_out_make_it_a_part(ran, monkeypatch):
    original = record.Recorder.pytest_collection_modifyitems

    def leaving_out(*markers):
        def collected(recorder, items):
            original(recorder, items)
            recorder.pytest_deselected([SimpleNamespace(get_closest_marker=markers.__contains__)])

        monkeypatch.setattr(record.Recorder, "pytest_collection_modifyitems", collected)

    leaving_out("slow")
    assert ran()[1]["whole"] is True
    leaving_out()
    assert ran()[1]["whole"] is False


@pytest.mark.parametrize(
    ("suite", "given"),
    [
        ("nowebui", {"files": ["tests/live/test_api.py"], "page": 404}),
        ("api-auth", {"files": ["tests/live/test_routes.py"], "--api-auth": "a:b"}),
        ("browser", {"files": [str(p) for p in Path(record.ROOT, "tests", "browser").glob("test_*.py")]}),
        ("checkout", {
            "files": [str(p) for p in Path(record.ROOT, "tests", "contract").glob("test_checkout*.py")],
            "--webui-dir": "folder", "--webui-url": None,
        }),
    ],
)  # fmt: skip
def test_a_suite_is_known_by_its_files_and_by_its_server(ran, suite, given):
    _, found = ran(**given)
    assert (found["suite"], found["whole"]) == (suite, True)
