"""Makes `.venv` with all that the sandbox and the tests need, and says what it does and how much it loads.

It runs in a Python that has nothing yet: the standard library alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OLDEST, NEWEST = (3, 10), (3, 12)
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv"
# The files of the pinned packages on x86_64 and macOS, added up: PyTorch for Linux brings CUDA.
LOADED = "3.0 GB" if sys.platform == "linux" else "0.3 GB"
LARGE = 10  # MB from which a file is named
_FILE = re.compile(r"\s*Downloading (?:\S+/)?([\w.]+-[\w.+!]+)-\S+ \(([\d.]+) (MB|GB)\)")
_OFFLINE = re.compile(
    "new connection|NewConnectionError|name resolution|getaddrinfo failed|ConnectTimeout|ProxyError|"
    "[Nn]etwork is unreachable|[Cc]onnection refused|Read timed out|ReadTimeoutError"
)


class SetupError(RuntimeError):
    """Why there is no environment, in one line."""


def prepare() -> Path:
    """The environment's Python; made and filled first, unless that has been done. Raises SetupError."""
    found = sys.version_info[:2]
    _fits(found, f"it was started with Python {_dotted(found)}", "start it with one of them")
    stamp, pinned = FOLDER / "nag-sandbox", (ROOT / "pyproject.toml").read_bytes()
    digest = hashlib.sha256(pinned).hexdigest()
    if not (stamp.is_file() and stamp.read_text(encoding="ascii") == digest):
        _make()
        _fill()
        stamp.write_text(digest, encoding="ascii")
    return _python()


def _fits(found: tuple[int, ...], whose: str, way_out: str) -> None:
    if not OLDEST <= found <= NEWEST:
        wrong = "old" if found < OLDEST else "new"
        wanted = f"{_dotted(OLDEST)} to {_dotted(NEWEST)}"
        raise SetupError(f"{whose}, which is too {wrong}: the packages are for {wanted}; {way_out}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python() -> Path:
    return FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _make() -> None:
    settings = FOLDER / "pyvenv.cfg"
    if settings.is_file():
        text = re.search(r"version\w* *= *(\d+)\.(\d+)", settings.read_text(encoding="utf-8"))
        found = (int(text[1]), int(text[2])) if text else OLDEST
        _fits(found, f"{FOLDER} has Python {_dotted(found)}", "remove it, and start again")
    _say(f"making {FOLDER}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(FOLDER)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise SetupError(f"{FOLDER} could not be made: {said[-300:]}")


def _fill() -> None:
    _say(f"loading packages, about {LOADED}, and only this once (PyTorch is most of it)")
    quiet = {"PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment = {"PIP_RETRIES": "2", **os.environ, **quiet}
    with subprocess.Popen(
        _install(), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as pip:
        lines = [line.rstrip() for line in map(_told, pip.stdout or ())]
    if pip.returncode:
        raise SetupError(_reason(lines))


def _install() -> list[str]:
    return [str(_python()), *"-m pip install --progress-bar off -e .[webui4]".split()]


def _told(line: str) -> str:
    """The line of pip's, of which the user is told what takes time."""
    file = _FILE.match(line)
    if file and float(file[2]) * (1000 if file[3] == "GB" else 1) >= LARGE:
        _say(f"  {file[1]}, {file[2]} {file[3]}")
    elif line.startswith("Installing collected packages"):
        _say("installing them, which takes minutes")
    return line


def _reason(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if "No space left on device" in text:
        return f"no room: {LOADED} are loaded, and more is needed to unpack it; make room, and start again"
    if _OFFLINE.search(text):
        return "no network: the package index cannot be reached; start again when it can"
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith("ERROR: ")]
    return f"pip could not install the packages: {(errors or said or ['no reason given'])[-1]}"


def _say(text: str) -> None:
    sys.stdout.write(f"nag sandbox: {text}\n")
    sys.stdout.flush()


def go_on(python: Path, arguments: Sequence[str]) -> int:
    """The sandbox in the environment, in this process's place where that is possible; its exit code."""
    command = [str(python), "-m", "nag_core.sandbox", *arguments]
    if os.name == "posix":
        os.execv(command[0], command)
    return subprocess.call(command)
