"""The grammar of block lists, and what it chooses of the blocks that a network has."""

import pytest

from nag_core.settings.blocks import choose, listing, parse_blocks

SDXL = [("input", n) for n in (4, 5, 7, 8)] + [("middle", 0)] + [("output", n) for n in range(6)]
FLUX = [("double", n) for n in range(19)] + [("single", n) for n in range(38)]


def chosen(text, available=SDXL):
    return choose(parse_blocks(text), available)


def numbers(choice, kind):
    return sorted(number for name, number in choice.blocks if name == kind)


def test_no_text_and_a_list_of_everything_are_every_block():
    for text in ("", " , ", "input middle output", "input.0-8, middle.0, output.0-", "output; MIDDLE; input"):
        assert chosen(text) == (frozenset(SDXL), ())


def test_ranges_include_both_ends_and_take_what_exists():
    assert numbers(chosen("input.5-7"), "input") == [5, 7]
    assert numbers(chosen("output.3"), "output") == [3]
    assert numbers(chosen("output.3-"), "output") == [3, 4, 5]
    both = chosen("double.0-18 single.20-", FLUX)
    assert (numbers(both, "double"), numbers(both, "single")) == (list(range(19)), list(range(20, 38)))


def test_terms_that_name_nothing_are_told():
    assert chosen("double.0-18, input.6, middle") == (frozenset({("middle", 0)}), ("double.0-18", "input.6"))


@pytest.mark.parametrize(
    "text", ["input.", "input.x", "input.4--8", "4-8", "input.-3", "double.3-1", "*", "in put!", "ä.1"]
)
def test_what_is_no_block_list_is_refused(text):
    with pytest.raises(ValueError, match="allowed are kinds|counts backwards"):
        parse_blocks(text)


def test_the_listing_is_itself_a_list_of_every_block():
    assert listing(SDXL) == "input.4-5, input.7-8, middle.0, output.0-5"
    for available in (SDXL, FLUX, [("joint", 0)]):
        assert chosen(listing(available), available) == (frozenset(available), ())
