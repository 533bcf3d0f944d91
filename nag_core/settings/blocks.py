"""Which blocks of a network are guided: a short text such as `input.4-8 middle` or `double.0-18, single.20-`.

A block is (kind, number): `input`, `middle` and `output` of a UNet, `double` and `single` (Flux, Chroma) or
`joint` (SD3.5), counted as the network's own lists count them. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

Block = tuple[str, int]

_TERM = re.compile(r"([a-z]+)(?:\.(\d{1,4})(-(\d{1,4})?)?)?")
_ALLOWED = "allowed are kinds and their numbers, such as input, input.4-8, middle, double.0-18, single.20-"


class Term(NamedTuple):
    """`input.4-8`: blocks of a kind from `first` to `last`, both included."""

    text: str
    kind: str
    first: int = 0
    last: int = 10**4

    def names(self, block: Block) -> bool:
        return block[0] == self.kind and self.first <= block[1] <= self.last


class Choice(NamedTuple):
    """The blocks chosen of those that exist, and the terms that name none of them."""

    blocks: frozenset[Block]
    unknown: tuple[str, ...]


def parse_blocks(text: str) -> tuple[Term, ...]:
    """The terms of a block list, separated by commas, semicolons or spaces; empty for all blocks.

    ValueError with what is allowed for what is none.
    """
    return tuple(_term(word) for word in text.lower().replace(",", " ").replace(";", " ").split())


def _term(word: str) -> Term:
    found = _TERM.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r:.22} is no block; {_ALLOWED}")
    kind, first, span, last = found.groups()
    if first is None:
        return Term(word, kind)
    if not span:
        return Term(word, kind, int(first), int(first))
    term = Term(word, kind, int(first), int(last) if last else Term._field_defaults["last"])
    if term.last < term.first:
        raise ValueError(f"{word!r:.22} counts backwards")
    return term


def choose(terms: Collection[Term], available: Iterable[Block]) -> Choice:
    """What the terms choose of the blocks that a network has; all of them where there is no term."""
    existing = frozenset(available)
    if not terms:
        return Choice(existing, ())
    chosen = frozenset(block for block in existing if any(term.names(block) for term in terms))
    unknown = tuple(term.text for term in terms if not any(term.names(block) for block in existing))
    return Choice(chosen, unknown)


def listing(available: Iterable[Block]) -> str:
    """The blocks that there are, in the grammar itself: `input.1-2, input.4-5, middle.0, output.3-11`."""
    numbers: dict[str, list[int]] = {}
    for kind, number in dict.fromkeys(available):
        numbers.setdefault(kind, []).append(number)
    return ", ".join(f"{kind}.{run}" for kind, listed in numbers.items() for run in _runs(sorted(listed)))


def _runs(numbers: list[int]) -> list[str]:
    """`[1, 2, 4]` as `1-2` and `4`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
