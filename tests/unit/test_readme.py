"""What the README says about settings and presets is what the code has."""

from pathlib import Path

import pytest

from nag_core import presets
from nag_core.config import FIELDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells[1:]
    for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in README.splitlines())
    if len(cells) >= 4
}


@pytest.mark.parametrize(
    "field", [f for f in FIELDS if f.name not in ("enabled", "start", "end")], ids=lambda f: f.name
)
def test_every_setting_stands_in_the_table_with_its_range(field):
    assert field.label in ROWS
    if field.kind == "float":
        assert ROWS[field.label][0] == f"{field.minimum:g}–{field.maximum:g}"


def test_start_and_end_share_a_row():
    assert ROWS["Start, End"][0] == "0–1"


def test_the_preset_values_are_the_codes():
    section = README.split("### Presets")[1].split("## API")[0]
    cells = [cell.strip() for line in section.splitlines() for cell in line.split("|")]
    for name, row in presets.TABLE_5.items():
        (at,) = [i for i, cell in enumerate(cells) if name in cell.split(", ")]
        assert [float(cell) for cell in cells[at + 1 : at + 4]] == [row.phi, row.tau, row.alpha]


def test_every_setting_of_the_dict_form_is_named():
    keys = README.split("Keys: ")[1].split("\n\n")[0]
    for field in FIELDS:
        assert f"`{field.name}`" in keys
