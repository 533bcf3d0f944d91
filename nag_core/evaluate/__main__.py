"""`python -m nag_core.evaluate`: draws with NAG off and on through a running WebUI, scores, compares."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

from nag_core.evaluate import draw, files, options, pictures, report, scores
from nag_core.evaluate.client import Client
from nag_core.evaluate.errors import INTERRUPTED, NOT_APPLIED, EvaluationError
from nag_core.evaluate.store import Store
from nag_core.evaluate.summary import summary

RESULTS, TABLE, SHEET = "results.json", "results.md", "sheet.png"


def main(arguments: list[str] | None = None) -> int:
    """The exit code (see --help); every failure is one line on stderr, and the folder stays whole."""
    for stream in (sys.stdout, sys.stderr):
        # A console of another encoding shows a question mark for τ, and the run does not end for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = options.parser().parse_args(arguments)
    store = Store(given.out)
    try:
        if not given.score_only:
            _draw(given, store)
        results = _score(given, store)
    except EvaluationError as error:
        _say(f"{error}{_kept(store)}")
        return error.code
    except KeyboardInterrupt:
        _say(f"interrupted{_kept(store)}")
        return INTERRUPTED
    sys.stdout.write(
        f"{report.markdown(results)}\n\nIn {store.folder}: {TABLE}, {RESULTS}, {SHEET}, pictures/\n"
    )
    return NOT_APPLIED if results["flagged"] else 0


def _draw(given: argparse.Namespace, store: Store) -> None:
    # Everything that can be wrong on this side is found before the WebUI is asked.
    options.plan(given)
    client = Client(given.url, given.auth, given.timeout, given.patience, _say)
    plan = options.plan(given, client.check())
    store.begin(plan)
    due = sum(map(len, draw.todo(plan, store.records(plan), given.again).values()))
    with _bar(due, "drawing") as bar:
        draw.draw(plan, client, store, given.batch_size, given.again, bar.update)


def _score(given: argparse.Namespace, store: Store) -> dict[str, Any]:
    plan = store.resume()
    choice = scores.Choice(given.clip_model, given.clip_weights, given.device)
    scorers, missing = scores.available(choice)
    records = store.records(plan)
    with _bar(len(records), "scoring") as bar:
        found, models = scores.score(plan, store, scorers, bar.update)
    # What another environment has scored is there, whatever this one lacks.
    missing = [sentence for sentence in missing if not sentence.lower().startswith(tuple(models))]
    results = summary(plan, records, found, models, missing)
    files.write_json(store.folder / RESULTS, results)
    files.write(store.folder / TABLE, f"{report.markdown(results)}\n".encode())
    files.write(store.folder / SHEET, pictures.contact_sheet(plan, records))
    return results


def _bar(total: int, name: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit="picture", disable=None if total else True)


def _kept(store: Store) -> str:
    """What a stopped run leaves, for the line that says why it stopped."""
    count = len(list(store.folder.glob("pictures/*/*.json")))
    return f"; {count} pictures are in {store.folder}: the same command goes on from there" if count else ""


def _say(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"nag evaluate: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
