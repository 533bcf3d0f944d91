"""What was seen of model families on live WebUIs: the verdicts, and the table on the page."""

import pytest

from tests.live import families, families_table, support
from tests.readme import PAGES

SEEN = {
    "levels_of_guidance": 40, "another_negative_matters": True, "levels_at_scale_next_to_nothing": 1,
    "scale_nothing_same_pixels": True, "several_matter": True, "acts_beside_cfg": True, "pictures": 1,
    "acts_on_every_picture": True, "levels_of_a_batch": [1, 1], "off_again_same_bytes": True,
    "reports": {"on": "16 layers × 4/4 steps"}, "applied": {"on": "fully", "cfg": "fully"}, "code": "aaa",
    "job": {"batch_size": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "works"),
        ({"off_again_same_bytes": False}, "leaves something behind"),
        ({"levels_of_guidance": 0}, "unguided"),
        ({"levels_of_guidance": 4}, "guided too little to tell"),
        ({"pictures": 0}, "0 pictures of 1"),
        ({"another_negative_matters": False}, "the negative does not matter"),
        ({"scale_nothing_same_pixels": False}, "scale 0 is not off"),
        ({"several_matter": False}, "several negatives do not matter"),
        ({"acts_beside_cfg": False}, "unguided beside CFG"),
        ({"acts_on_every_picture": False}, "not every picture is guided"),
        ({"levels_at_scale_next_to_nothing": 40}, "changes the picture beyond its guidance"),
        ({"levels_of_a_batch": [40, 1]}, "a batch is guided otherwise than its pictures alone"),
        ({"levels_of_a_batch": [40, 40]}, "works"),
        ({"applied": {"on": "fully", "cfg": "partly (3 of 4 calls)"}}, "partly guided (cfg)"),
        ({"fails": "KeyError"}, "does not draw"),
    ],
)
def test_a_verdict_is_what_was_seen(found, said):
    assert families.verdict({**SEEN, **found}) == said


@pytest.mark.parametrize(
    ("checkpoint", "model", "it_did"),
    [
        ("flux-dev", "flux-dev", True),
        ("v1.5", "v1.5", True),
        ("folder/flux-dev.safetensors [0123abcdef]", "flux-dev", True),
        ("flux-dev", "flux", False),
        ("flux", "flux-dev", False),
    ],
)
def test_a_checkpoint_is_known_by_its_whole_name(checkpoint, model, it_did):
    """A WebUI that had "flux" loaded passed for one that drew with "flux-dev"."""
    infotext = f"a circle\nSteps: 4, Model hash: 0123abcdef, Model: {model}, Version: 1"
    assert families.drew_with(checkpoint, infotext) is it_did
    assert not families.drew_with(checkpoint, "a circle\nSteps: 4")


def test_a_video_has_no_batch_to_compare():
    video = {name: value for name, value in SEEN.items() if name != "levels_of_a_batch"}
    assert families.verdict(video) == "works"


def test_the_table_keeps_a_family_that_fails_and_marks_what_was_run_before():
    unguided = {
        **SEEN,
        "levels_of_guidance": 0,
        "reports": {"on": "not applied: no such layer"},
        "code": "bbb",
    }
    seen = {"forge-neo": {"Wan": unguided, "Anima": SEEN, "X": {"fails": "KeyError: 'x'", "code": "aaa"}}}
    assert families_table.table(seen, "aaa").splitlines() == [
        "| family | Forge Neo |",
        "|---|---|",
        "| Wan | unguided: `not applied: no such layer`¹ |",
        "| Anima | works: `16 layers × 4/4 steps` |",
        "| X | does not draw: `KeyError: 'x'` |",
        "",
        "¹ Run on an earlier state of `nag_core/`.",
    ]


def test_a_server_whose_code_nobody_knows_stands_in_no_table(tmp_path):
    files_seen = {"Wan": {**SEEN, "tests": "bbb", "commit": ""}}
    families_table.files.write(tmp_path / "forge-neo.json", {families.KIND: files_seen})
    with pytest.raises(support.RefusedError):
        families_table.load(tmp_path)


def test_the_pages_table_is_what_the_files_say():
    """Red after a change of nag_core: `python -m tests.live.families_table` marks what to run again."""
    page = PAGES["tests/README.md"]
    assert families_table.written(page) == page
