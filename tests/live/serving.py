"""Starts a sandbox with scripts of one's choice, in a process of its own."""

import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_serving(url, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the sandbox ended with code {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(f"{url}/sdapi/v1/options", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    pytest.fail(f"the sandbox did not serve within {seconds} s:\n{log.read_text()[-3000:]}")


@contextmanager
def sandbox(home, *script_folders, flags=()):
    """The URL of a sandbox with these folders' scripts side by side, as extensions are on a real host.

    The JavaScript beside such a folder comes along. flags: more of its command line.
    """
    port, log = free_port(), home / "log.txt"
    (home / "scripts").mkdir()
    for folder in script_folders:
        shutil.copytree(folder, home / "scripts", dirs_exist_ok=True)
        if (folder.parent / "javascript").is_dir():
            shutil.copytree(folder.parent / "javascript", home / "javascript", dirs_exist_ok=True)
    with log.open("w") as out:
        command = [sys.executable, "-m", "nag_core.sandbox", "--port", str(port), "--scripts-dir"]
        process = subprocess.Popen(
            [*command, str(home / "scripts"), *flags], cwd=ROOT, stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_serving(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)
    text = log.read_text()
    assert "*** Error running" not in text, text[-5000:]
