"""The table of soaks on tests/README.md is what their files say."""

import copy

from tests.live import soak_table
from tests.readme import PAGES


def test_the_pages_table_is_what_the_files_say():
    page = PAGES["tests/README.md"]
    assert soak_table.written(page) == page


def test_what_was_found_and_what_is_unlike_the_webui_without_nag_are_counted():
    seen = copy.deepcopy(soak_table.load("forge-neo"))
    number = next(iter(seen["with"]["drawn"]))
    seen["with"]["drawn"][number] = ["another file"]
    seen["clients"]["findings"] = ["another's seed: x", "another picture than alone"]
    cells = soak_table.column(seen)
    assert cells["different off jobs; of these unlike the WebUI's without NAG"] == "20; 1"
    assert cells["found: another's seed, settings, negative, report or picture"] == "2"
    assert cells["found: unlike its twin, left behind, memory"] == "nothing"
