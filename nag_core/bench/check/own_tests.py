"""The repository's own GPU tests, where pytest and they are there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from nag_core.bench.check.part import Found
from nag_core.bench.models import Place

ROOT = Path(__file__).parents[3]
# Those that need nothing but torch, numpy and pytest.
TESTS = ("tests/gpu", "tests/unit/test_kernels.py")
SECONDS = 120


def found(place: Place) -> Found:
    """`pytest -m gpu`; elsewhere only that they can be collected."""
    if importlib.util.find_spec("pytest") is None or not all((ROOT / path).exists() for path in TESTS):
        return Found({}, "Left out: pytest or the tests are not there.", left_out=True)
    cuda = place.device.type == "cuda"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *TESTS,
        "--disable-warnings",
    ]
    command += [] if cuda else ["--collect-only"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
            check=False, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:  # its output comes as bytes, whatever was asked for
        output, code = (error.stdout or b"").decode(errors="replace"), -1
    lines = output.strip().splitlines()
    last = next((line for line in reversed(lines) if "passed" in line or "failed" in line), "")
    ended = f"pytest took more than {SECONDS} s" if code < 0 else f"pytest ended with {code} {last}"
    data = {"returncode": code, "output": output[-6000:]}
    return Found(data, "\n".join(["```", *lines[-40:], "```"]), [ended] if code else [])
