"""The README's snippets, and a shell to run them in. The marker `<!-- name -->` above each names it."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:7860"

_FENCED = re.compile(r"(?ms)^(?:<!-- (?P<marker>[\w-]+) -->\n)?```\w*\n(?P<text>.*?)^```$")


def snippets():
    """(marker or None, text) of every fenced block, in order."""
    return [(found["marker"], found["text"]) for found in _FENCED.finditer(README)]


def snippet(marker):
    """The text of the block below `<!-- marker -->`."""
    (text,) = [text for name, text in snippets() if name == marker]
    return text


def prose():
    """The README without its fenced blocks."""
    return _FENCED.sub("", README)


def at(text, url):
    """The snippet with another WebUI's address in place of the usual one."""
    assert URL in text, text
    return text.replace(URL, str(url).rstrip("/"))


def shell(command):
    """Arguments and environment for subprocess: bash, ending at the first failure, in which `python3` and
    `python` are the Python that runs the tests, without what this run of pytest was told.
    """
    hidden = ("PYTEST_ADDOPTS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return ["bash", "-euo", "pipefail", "-c", command], {**kept, "PATH": path}


def run(command, folder, **variables):
    """What the command prints, when it succeeds."""
    arguments, environment = shell(command)
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout[-3000:]}"
    return done.stdout
