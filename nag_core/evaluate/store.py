"""The folder of a run: a picture is done when its record is beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nag_core.evaluate import files
from nag_core.evaluate.alike import odd_ones
from nag_core.evaluate.answer import REPORT, Picture, parameters
from nag_core.evaluate.errors import BAD_USE, EvaluationError
from nag_core.evaluate.pairs import Pair
from nag_core.evaluate.plan import Plan, Spot, from_record

SETTINGS, SCORES = "settings.json", "scores.json"
# Pictures are kept by seed, so a run may go on with more or other seeds; everything else makes another run.
FREE = ("seeds",)


@dataclass(frozen=True)
class Record:
    """A finished picture: its file, the text it came with, and why it does not count (empty when it does)."""

    spot: Spot
    path: Path
    sha256: str
    infotext: str
    problems: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, str]:
        return parameters(self.infotext)

    @property
    def report(self) -> str:
        return self.parameters.get(REPORT, "")


class Store:
    """`begin(plan)` or `resume()`, then `keep` and `records`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def begin(self, plan: Plan) -> None:
        """Makes the folder for `plan`, or checks that it holds the same one.

        Raises EvaluationError for a run with other settings, naming them.
        """
        wanted = json.loads(json.dumps(plan.record()))
        if (self.folder / SETTINGS).exists():
            held = self._settings()
            changed = [name for name in wanted if name not in FREE and held.get(name) != wanted[name]]
            if changed:
                raise EvaluationError(
                    f"{self.folder} holds a run with other settings ({_changes(changed, held, wanted)}): "
                    "choose another folder with --out, or the old settings to go on",
                    BAD_USE,
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise EvaluationError(
                f"{self.folder} is in use for something else: choose another --out", BAD_USE
            )
        files.write_json(self.folder / SETTINGS, wanted)

    def resume(self) -> Plan:
        """The plan of the run that is here. Raises EvaluationError where there is none."""
        if not (self.folder / SETTINGS).exists():
            raise EvaluationError(f"{self.folder} holds no run: no {SETTINGS} there", BAD_USE)
        try:
            return from_record(self._settings())
        except (TypeError, KeyError, ValueError) as error:
            raise EvaluationError(f"{self.folder / SETTINGS} is damaged ({error})", BAD_USE) from error

    def _settings(self) -> dict[str, Any]:
        held = files.read_json(self.folder / SETTINGS)
        if not isinstance(held, dict):
            raise EvaluationError(f"{self.folder / SETTINGS} is damaged: choose another --out", BAD_USE)
        return held

    def keep(self, spot: Spot, picture: Picture, pair: Pair, problems: list[str]) -> None:
        """The picture, then its record: a run that ends between the two asks for the picture again."""
        files.write(self._file(spot, "png"), picture.png)
        record = {
            "arm": spot.arm,
            "pair": spot.pair,
            "prompt": pair.prompt,
            "negative": pair.negative,
            "seed": spot.seed,
            "infotext": picture.infotext,
            "report": parameters(picture.infotext).get(REPORT),
            "problems": problems,
            "sha256": hashlib.sha256(picture.png).hexdigest(),
        }
        files.write_json(self._file(spot, "json"), record)

    def records(self, plan: Plan) -> dict[Spot, Record]:
        """The finished pictures of `plan`; one whose file was changed or lost since is not finished. What was
        not drawn as the others were has a problem, too.
        """
        found = {spot: record for spot in plan.spots() for record in self._record(spot)}
        for spot, odd in odd_ones({spot: record.parameters for spot, record in found.items()}).items():
            found[spot] = replace(found[spot], problems=(*found[spot].problems, *odd))
        return found

    def _file(self, spot: Spot, ending: str) -> Path:
        return self.folder / f"pictures/{spot.name}.{ending}"

    def _record(self, spot: Spot) -> Iterator[Record]:
        held, path = files.read_json(self._file(spot, "json")), self._file(spot, "png")
        if isinstance(held, dict) and path.is_file():
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            if sha256 == held.get("sha256"):
                problems = tuple(str(problem) for problem in held.get("problems") or ())
                yield Record(spot, path, sha256, str(held.get("infotext") or ""), problems)


def _changes(names: list[str], held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f"{text[:57]}..."

    return "; ".join(f"{name}: {short(held.get(name))} there, {short(wanted[name])} now" for name in names)
