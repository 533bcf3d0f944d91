"""Reading the values of a plot's axis: comma separated, with ranges `1-5`, `1-5 (+2)` and `1-5 [3]`."""

from __future__ import annotations

import csv
import re
from io import StringIO
from typing import Any

import numpy as np

NUMBER = r"\s*([+-]?\s*\d+(?:\.\d*)?)\s*"
RANGE = re.compile(rf"{NUMBER}-{NUMBER}(?:\(([+-]\d+(?:\.\d*)?)\s*\)\s*)?")
# (label, value) of what a make of the plot asks for besides (nag_core/sandbox/makes.py).
MORE_ARGUMENTS: tuple[tuple[str, Any], ...] = ()
COUNTED = re.compile(rf"{NUMBER}-{NUMBER}\[(\d+)\s*\]\s*")


def csv_string_to_list_strip(text: str) -> list[str]:
    """The comma separated values, quotes honoured."""
    return [value.strip() for row in csv.reader(StringIO(text), skipinitialspace=True) for value in row]


def list_to_csv_string(values: list[str]) -> str:
    """The reverse of csv_string_to_list_strip."""
    with StringIO() as out:
        csv.writer(out).writerow(values)
        return out.getvalue().strip()


def expand_numbers(values: list[str], kind: type) -> list[Any]:
    """Values with ranges written out; empty ones are dropped."""
    expanded: list[Any] = []
    for value in values:
        counted, plain = COUNTED.fullmatch(value), RANGE.fullmatch(value)
        if counted:
            expanded += np.linspace(float(counted[1]), float(counted[2]), int(counted[3])).tolist()
        elif plain:
            step = float(plain[3] or 1)
            expanded += np.arange(float(plain[1]), float(plain[2]) + step / 2, step).tolist()
        elif value:
            expanded.append(value)
    return [kind(value) for value in expanded]
