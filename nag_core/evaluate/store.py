"""The folder of a run. Every file is whole or not there: a picture is done when its record is beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nag_core.evaluate.answer import REPORT, Picture, parameters
from nag_core.evaluate.errors import BAD_USE, EvaluationError
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
        self.write_json(SETTINGS, wanted)

    def resume(self) -> Plan:
        """The plan of the run that is here. Raises EvaluationError where there is none."""
        if not (self.folder / SETTINGS).exists():
            raise EvaluationError(f"{self.folder} holds no run: no {SETTINGS} there", BAD_USE)
        try:
            return from_record(self._settings())
        except (TypeError, KeyError, ValueError) as error:
            raise EvaluationError(f"{self.folder / SETTINGS} is damaged ({error})", BAD_USE) from error

    def _settings(self) -> dict[str, Any]:
        held = self.read_json(SETTINGS)
        if not isinstance(held, dict):
            raise EvaluationError(f"{self.folder / SETTINGS} is damaged: choose another --out", BAD_USE)
        return held

    def keep(self, spot: Spot, picture: Picture, pair: tuple[str, str], problems: list[str]) -> None:
        """The picture, then its record: a run that ends between the two asks for the picture again."""
        self.write(f"pictures/{spot.name}.png", picture.png)
        record = {
            "arm": spot.arm,
            "pair": spot.pair,
            "prompt": pair[0],
            "negative": pair[1],
            "seed": spot.seed,
            "infotext": picture.infotext,
            "report": parameters(picture.infotext).get(REPORT),
            "problems": problems,
            "sha256": hashlib.sha256(picture.png).hexdigest(),
        }
        self.write_json(f"pictures/{spot.name}.json", record)

    def records(self, plan: Plan) -> dict[Spot, Record]:
        """The finished pictures of `plan`; one whose file was changed or lost since is not finished."""
        return {spot: record for spot in plan.spots() for record in self._record(spot)}

    def _record(self, spot: Spot) -> Iterator[Record]:
        held, path = self.read_json(f"pictures/{spot.name}.json"), self.folder / f"pictures/{spot.name}.png"
        if isinstance(held, dict) and path.is_file():
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            if sha256 == held.get("sha256"):
                problems = tuple(str(problem) for problem in held.get("problems") or ())
                yield Record(spot, path, sha256, str(held.get("infotext") or ""), problems)

    def read_json(self, name: str) -> Any:
        """The file's content; None for one that is missing or damaged."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))

    def write(self, name: str, data: bytes) -> None:
        """Puts a file there whole, whatever ends the program. Raises EvaluationError when it cannot."""
        target = self.folder / name
        beside = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except OSError as error:
            raise EvaluationError(
                f"cannot write {target}: {error.strerror or error}; what was written before is whole"
            ) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def _changes(names: list[str], held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f"{text[:57]}..."

    return "; ".join(f"{name}: {short(held.get(name))} there, {short(wanted[name])} now" for name in names)
