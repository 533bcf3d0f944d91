"""What to draw and what to steer away from: the paper's pairs, or those of a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nag_core.evaluate.errors import BAD_USE, EvaluationError

# The paper's negative for its quantitative comparisons, after NASA (arXiv 2505.21179, section 4).
UNIVERSAL_NEGATIVE = "Low resolution, blurry"
# The bar between them, with a blank on a side of it: [a|b] and {a|b} are prompt syntax.
_BAR = re.compile(r"(?<!\S)\||\|(?!\S)")


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its negative."""

    prompt: str
    negative: str


# The paper's Table 10: eight prompts, two negatives each.
TABLE_10: tuple[Pair, ...] = tuple(
    Pair(prompt, negative)
    for prompt, negatives in (
        ("A photo of a person", ("Male", "Female")),
        ("A photo of a person", ("Young", "Old")),
        ("A photo of a person", ("Dark", "Bright")),
        ("A photo of a pet", ("Cat", "Dog")),
        ("A photo from the 1960s", ("Black and white", "Color")),
        ("A still painting of fruits", ("Apples", "Grapes")),
        ("A landscape", ("Trees", "Mountains")),
        ("A room with furniture", ("Bed", "Window")),
    )
    for negative in negatives
)


def read(
    path: str | Path, default: str = UNIVERSAL_NEGATIVE, check: Callable[[Pair], Any] | None = None
) -> tuple[Pair, ...]:
    """The pairs of a UTF-8 text file: lines `prompt | negative`; a line without a negative takes `default`.
    Empty lines and those that begin with # are passed over. `check` raises ValueError for a pair it refuses.

    Raises EvaluationError for a file that cannot be read or has no pair, and, naming the line, for a pair
    without a prompt and one that is refused.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror or error}", BAD_USE) from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"cannot read {path}: it is not UTF-8 text", BAD_USE) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found.append(_pair(line, default))
            if check:
                check(found[-1])
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: {error}", BAD_USE) from error
    if not found:
        raise EvaluationError(f"{path} has no pair: write lines like `a photo of a pet | cat`", BAD_USE)
    return tuple(found)


def _pair(line: str, default: str) -> Pair:
    bars = [match.start() for match in _BAR.finditer(line)]
    prompt, negative = (line[: bars[-1]], line[bars[-1] + 1 :]) if bars else (line, "")
    if not prompt.strip():
        raise ValueError("no prompt before the bar")
    return Pair(prompt.strip(), negative.strip() or default)
