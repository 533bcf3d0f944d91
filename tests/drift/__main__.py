"""`python -m tests.drift CHECKOUT ...`: what in a WebUI's source is no longer as the extension needs it.

Reads source alone and imports nothing of the WebUI, so any Python will do that can read its syntax. Ends with
0 where nothing changed, with 1 where something did, with 2 for a folder that is no WebUI NAG knows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nag_core.hosts import version
from tests import host_table
from tests.drift.compared import changes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drift", description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="+", type=Path, metavar="CHECKOUT")
    return max(checked(tree) for tree in parser.parse_args(arguments).checkouts)


def checked(tree: Path) -> int:
    """Prints one checkout's verdict; its exit code."""
    host = host_table.host_of(tree)
    if not host:
        inner = [one for one in sorted(tree.glob("*/")) if host_table.host_of(one)]
        print(f"{tree} is no WebUI that NAG knows", *(f"(but {one} is)" for one in inner), file=sys.stderr)
        return 2
    said = changes(tree, host)
    needed, changed = len(host_table.entries(host)), sum(map(len, said.values()))
    of_these = f"{changed} changed" if changed else "nothing changed"
    print(f"{tree}: {host}, {version.of_folder(tree)}: of {needed} things that NAG needs {of_these}")
    for part, sentences in said.items():
        print(f"  {part}:", *sentences, sep="\n  - ")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
