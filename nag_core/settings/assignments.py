"""Several settings in one text: `scale=4 tau=2.5; preset="My = preset"`, and lists of such texts.

One quoting rule everywhere, that of CSV and so of the plot's own lists: what stands in double quotes is taken
as it is, and a quote within is written twice. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NAME = re.compile(r"(\w+)\s*=\s*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_PLAIN = re.compile(r"[^=;]*?(?=\s*(?:$|;|\s\w+\s*=))")
# Behind a value: the end, a semicolon, or a blank and the next name.
_AFTER = re.compile(r"\s*(?:$|;)|\s+(?=\w+\s*=)")
# A quoted text that is the whole cell, else anything but commas, which may stand in quotes behind a name.
_CELL = re.compile(r'\s*("(?:[^"]|"")*"(?=\s*(?:,|$))|(?:=\s*"(?:[^"]|"")*"|[^,])*)\s*(?=,|$)')


class NotAssignmentsError(ValueError):
    """The text is not of the form `name=value name=value`."""


def cells(text: str) -> list[str]:
    """The comma-separated cells of `text`, without blanks around them; commas in quotes do not count."""
    found: list[str] = []
    end = -1
    while text and end < len(text):
        cell = _CELL.match(text, end + 1)
        found.append(unquoted(cell[1].strip()).strip())
        end = cell.end()
    return found


def unquoted(text: str) -> str:
    """A text that is quoted as a whole as it was meant; every other as it is."""
    whole = _QUOTED.fullmatch(text)
    return text if whole is None else whole[1].replace('""', '"')


def assignments(text: str, words: Callable[[str], Sequence[str]]) -> list[tuple[str, str]]:
    """The names and values in `text`, in their order. `NotAssignmentsError` where it is of another form.

    A value ends before a semicolon, before a blank and the next `name=`, or with the text. It is taken whole
    where it is quoted, and where it is one of the `words` of the name, whatever signs those hold.
    """
    found, rest = [], text.strip("; \t\n")
    while rest or not found:
        name = _NAME.match(rest)
        if name is None:
            raise NotAssignmentsError(text)
        value, rest = _value(rest[name.end() :], words(name[1]))
        found.append((name[1], value))
    return found


def _value(text: str, words: Sequence[str]) -> tuple[str, str]:
    """The value that `text` begins with, and what stands behind it."""
    for word in sorted(words, key=len, reverse=True):
        after = _AFTER.match(text, len(word))
        if after is not None and text[: len(word)].lower() == word.lower():
            return word, text[after.end() :].lstrip("; \t\n")
    found = (_QUOTED if text.startswith('"') else _PLAIN).match(text)
    after = None if found is None else _AFTER.match(text, found.end())
    if after is None:
        raise NotAssignmentsError(text)
    return unquoted(found[0]), text[after.end() :].lstrip("; \t\n")
