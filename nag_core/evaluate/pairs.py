"""What to draw and what to steer away from: the paper's pairs, or those of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nag_core.evaluate.errors import BAD_USE, EvaluationError

# The paper's negative for its quantitative comparisons, after NASA (arXiv 2505.21179, section 4).
UNIVERSAL_NEGATIVE = "Low resolution, blurry"


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


def read(path: str | Path) -> tuple[Pair, ...]:
    """The pairs of a UTF-8 text file: lines `prompt | negative`; a line without ` | ` takes the universal
    negative. Empty lines and those that begin with # are passed over.

    Raises EvaluationError for a file that cannot be read, has no pair or a line without a prompt.
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
        # The bar stands between spaces: [a|b] is prompt syntax.
        prompt, bar, negative = f" {line} ".rpartition(" | ")
        prompt, negative = (prompt.strip(), negative.strip()) if bar else (negative.strip(), "")
        if not prompt:
            raise EvaluationError(f"{path}, line {number}: no prompt before the bar", BAD_USE)
        found.append(Pair(prompt, negative or UNIVERSAL_NEGATIVE))
    if not found:
        raise EvaluationError(f"{path} has no pair: write lines like `a photo of a pet | cat`", BAD_USE)
    return tuple(found)
