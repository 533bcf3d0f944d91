"""The user's presets: a JSON file in the WebUI's data folder, where updates of the extension do not reach it.

A preset holds scale, tau and alpha and, where they matter, the window, the method and the hires settings; it
never turns NAG on and never holds a negative prompt. Standard library only.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nag_core.settings.parse import FIELD, FIELDS, named
from nag_core.settings.presets import CHOICES, STRENGTHS

logger = logging.getLogger("nag")

FILE_NAME = "nag_presets.json"
OPTIONAL = tuple(field.name for field in FIELDS if field.in_presets)
LONGEST_NAME = 60
# Far above what anyone saves: a foreign file of that name must not cost every job its reading time.
LARGEST_FILE = 1_000_000

Values = dict[str, Any]


class Store:
    """The presets in one file, read anew at every use: another tab or process may have changed it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._writing = threading.Lock()
        self._told: set[str] = set()

    def load(self) -> dict[str, Values]:
        """Values by preset name, held to the fields' ranges. Never raises: a damaged file is put aside, one
        that cannot be read counts as empty, each with a log line.
        """
        try:
            return self._read()[0]
        except OSError as error:
            logger.warning("NAG: the presets in %s cannot be read (%s)", self.path, error.strerror or error)
            return {}

    def save(self, name: str, values: Mapping[str, Any]) -> str:
        """Stores `values` under `name`, in place of a preset of that name; returns the name as stored."""
        name = clean_name(name)
        with self._writing:
            stored, others = self._read_or_refuse()
            known = _same(stored, name)
            stored[known or name] = held(values)
            self._write(stored, others)
        return known or name

    def rename(self, old: str, new: str) -> str:
        """Gives a preset another name, at the same place in the list; returns the name as stored."""
        new = clean_name(new)
        with self._writing:
            stored, others = self._read_or_refuse()
            known, taken = _known(stored, old), _same({**others, **stored}, new)
            if taken not in (None, known):
                raise ValueError(f"a preset named '{taken}' exists already")
            self._write({new if name == known else name: values for name, values in stored.items()}, others)
        return new

    def delete(self, name: str) -> None:
        """Removes a preset, and what the file has of that name in another case: it would come up in its
        place.
        """
        with self._writing:
            stored, others = self._read_or_refuse()
            known = _known(stored, name)
            del stored[known]
            while (namesake := _same(others, known)) is not None:
                del others[namesake]
            self._write(stored, others)

    def _read_or_refuse(self) -> tuple[dict[str, Values], Values]:
        """As `load`, but what cannot be read is not written over."""
        try:
            return self._read()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _read(self) -> tuple[dict[str, Values], Values]:
        """The presets, and what else stands in the file: it is nobody's to throw away. A name may have become
        that of a built-in one.
        """
        try:
            if self.path.stat().st_size > LARGEST_FILE:
                raise OSError(f"larger than {LARGEST_FILE // 1_000_000} MB")
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))  # as Notepad writes it
        except FileNotFoundError:
            return {}, {}
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, Mapping):
            self._put_aside()
            return {}, {}
        found: dict[str, Values] = {}
        for name, values in content.items():
            if not (why := _unusable(name, values, found)):
                found[name] = held(values)
            elif name not in self._told:
                self._told.add(name)
                logger.warning("NAG: %r in %s is left as it is and not used: %s", name, self.path, why)
        return found, {name: values for name, values in content.items() if name not in found}

    def _put_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        number = 2
        while aside.exists():  # an earlier one may be all that is left of somebody's presets
            aside, number = self.path.with_name(f"{self.path.name}.damaged-{number}"), number + 1
        try:
            os.replace(self.path, aside)
        except FileNotFoundError:  # another reader was quicker
            return
        logger.warning("NAG: %s is damaged; it is kept as %s and the presets start empty", self.path, aside)

    def _write(self, stored: Mapping[str, Values], others: Values) -> None:
        """The whole file or none of it: a full disk or a crash leaves the old one."""
        target = self.path.resolve()  # a link stays a link
        content = {**stored, **{name: one for name, one in others.items() if name not in stored}}
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(_as_json(content))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ValueError(f"{self.path} cannot be written: {error.strerror or error}") from error


def _as_json(content: Mapping[str, Any]) -> str:
    """To be read by people, too; what is kept of a file may hold what no encoding writes."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, indent=1)
    return text


def clean_name(name: Any) -> str:
    """`name` without outer space; ValueError if a preset cannot be called so."""
    text = name.strip() if isinstance(name, str) else ""
    if not text:
        raise ValueError("a preset needs a name")
    if len(text) > LONGEST_NAME:
        raise ValueError(f"a preset's name has at most {LONGEST_NAME} characters, this one has {len(text)}")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("a preset's name cannot hold line breaks or control characters")
    if text.lower() in (choice.lower() for choice in CHOICES):
        raise ValueError(f"'{text}' is the name of a built-in preset")
    return text


def held(values: Mapping[Any, Any]) -> Values:
    """What of `values` belongs in a preset, each within its field's range. Optional fields at their default
    are left out: they would only take a slider out of the user's hands.
    """
    given = named(values, [])
    kept = {name: given.get(name, FIELD[name].default) for name in STRENGTHS}
    kept.update({n: given[n] for n in OPTIONAL if n in given and given[n] != FIELD[n].default})
    return kept


def _unusable(name: str, values: Any, found: Mapping[str, Any]) -> str:
    """Why an entry of the file is no preset; empty if it is one."""
    if not isinstance(values, Mapping):
        return "it has no values"
    try:
        if clean_name(name) != name:
            return "blanks around a preset's name"
    except ValueError as reason:
        return str(reason)
    same = _same(found, name)
    return f"there is '{same}' already" if same is not None else ""


def _same(stored: Mapping[str, Any], name: str) -> str | None:
    """The stored name that differs from `name` by case at most."""
    return next((known for known in stored if known.lower() == name.lower()), None)


def _known(stored: Mapping[str, Any], name: Any) -> str:
    known = _same(stored, name.strip()) if isinstance(name, str) else None
    if known is None:
        raise ValueError(f"there is no preset of yours named '{str(name)[:LONGEST_NAME]}'")
    return known
