"""Which rows of a batched call are conditional, in every layout hosts.md B 2.4 lists."""

import pytest

from nag_core.method.rows import conditional_rows


def rows(*args, **kwargs):
    found = conditional_rows(*args, **kwargs)
    return None if found is None else [(row.row, row.image) for row in found]


def test_uncond_first_as_on_forge():
    assert rows(4, [1, 0], 2) == [(2, 0), (3, 1)]


def test_cond_first_as_elsewhere():
    assert rows(4, [0, 1], 2) == [(0, 0), (1, 1)]


def test_cfg_1_has_only_conditional_rows():
    assert rows(3, [0], 3) == [(0, 0), (1, 1), (2, 2)]


def test_a_call_with_uncond_rows_only_has_nothing_to_guide():
    assert rows(2, [1], 2) == []


def test_every_cond_of_an_and_prompt_counts():
    """ComfyUI-NAG guides only the last cond."""
    assert rows(6, [1, 0, 0], 2) == [(2, 0), (3, 1), (4, 0), (5, 1)]


def test_multidiffusion_tiles_repeat_the_whole_arrangement():
    assert rows(8, [1, 0], 2, tiled=True) == [(2, 0), (3, 1), (6, 0), (7, 1)]


def test_tiles_are_not_guessed_at():
    assert rows(8, [1, 0], 2) is None


def test_regions_of_an_attn2_patch_follow_the_unconds():
    assert rows(4, [1, 0], 1, regional=True) == [(1, 0), (2, 0), (3, 0)]
    assert rows(8, [1, 0], 2, regional=True) == [(2, 0), (3, 1), (4, 0), (5, 1), (6, 0), (7, 1)]


def test_a_filler_row_behind_the_regions_makes_the_sum_even():
    assert rows(6, [1, 0, 0], 1, regional=True) == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]


@pytest.mark.parametrize("total", [3, 5, 7])
def test_row_counts_no_regions_can_have_are_unknown(total):
    assert rows(total, [1, 0], 2, regional=True) is None


def test_regions_within_tiles_are_not_guessed_at():
    assert rows(6, [1, 0], 1, tiled=True, regional=True) == [(1, 0), (3, 0), (5, 0)]
    assert rows(5, [1, 0], 1, tiled=True, regional=True) is None


@pytest.mark.parametrize(("total", "marks", "images"), [(5, [1, 0], 2), (3, [0], 2), (1, [], 1), (2, [0], 0)])
def test_unknown_layouts_are_none(total, marks, images):
    assert rows(total, marks, images) is None
