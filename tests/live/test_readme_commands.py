"""The README's two commands, in a copy of the tree without anything installed: both download."""

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from tests.live.serving import ROOT, free_port
from tests.readme import URL, at, run, shell, snippet

MINUTES = 60
pytestmark = [pytest.mark.slow, pytest.mark.timeout(30 * MINUTES)]


@pytest.fixture(scope="module")
def checkout(request, tmp_path_factory):
    """What a clone would hold, with work that is not committed yet."""
    if request.config.getoption("--webui-url"):
        pytest.skip("the two commands are about the sandbox, not about the WebUI at --webui-url")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if names.returncode:
        pytest.skip("not a git checkout: nothing tells which files belong to the project")
    copy = tmp_path_factory.mktemp("readme") / "sd-webui-nag"
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    yield copy
    shutil.rmtree(copy / ".venv", ignore_errors=True)  # gigabytes, and pytest keeps its last three folders


def is_taken(url):
    try:
        httpx.get(url, timeout=5)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError:
        pass
    return True


@contextmanager
def running(command, folder, url):
    """The command in the background until its page answers; ended as Ctrl+C does, with all it has started."""
    arguments, environment = shell(command)
    log = folder.parent / "run.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 20 * MINUTES
        while not is_taken(url):
            assert process.poll() is None, f"{command}\nended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no answer at {url}:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_run_command_serves_and_the_curl_example_draws(checkout, tmp_path):
    """As printed, unless another program has the port: then with --port, and the example with that port."""
    if not shutil.which("curl"):
        pytest.skip("the example needs curl, which is not installed")
    command, url = snippet("run-command").strip(), URL
    if is_taken(URL):
        port = free_port()
        command, url = f"{command} --port {port}", f"http://127.0.0.1:{port}"
    example = at(snippet("api-example"), url)
    with running(command, checkout, url):
        page = httpx.get(url, timeout=60)
        assert page.status_code == 200
        assert "NAG sandbox" in page.text
        run(example, tmp_path)
    with Image.open(tmp_path / "nag.png") as picture:
        assert picture.size == (256, 256)
        assert "7 layers × 4/4 steps" in picture.info["parameters"]
    assert not is_taken(url), "the sandbox has not ended with its command"


def test_the_test_command_runs_the_tests(checkout):
    """One file of them: the whole suite in its second installation would only take longer."""
    said = run(snippet("test-command"), checkout, PYTEST_ADDOPTS="tests/unit/test_schedule.py")
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
