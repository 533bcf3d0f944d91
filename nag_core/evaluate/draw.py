"""The drawing pass: asks for what is missing, keeps each picture before the next request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nag_core.evaluate import answer
from nag_core.evaluate.client import ATTEMPTS, Client
from nag_core.evaluate.errors import EvaluationError
from nag_core.evaluate.plan import Plan, Spot, runs
from nag_core.evaluate.store import Record, Store


def todo(plan: Plan, records: dict[Spot, Record], again: bool) -> dict[tuple[int, str], list[int]]:
    """The seeds to draw, by (pair, arm); with `again` those of pictures that do not count as well."""
    missing: dict[tuple[int, str], list[int]] = {}
    for spot in plan.spots():
        if spot not in records or (again and records[spot].problems):
            missing.setdefault((spot.pair, spot.arm), []).append(spot.seed)
    return missing


def draw(
    plan: Plan, client: Client, store: Store, batch_size: int, again: bool, drawn: Callable[[int], Any]
) -> None:
    """Draws what the store lacks; `drawn` hears how many pictures each answer added.

    Raises EvaluationError; what was drawn until then is kept.
    """
    for (pair, arm), seeds in todo(plan, store.records(plan), again).items():
        missing, failures = set(seeds), 0
        while missing:
            # A batch may come back short (a worker that fell out): the rest is asked for again.
            first, count = runs(missing, batch_size)[0]
            wanted = missing & set(range(first, first + count))
            try:
                found = answer.pictures(
                    client.draw(plan.payload(pair, arm, first, count)), (plan.width, plan.height)
                )
                why = f"the WebUI drew other seeds than {first} to {first + count - 1}"
            except answer.BadAnswerError as error:
                found, why = {}, str(error)
            for seed in sorted(wanted & set(found)):
                _keep(plan, store, Spot(pair, seed, arm), found[seed])
            gained = wanted & set(found)
            missing -= gained
            drawn(len(gained))
            failures = 0 if gained else failures + 1
            if failures == ATTEMPTS:
                raise EvaluationError(f"{why}, {ATTEMPTS} times in a row")


def _keep(plan: Plan, store: Store, spot: Spot, picture: answer.Picture) -> None:
    store.keep(spot, picture, plan.pairs[spot.pair], answer.problems(picture, spot.arm, plan))
