"""What the last job asked for, resolved to and did, for the API: replaced as a whole, never edited."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from nag_core.passes.report import PassReport, verdict
from nag_core.settings.parse import FIELDS, Settings
from nag_core.settings.presets import Strength


class Status:
    """One per loaded script file, shared by its instances and the routes."""

    def __init__(self) -> None:
        self.last: dict[str, Any] | None = None

    def announced(self) -> None:
        """A job comes: what is known is of another one. It stays so where reading its arguments fails."""
        unknown = dict.fromkeys(("settings", "strength", "family", "report", "applied"))
        self.last = {"time": _now(), **unknown, "explicit": [], "passes": []}

    def began(self, settings: Settings, strength: Strength | None, family: str | None = None) -> None:
        """The job's arguments were read. `strength` and the loaded model's `family` are None with NAG off."""
        self.last = {
            "time": _now(),
            "settings": {field.name: getattr(settings, field.name) for field in FIELDS},
            "explicit": sorted(settings.explicit),
            "strength": _strength(strength),
            "family": family,
            "report": None if settings.enabled else "off",
            "applied": None if settings.enabled else "no",
            "passes": [],
        }

    def reported(self, sentence: str, reports: list[PassReport]) -> None:
        """A batch of that job has ended; of several batches the last one counts."""
        passes = [_pass(one) for one in reports]
        said = {"report": sentence, "applied": verdict(reports), "passes": passes}
        self.last = {**(self.last or {}), "time": _now(), **said}


def _pass(one: PassReport) -> dict[str, Any]:
    layers = {
        "layers": sum(count for _, count in one.layers),
        "blocks": {kind: count for kind, count in one.layers if kind},
    }
    return {**asdict(one), **layers, "strength": _strength(one.strength), "applied": one.applied}


def _strength(strength: Strength | None) -> dict[str, float] | None:
    if strength is None:
        return None
    named = {"scale": strength.phi, "tau": strength.tau, "alpha": strength.alpha}
    return {**named, "vsf_offset": strength.offset} if strength.offset else named


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
