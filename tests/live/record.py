"""Writes what a suite said of a live WebUI, for the support tables (tests/live/support.py).

`pytest tests/live --webui-url ... --record tests/live/results --host reForge --family SD1.5` makes one file.
It names the code that the server ran, by its digest, and the host's version as the server reports it. A run
of a part of a suite says so, and does not count.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from nag_core import identity
from tests.live.client import WebUI

ROOT = Path(__file__).parents[2]
LIVE, BROWSER, NOWEBUI, AUTH, CHECKOUT = "live", "browser", "nowebui", "api-auth", "checkout"
# The files that make a suite; every file of its folder where there is none.
FILES = {NOWEBUI: {"test_api.py"}, AUTH: {"test_routes.py"}}


class Recorder:
    """A pytest plugin. The file is written when the run ends, whatever it said."""

    def __init__(self, config: Any) -> None:
        self.config = config
        # As the run begins: somebody may work on the code while it goes on.
        self.code = identity.digest()
        self.commit = commit()
        self.counts: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()
        self.failed: list[str] = []
        self.files: set[Path] = set()
        self.deselected = self.finished = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.files = {Path(item.path) for item in items}

    def pytest_deselected(self, items: list[Any]) -> None:
        # The slow tier and the kinds that the default options leave out are no part of these suites.
        apart = ("slow", "browser", "gpu")
        self.deselected += sum(not any(map(item.get_closest_marker, apart)) for item in items)

    def pytest_runtest_logfinish(self) -> None:
        self.finished += 1

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped:
            self.counts["skipped"] += 1
            self.skips[_reason(report)] += 1
        elif report.failed:
            self.counts["failed"] += 1
            self.failed.append(f"{report.nodeid} ({report.when})")
        elif report.when == "call":
            self.counts["passed"] += 1

    def pytest_sessionfinish(self, session: Any, exitstatus: int) -> None:
        option = self.config.getoption
        suite = self._suite()
        found = {
            "suite": suite,
            "host": option("--host"),
            "note": option("--host-note") or "",
            **_server(*map(option, ("--webui-url", "--checkpoint", "--scheduler", "--api-auth"))),
            "family": option("--family"),
            "commit": self.commit,
            "tests": self.code,
            "date": date.today().isoformat(),
            "whole": self._whole(suite) and self._to_the_end(session, exitstatus),
            **{name: self.counts[name] for name in ("passed", "skipped", "failed")},
            "failures": sorted(self.failed),
            "skips": dict(sorted(self.skips.items())),
        }
        name = "-".join([found["host"], found["family"] or "", suite]).lower()
        file = Path(option("--record")) / f"{re.sub(r'[^a-z0-9.]+', '-', name)}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _suite(self) -> str:
        option = self.config.getoption
        if option("--webui-dir"):
            return CHECKOUT
        if any(path.parent.name == BROWSER for path in self.files):
            return BROWSER
        if option("--api-auth"):
            return AUTH
        page = httpx.get(option("--webui-url"), follow_redirects=True, timeout=60)
        return LIVE if page.status_code == httpx.codes.OK else NOWEBUI

    def _whole(self, suite: str) -> bool:
        """Whether every test of the suite was asked for."""
        names = {path.name for path in self.files}
        folder = {CHECKOUT: "contract", BROWSER: "browser"}.get(suite, "live")
        pattern = "test_checkout*.py" if suite == CHECKOUT else "test_*.py"
        wanted = FILES.get(suite) or {path.name for path in (ROOT / "tests" / folder).glob(pattern)}
        return wanted <= names and not self.deselected

    def _to_the_end(self, session: Any, exitstatus: int) -> bool:
        """Whether every test that was asked for ran: no interrupt, no -x, no single test by its name."""
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        named = any("::" in str(argument) for argument in self.config.args)
        return ended and not named and self.finished == session.testscollected


def _reason(report: Any) -> str:
    """Why a test was skipped."""
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


def _server(url: str | None, *how: str | None) -> dict[str, Any]:
    """What the server says it is; a checkout has none, and its code is ours. how: as `WebUI` takes it."""
    if not url:
        return {"adapter": "", "version": "", "code": identity.digest()}
    webui = WebUI(url, *how)
    answer = webui.http.get("/nag/v1/version").json()
    version = re.search(r"Version: ([^,\n]+)", webui.txt2img().infotexts[0])
    return {
        "adapter": answer.get("host", ""),
        "version": version[1] if version else "",
        "code": answer.get("code", ""),
    }


def commit() -> str:
    """The commit of this code; empty for code that is in none."""
    return "" if _git("status", "--porcelain", *identity.FOLDERS) else _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
