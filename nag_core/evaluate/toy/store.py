"""Results of finished rows on disk, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nag_core.evaluate import files
from nag_core.evaluate.toy.draw import Seen
from nag_core.evaluate.toy.plan import Row


class Store:
    """One line a finished row, in a file beside the results. A row is known by all that its numbers depend
    on: its settings, the `weights` of its model (sha256 by model) and what `depends_on` names.
    """

    def __init__(self, results: Path, weights: dict[str, str], depends_on: dict[str, Any]) -> None:
        self.path = results.with_name(f"{results.name}.part")
        self.weights, self.depends_on = weights, depends_on
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                name, seen = json.loads(line)
            except ValueError:
                continue  # the line that a killed run of 0.1 was writing
            self.rows[name] = seen

    def get(self, row: Row) -> dict[str, Any] | None:
        """What an earlier run saw of the row."""
        return self.rows.get(self._name(row))

    def add(self, row: Row, seen: Seen) -> dict[str, Any]:
        """Keep a finished row, on disk before it returns. Raises EvaluationError where it cannot be."""
        kept = self.rows[self._name(row)] = asdict(seen)
        files.write(self.path, "".join(f"{json.dumps(line)}\n" for line in self.rows.items()).encode())
        return kept

    def remove(self) -> None:
        """The results are written: the next run measures again."""
        self.path.unlink(missing_ok=True)

    def _name(self, row: Row) -> str:
        # A sweep shares rows with the main table.
        known = row.settings() | {"sweep": None, "weights": self.weights[row.model]} | self.depends_on
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
