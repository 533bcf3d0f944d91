"""The WebUI under test: the one at --webui-url, or a sandbox started for the run."""

import json
from pathlib import Path

import pytest

from tests.live.client import WebUI
from tests.live.fingerprint import fingerprint, guided_job
from tests.live.serving import ROOT, sandbox

TEST_EXTENSION = Path(__file__).parent / "extension"


@pytest.fixture(scope="session")
def webui(request, tmp_path_factory):
    url = request.config.getoption("--webui-url")
    asked = tuple(map(request.config.getoption, ("--checkpoint", "--scheduler", "--api-auth")))
    if url:
        yield WebUI(url, *asked)
        return
    with sandbox(tmp_path_factory.mktemp("sandbox"), ROOT / "scripts", TEST_EXTENSION / "scripts") as url:
        own = WebUI(url, *asked)
        own.first_job = guided_job(own)
        yield own


@pytest.fixture
def without_extension(request, tmp_path):
    """The fingerprint of the same WebUI without the extension."""
    file = request.config.getoption("--fingerprint")
    if file:
        return json.loads(Path(file).read_text())
    if request.config.getoption("--webui-url"):
        pytest.skip(
            "needs --fingerprint, made by tests/live/fingerprint.py on the WebUI without the extension"
        )
    with sandbox(tmp_path) as url:
        return fingerprint(WebUI(url, request.config.getoption("--checkpoint")))
