"""Markdown tables, and a page's part between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])


def percent(found: dict[str, float]) -> str:
    """A share and its 95 % interval, in %."""
    return f"**{100 * found['share']:.0f}** ({100 * found['low']:.0f}–{100 * found['high']:.0f})"


def points(found: dict[str, float]) -> str:
    """A paired difference and its 95 % interval, in points."""
    return f"{100 * found['points']:+.0f} ({100 * found['low']:+.0f} to {100 * found['high']:+.0f})"


def written(page: str, mark: str, text: str) -> str:
    """The page with `text` between `<!-- mark -->` and `<!-- /mark -->`. Raises ValueError without them."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no {mark} marks")
    return f"{before}{begin}{text}{end}{after}"
