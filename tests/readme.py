"""The pages' snippets, and a shell to run them in. The marker `<!-- name -->` above each names it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Every page that is written for people, in the order in which the README leads to them.
NAMES = (
    "README.md", "nag_core/webui/README.md", "nag_core/README.md", "nag_core/evaluate/README.md",
    "nag_core/bench/README.md", "CONTRIBUTING.md", "tests/README.md",
)  # fmt: skip
# Short READMEs in other languages: their snippets are the README's.
TRANSLATED = (".github/readme/README.ja.md", ".github/readme/README.zh-CN.md")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (*NAMES, *TRANSLATED, "CHANGELOG.md")}
README, WEBUI, CORE, EVALUATE, BENCH = (PAGES[name] for name in NAMES[:5])
URL = "http://127.0.0.1:7860"

_FENCED = re.compile(r"(?ms)^(?:<!-- (?P<marker>[\w-]+) -->\n)?```\w*\n(?P<text>.*?)^```$")


def snippets(*names):
    """(marker or None, text) of every fenced block of these pages, in order."""
    return [(found["marker"], found["text"]) for name in names for found in _FENCED.finditer(PAGES[name])]


def snippet(marker):
    """The text of the block below `<!-- marker -->`, on whichever page."""
    (text,) = [text for name, text in snippets(*NAMES) if name == marker]
    return text


def prose(name):
    """The page without its fenced blocks."""
    return _FENCED.sub("", PAGES[name])


def rows(page):
    """First cell to the others, of every line of its tables with four cells and more."""
    lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines())
    return {cells[0]: cells[1:] for cells in lines if len(cells) >= 4}


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
