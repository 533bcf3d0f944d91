"""The mutants of a source file, by Cosmic Ray's operators, and a seeded sample of them."""

from __future__ import annotations

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code


class Mutant(NamedTuple):
    """One change of one place: `occurrence` of what `operator` finds in `module`, a path within the tree."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int


def sample(root: Path, folders: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` places of the folders' sources, each with one of the changes that can be made there.

    Places first: a comparison can be replaced in seven ways, and would be most of the sample.
    """
    places: dict[tuple, list[Mutant]] = defaultdict(list)
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            for mutant in of_source(file.read_text(encoding="utf-8"), file.relative_to(root).as_posix()):
                places[mutant.module, mutant.line, mutant.column].append(mutant)
    chance = random.Random(seed)
    chosen = chance.sample(sorted(places), min(count, len(places)))
    return [chance.choice(places[place]) for place in chosen]


# Beside `None` and the members of an enumeration, which are what our code compares so, these are the same.
SAME = {"core/ReplaceComparisonOperator_Is_Eq", "core/ReplaceComparisonOperator_IsNot_NotEq"}


def of_source(text: str, module: str) -> Iterator[Mutant]:
    """Every change that the operators know, but those that nothing can tell: of annotations, which nothing
    evaluates, and of what keeps a dataclass from being misused.
    """
    left_out = _left_out(text)
    nodes = list(ast_nodes(get_ast(text)))
    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        if operator.arguments() or name in SAME:
            continue  # the first replace one given name by another
        positions = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        for occurrence, (line, column) in enumerate(positions):
            if not any(begin <= (line, column) < end for begin, end in left_out):
                yield Mutant(module, name, occurrence, line, column)


def _left_out(text: str) -> list[tuple]:
    """Begin and end, as (line, column), of what stands for a type, and of `dataclass(...)`."""
    nodes = list(ast.walk(ast.parse(text)))
    found = [getattr(node, part, None) for node in nodes for part in ("annotation", "returns")]
    decorators = [one for node in nodes for one in getattr(node, "decorator_list", ())]
    found += [one for one in decorators if ast.unparse(one).startswith("dataclass")]
    # A decorator is removed from its @ on.
    return [((n.lineno, n.col_offset - 1), (n.end_lineno, n.end_col_offset)) for n in found if n is not None]


def applied(text: str, mutant: Mutant) -> str:
    """The source with the change in it."""
    changed = mutate_code(text, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None:
        raise ValueError(f"{mutant} is not of this source")
    return changed


def difference(text: str, mutant: Mutant) -> str:
    """The lines that the change takes away and puts there."""
    lines = difflib.unified_diff(text.splitlines(), applied(text, mutant).splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def statement(text: str, line: int) -> range:
    """The lines of the innermost statement there; of one that holds others, those before the first."""
    best = range(line, line + 1)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            inner = [one.lineno for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt)]
            end = min(inner) - 1 if inner else node.end_lineno
            if line <= end:
                best = range(node.lineno, end + 1)
    return best
