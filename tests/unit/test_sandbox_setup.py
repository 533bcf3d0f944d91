"""The sandbox's first command: what it says while it loads, and one line for each thing that may go wrong."""

import socket
import subprocess
import sys

import pytest

from nag_core.sandbox import __main__ as command
from nag_core.sandbox import setup
from tests.readme import README, ROOT

LOADING = """\
Collecting torch==2.13.0
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (31 kB)
  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (526.9 MB)
  Downloading https://files.pythonhosted.org/packages/ab/cd/six-1.17.0-py2.py3-none-any.whl (11 kB)
Installing collected packages: six, torch
Successfully installed six-1.17.0 torch-2.13.0
"""
OFFLINE = """\
WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError('<pip>: Failed to \
establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/setuptools/
ERROR: Could not find a version that satisfies the requirement setuptools==80.9.0 (from versions: none)
ERROR: No matching distribution found for setuptools==80.9.0
"""


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """`pip(text, code)`: what a pip of an empty environment prints, and how it ends."""
    monkeypatch.setattr(setup, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))

    def makes_a_folder():
        setup.FOLDER.mkdir(exist_ok=True)

    def prints(text, code=0):
        program = [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]
        monkeypatch.setattr(setup, "_install", lambda: program)

    monkeypatch.setattr(setup, "_make", makes_a_folder)
    return prints


@pytest.fixture
def first_command(monkeypatch, capsys):
    """Runs it; its exit code, what it printed, and the arguments with which it goes on, if it does."""
    went_on = []
    monkeypatch.setattr(setup, "go_on", lambda python, arguments: went_on.append(arguments) or 0)

    def run(*arguments):
        code = command.main(["--setup", *arguments])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines(), went_on

    return run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_it_says_what_it_loads_and_goes_on_with_the_other_arguments(pip, first_command):
    pip(LOADING)
    port = free_port()
    code, said, wrong, went_on = first_command("--port", port)
    assert (code, wrong, went_on) == (0, [], [["--port", port]])
    assert said == [
        f"nag sandbox: loading packages, about {setup.LOADED}, and only this once (PyTorch is most of it)",
        "nag sandbox:   torch-2.13.0, 526.9 MB",
        "nag sandbox: installing them, which takes minutes",
    ]


def test_the_second_time_nothing_is_loaded_unless_other_packages_are_pinned(pip, first_command):
    pip(LOADING)
    port = free_port()
    first_command("--port", port)
    pip("", 1)
    assert first_command("--port", port)[:3] == (0, [], [])
    (setup.FOLDER / "nag-sandbox").write_text("of other pins")
    assert first_command("--port", port)[0] == command.BAD_SETUP


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (OFFLINE, "no network: the package index cannot be reached; start again when it can"),
        ("ERROR: [Errno 28] No space left on device",
         f"no room: {setup.LOADED} are loaded, and more is needed to unpack it; make room, and start again"),
        ("Collecting x\nERROR: no such wheel", "pip could not install the packages: ERROR: no such wheel"),
        ("", "pip could not install the packages: no reason given"),
    ],
    ids=["no network", "no room", "pip's own", "silent"],
)  # fmt: skip
def test_what_goes_wrong_while_loading_is_one_line(pip, first_command, printed, line):
    pip(printed, 1)
    code, _, wrong, went_on = first_command("--port", free_port())
    assert (code, wrong, went_on) == (command.BAD_SETUP, [f"nag sandbox: {line}"], [])
    assert not (setup.FOLDER / "nag-sandbox").exists()


def test_python_3_8_is_told_that_it_is_too_old():
    """Still some systems' own Python: it ended in a traceback, as it has no functools.cache."""
    as_3_8 = (
        "import functools, runpy, sys; del functools.cache; sys.version_info = (3, 8, 18); "
        "sys.argv = ['', '--setup']; runpy.run_module('nag_core.sandbox', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", as_3_8], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == command.BAD_SETUP
    assert ended.stderr.startswith("nag sandbox: it was started with Python 3.8, which is too old")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("version", "wrong"), [((3, 13, 0), "new"), ((3, 9, 18), "old")])
def test_a_python_that_does_not_fit_is_one_line(pip, first_command, monkeypatch, version, wrong):
    monkeypatch.setattr(sys, "version_info", version)
    code, said, line, _ = first_command("--port", free_port())
    assert (code, said) == (command.BAD_SETUP, [])
    assert line == [
        f"nag sandbox: it was started with Python 3.{version[1]}, which is too {wrong}: the packages are for "
        "3.10 to 3.12; start it with one of them"
    ]


def test_an_environment_of_another_python_is_one_line(monkeypatch, tmp_path, first_command):
    monkeypatch.setattr(setup, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.13.0\n")
    code, said, line, _ = first_command("--port", free_port())
    assert (code, said) == (command.BAD_SETUP, [])
    assert line == [
        f"nag sandbox: {tmp_path} has Python 3.13, which is too new: the packages are for 3.10 to 3.12; "
        "remove it, and start again"
    ]


@pytest.mark.parametrize("setting_up", [True, False])
def test_a_port_in_use_is_one_line_before_anything_is_loaded(pip, first_command, capsys, setting_up):
    pip("", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        if not setting_up:
            pytest.importorskip("gradio", reason="belongs to the webui4 extra")
        code = command.main([*["--setup"] * setting_up, "--port", port])
    printed = capsys.readouterr()
    assert (code, printed.out) == (command.BAD_PORT, "")
    (line,) = printed.err.splitlines()
    assert line.startswith(f"nag sandbox: cannot serve on 127.0.0.1:{port}: ")
    assert line.endswith("; choose another with --port")


def test_the_readme_says_how_much_is_loaded():
    assert f"about {setup.LOADED}" in README or f", {setup.LOADED} on Windows" in README


@pytest.mark.slow
def test_a_real_pip_without_a_network_is_one_line(tmp_path):
    """An index nobody serves, and no folder of wheels beside it."""
    told = (
        "import pathlib, sys; from nag_core.sandbox import __main__, setup;"
        f"setup.FOLDER = pathlib.Path({str(tmp_path / '.venv')!r});"
        f"sys.exit(__main__.main(['--setup', '--port', {free_port()!r}]))"
    )
    nobody = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=ROOT, env={**nobody, "PATH": "", "PIP_RETRIES": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == command.BAD_SETUP
    assert (
        done.stderr
        == "nag sandbox: no network: the package index cannot be reached; start again when it can\n"
    )
