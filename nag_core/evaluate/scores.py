"""The scoring pass over a run's pictures: apart from drawing, so that it can be done later or again.

Pixel numbers (pixels.py) need nothing. The models' scores come from packages that are optional and from
weights that are already on this machine; nothing is downloaded. Scores of earlier passes are kept, so that
packages which cannot live in one environment can take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nag_core.evaluate import files, pixels
from nag_core.evaluate.clip import ClipScorer
from nag_core.evaluate.errors import EvaluationError
from nag_core.evaluate.plan import OFF, Plan, Spot
from nag_core.evaluate.reward import RewardScorer
from nag_core.evaluate.scorer import Choice, MissingScorerError, Scorer
from nag_core.evaluate.store import SCORES, Record, Store

# In the order of the results' columns, by name: heading, what it says, digits behind the point.
METRICS: dict[str, tuple[str, str, int]] = {
    "clip_prompt": ("CLIP prompt", "100 × cosine of picture and prompt; more is closer to the prompt", 2),
    "clip_negative": ("CLIP negative", "100 × cosine of picture and negative; less is further from it", 2),
    "imagereward": ("ImageReward", "taste of people for the prompt, about -2 to 2; more is better", 3),
    "change": ("change", "mean difference to the off picture, 0-255", 1),
    "brightness": ("brightness", "mean luma, 0-255", 1),
    "saturation": ("saturation", "mean saturation, 0-255", 1),
    "clipped": ("clipped %", "channel values at 0 or 255", 2),
}


def available(choice: Choice) -> tuple[list[Scorer], list[str]]:
    """The scorers of this environment, and a sentence for each that is missing."""
    found: list[Scorer] = []
    missing: list[str] = []
    for make in (ClipScorer, RewardScorer):
        try:
            found.append(make(choice))
        except MissingScorerError as error:
            missing.append(str(error))
    return found, missing


def score(
    plan: Plan, store: Store, scorers: list[Scorer], done: Callable[[int], Any]
) -> tuple[dict[Spot, dict[str, float]], dict[str, str]]:
    """Scores what has no score yet and returns all scores by picture, and the identities of the models that
    made them. Kept after every pair, so that a killed pass goes on.

    Raises EvaluationError for a picture that cannot be opened.
    """
    records = store.records(plan)
    held = _held(store)
    for number in range(len(plan.pairs)):
        changed = False
        for spot in (spot for spot in records if spot.pair == number):
            changed |= _score_one(plan, records, spot, scorers, held)
            done(1)
        if changed:
            files.write_json(store.folder / SCORES, held)
    return _read(records, held)


def _held(store: Store) -> dict[str, dict[str, Any]]:
    held = files.read_json(store.folder / SCORES)
    return held if isinstance(held, dict) else {}


def _stamp(record: Record, off: Record | None) -> str:
    """What scores were made of: they are void when the picture, or the one it is compared with, changed."""
    return f"{record.sha256[:16]} beside {off.sha256[:16] if off else 'nothing'}"


def _off(records: Mapping[Spot, Record], spot: Spot) -> Record | None:
    return None if spot.arm == OFF else records.get(Spot(spot.pair, spot.seed, OFF))


def _score_one(
    plan: Plan,
    records: Mapping[Spot, Record],
    spot: Spot,
    scorers: list[Scorer],
    held: dict[str, dict[str, Any]],
) -> bool:
    record, off = records[spot], _off(records, spot)
    entry = held.get(spot.name)
    if not isinstance(entry, dict) or entry.get("of") != _stamp(record, off):
        entry = {"of": _stamp(record, off)}
    due = [scorer for scorer in scorers if entry.get(scorer.name, {}).get("identity") != scorer.identity]
    if "pixels" in entry and not due:
        return False
    picture = _opened(record)
    entry["pixels"] = {"identity": "", "values": pixels.measured(picture, _opened(off) if off else None)}
    for scorer in due:
        values = scorer.score(picture, plan.pairs[spot.pair])
        entry[scorer.name] = {"identity": scorer.identity, "values": values}
    held[spot.name] = entry
    return True


def _opened(record: Record) -> Any:
    from PIL import Image

    try:
        with Image.open(record.path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise EvaluationError(f"{record.path} cannot be opened: delete it and draw it again") from error


def _read(
    records: Mapping[Spot, Record], held: dict[str, dict[str, Any]]
) -> tuple[dict[Spot, dict[str, float]], dict[str, str]]:
    found: dict[Spot, dict[str, float]] = {}
    identities: dict[str, set[str]] = {}
    for spot, record in records.items():
        entry = held.get(spot.name, {})
        if entry.get("of") != _stamp(record, _off(records, spot)):
            continue
        groups = {name: group for name, group in entry.items() if isinstance(group, dict)}
        found[spot] = {key: value for group in groups.values() for key, value in group["values"].items()}
        for name, group in groups.items():
            identities.setdefault(name, set()).add(group["identity"])
    return found, {name: " and ".join(sorted(ids)) for name, ids in identities.items() if ids != {""}}
