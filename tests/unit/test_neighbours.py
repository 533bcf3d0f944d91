"""What was seen beside other people's extensions: the verdicts, and the table on the page."""

import pytest

from tests.live import neighbours, neighbours_table
from tests.readme import PAGES

SEEN = {
    "acts_alone": True, "nag_acts_alone": True, "nag_acts_beside_it": True, "it_acts_beside_nag": True,
    "another_negative_matters": True, "levels_at_scale_next_to_nothing": 1, "alone_again_same_bytes": True,
    "report": "16 layers × 4/4 steps", "picture": "aa", "code": "aaa", "source": "a/b@c",
}  # fmt: skip
ASIDE = {"report": "not applied: the extension x guides this job", "nag_acts_beside_it": False}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "works"),
        ({"acts_alone": False}, "it has no effect, NAG or not"),
        ({"nag_acts_alone": False}, "NAG has no effect"),
        ({"nag_acts_beside_it": False}, "does not work"),
        ({"it_acts_beside_nag": False}, "does not work"),
        ({"another_negative_matters": False}, "does not work"),
        ({"levels_at_scale_next_to_nothing": 40}, "does not work"),
        ({"alone_again_same_bytes": False}, "leaves something behind"),
        (ASIDE, "NAG stands aside and says so"),
    ],
)
def test_a_verdict_is_what_was_seen(found, said):
    assert neighbours.verdict({**SEEN, **found}) == said


def test_the_table_says_what_the_report_said_and_what_was_run_before():
    doubled = (
        "16 layers × 4/4 steps, the extension x guides with a NAG of its own as well: the guidance is doubled"
    )
    seen = {
        "forge-main": {
            "Works": SEEN,
            "Aside": {**SEEN, **ASIDE, "code": "bbb"},
            "Another": {**SEEN, "report": doubled, "source": ""},
        },
        "forge-neo": {"Works": {"impossible": "it needs x"}},
    }
    assert neighbours_table.table(seen, "aaa").splitlines() == [
        "| extension | as it was run | Forge main | Forge Neo |",
        "|---|---|---|---|",
        "| Works | a/b@c | works | not possible here: it needs x |",
        f"| Aside | a/b@c | NAG stands aside and says so: `{ASIDE['report']}`¹ | not run |",
        "| Another | Forge main's own | works; said: `… a NAG of its own as well: the guidance is doubled` "
        "| not run |",
        "",
        "¹ Run on an earlier state of `nag_core/`.",
    ]


def test_the_pages_table_is_what_the_files_say():
    """Red after a change of nag_core: `python -m tests.live.neighbours_table` marks what to run again."""
    page = PAGES["tests/README.md"]
    assert neighbours_table.written(page) == page


def test_nag_was_in_adetailers_inner_pass_where_it_was_among_its_scripts():
    for host, seen in neighbours_table.load().items():
        without, among = seen["ADetailer"], seen["ADetailer, NAG among its scripts"]
        assert without["picture"] != among["picture"], host
