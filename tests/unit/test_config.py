"""The argument contract: frozen payloads of every release, tolerance, ranges, precedence."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nag_core.settings import presets
from nag_core.settings import strength as strengths
from nag_core.settings.parse import FIELD, FIELDS, OVERRIDES_SLOT, Settings, parse

PAYLOADS = [
    pytest.param(case["args"], case["settings"], id=f"{file.stem}: {case['about']}")
    for file in sorted(Path(__file__).parents[1].glob("payloads/*.json"))
    for case in json.loads(file.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("args", "expected"), PAYLOADS)
def test_stored_payloads_keep_their_meaning(args, expected):
    settings = parse(args).settings
    for name, value in expected.items():
        found = sorted(settings.explicit) if name == "explicit" else getattr(settings, name)
        assert found == value, name


def test_the_positional_order_is_frozen():
    """Clients send lists by position: names may only be added, and never before the overrides slot."""
    assert [field.name for field in FIELDS] == [
        "enabled", "preset", "scale", "tau", "alpha", "start", "end", "negative", "method", "hires",
        "hires_scale", "curve", "blocks", "negatives", "mask", "mask_feather", "mask_image", "heat_map",
        "vsf_offset", "hires_tau", "hires_alpha",
    ]  # fmt: skip
    assert OVERRIDES_SLOT == 11


def test_tokens_and_ranges_are_frozen():
    assert FIELD["method"].choices == (
        "NAG", "NASA", "No normalisation", "No refinement", "VSF", "Orthogonal",
    )  # fmt: skip
    assert FIELD["hires"].choices == ("Both", "First pass", "Hires only")
    assert FIELD["preset"].choices == (
        "Auto", "Custom", "SDXL", "SD1.5", "Flux", "SD3.5", "Playground", "SANA", "PixArt-Sigma", "Wan2.1",
        "Z-Image Turbo (community)", "Krea 2 (community)", "Flux.2 Klein (community)",
        "Anima Turbo (community)", "Few-step", "SDXL 20+ steps", "SDXL v-pred",
        "SD3.5-L-Turbo VSF",
    )  # fmt: skip
    assert FIELD["mask"].choices == ("Off", "Inside", "Outside")
    ranges = {f.name: (f.minimum, f.maximum) for f in FIELDS if f.kind == "float"}
    assert ranges == {
        "scale": (0, 20), "tau": (1, 10), "alpha": (0, 1), "start": (0, 1), "end": (0, 1),
        "hires_scale": (0, 20), "mask_feather": (0, 256), "hires_tau": (0, 10), "hires_alpha": (0, 1),
        "vsf_offset": (0, 10),
    }  # fmt: skip


def test_infotext_keys_and_labels_are_unique_and_follow_the_hosts_grammar():
    import re

    keys = [field.infotext for field in FIELDS]
    assert len(set(keys)) == len(keys)
    assert len({field.label for field in FIELDS}) == len(FIELDS)
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in keys)


def test_off_by_default():
    assert not Settings().enabled
    assert not parse([]).settings.enabled


@pytest.mark.parametrize(
    ("given_value", "held", "word"),
    [
        ({"scale": 99}, 20.0, "20"),
        ({"tau": 0.2}, 1.0, "1"),
        ({"alpha": -3}, 0.0, "0"),
        ({"end": 1.5}, 1.0, "1"),
    ],
)
def test_values_out_of_range_are_clamped_and_said_so(given_value, held, word):
    request = parse([given_value])
    (name,) = given_value
    assert getattr(request.settings, name) == held
    assert len(request.notes) == 1
    assert name in request.notes[0]
    assert f"{word} used" in request.notes[0]


@pytest.mark.parametrize("value", ["abc", [1], {"a": 1}, True, float("nan"), float("inf"), "nan", "1e999"])
def test_unreadable_numbers_fall_back_to_the_default_and_are_said(value):
    request = parse([{"scale": value}])
    assert request.settings.scale == FIELD["scale"].default
    assert any("scale" in note for note in request.notes)


def test_text_no_host_could_write_is_made_writable():
    """A lone surrogate is legal JSON; in params.txt it was a UnicodeEncodeError, and the picture was lost."""
    assert parse([{"negative": "red \ud800"}]).settings.negative == "red ?"
    assert all(note.encode("utf-8") for note in parse([{"\ud800": 1, "method": "\ud800"}]).notes)


def test_numbers_of_thousands_of_digits_do_not_raise():
    request = parse([{"negative": 10**5000, "scale": 10**5000, 10**5000: 1}])
    assert request.settings.negative == ""
    assert len(request.notes) == 3


def test_unknown_fields_are_ignored_and_said():
    request = parse([{"scale": 3, "strenght": 5}])
    assert request.settings.scale == 3
    assert any("strenght" in note for note in request.notes)


@pytest.mark.parametrize("slot", ["{", "[1]", "3", "null", 7, "[" * 100_000])
def test_overrides_that_are_no_json_object_are_ignored_and_said(slot):
    args = [True, *(field.default for field in FIELDS[1:OVERRIDES_SLOT]), slot]
    request = parse(args)
    assert request.settings.enabled
    assert any("overrides" in note for note in request.notes)


def test_a_preset_supplies_the_strength_and_the_sliders_are_ignored():
    settings = parse([True, "SD1.5", 9, 9, 0.9]).settings
    assert strengths.of(settings, "SDXL") == presets.TABLE_5["SD1.5"]


def test_custom_takes_the_sliders():
    settings = parse([True, "Custom", 9, 5, 0.9]).settings
    assert strengths.of(settings, "SDXL") == presets.Strength(9, 5, 0.9)


def test_what_a_dict_gives_wins_over_the_preset_and_the_rest_stays_the_presets():
    settings = parse([{"scale": 4}]).settings
    assert strengths.of(settings, "SD1.5") == presets.Strength(4.0, 2.5, 0.375)
    assert strengths.of(settings, "SDXL") == presets.Strength(4.0, 2.5, 0.5)


def test_auto_takes_table_5_of_the_paper():
    table = {
        "Flux": (4, 2.5, 0.25), "SD3.5": (4, 2.5, 0.125), "SANA": (4, 2.5, 0.375),
        "PixArt-Sigma": (4, 2.5, 0.375),
        "Wan2.1": (4, 2.5, 0.25), "SDXL": (2, 2.5, 0.5), "Playground": (2, 2.5, 0.5),
        "SD1.5": (2, 2.5, 0.375),
    }  # fmt: skip
    for family, row in table.items():
        assert strengths.of(parse([{}]).settings, family) == presets.Strength(*row)


def test_auto_for_an_unknown_model_takes_the_row_of_its_mechanism():
    assert presets.auto("unknown") == "SDXL"
    assert presets.auto("unknown", "joint") == "Flux"
    assert presets.auto("SD2") == "SD1.5"


@pytest.mark.parametrize(
    ("name", "strength", "window"),
    [
        ("Few-step", presets.Strength(2, 2.5, 0.375), (0.1, 0.25)),
        ("SDXL 20+ steps", presets.Strength(6, 2.5, 0.5), (0.1, 0.9)),
        ("SDXL v-pred", presets.Strength(2, 2.5, 0.125), (0.1, 0.9)),
    ],
)
def test_a_variant_sets_what_it_is_named_for_and_the_sliders_keep_the_rest(name, strength, window):
    settings = parse([True, name, 9, 9, 0.9, 0.1, 0.9]).settings
    assert strengths.of(settings, "SD1.5") == strength
    assert (settings.start, settings.end) == window


MINE = {"My Look": {"scale": 3.0, "tau": 2.0, "alpha": 0.3, "end": 0.5, "method": "NASA"}}


def test_a_user_preset_supplies_its_values_and_the_sliders_keep_the_rest():
    request = parse([True, "my look", 9, 9, 0.9, 0.2, 0.9, "", "NAG"], MINE)
    assert request.notes == ()
    assert request.settings.preset == "My Look"
    assert strengths.of(request.settings, "SDXL") == presets.Strength(3, 2, 0.3)
    assert (request.settings.start, request.settings.end, request.settings.method) == (0.2, 0.5, "NASA")


@pytest.mark.parametrize("given_by", ["dict", "overrides"])
def test_what_is_named_wins_over_a_user_preset(given_by):
    named = {"preset": "My Look", "scale": 7, "end": 1}
    args = (
        [named]
        if given_by == "dict"
        else [True, *(f.default for f in FIELDS[1:OVERRIDES_SLOT]), json.dumps(named)]
    )
    settings = parse(args, MINE).settings
    assert strengths.of(settings, "SDXL") == presets.Strength(7, 2, 0.3)
    assert (settings.end, settings.method) == (1.0, "NASA")


@pytest.mark.parametrize("stored", [None, {}, {"Other": {"scale": 1}}])
@pytest.mark.parametrize("args", [[True, "My Look", 9, 9, 0.9], [{"preset": "My Look"}]], ids=str)
def test_a_vanished_user_preset_is_auto_with_a_note(args, stored):
    request = parse(args, stored)
    assert request.settings.preset == "Auto"
    assert strengths.of(request.settings, "SD1.5") == presets.TABLE_5["SD1.5"]
    assert any("My Look" in note for note in request.notes)


def test_user_presets_add_nothing_to_the_frozen_tokens():
    before = FIELD["preset"].choices
    parse([True, "My Look"], MINE)
    assert FIELD["preset"].choices is before


def test_values_of_a_user_preset_are_held_to_the_ranges():
    settings = parse([True, "wild"], {"wild": {"scale": 99, "tau": "x", "alpha": None, "end": -1}}).settings
    assert strengths.of(settings, "SDXL") == presets.Strength(20, 2.5, FIELD["alpha"].default)
    assert settings.end == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from([*FIELD, "phi", "nag_scale", "x", ""]), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=15))
def test_no_payload_raises_and_every_result_is_in_range(args):
    settings = parse(args).settings
    for field in FIELDS:
        value = getattr(settings, field.name)
        assert type(value) is type(field.default)
        if field.kind == "float":
            assert field.minimum <= value <= field.maximum
        if field.kind == "choice":
            assert value in field.choices


@pytest.mark.parametrize(
    ("given_values", "family", "strength"),
    [
        ({"method": "VSF"}, "SD3.5", presets.Strength(3.5, 2.5, 0.125, 0.1)),
        ({"method": "VSF"}, "SDXL", presets.Strength(1, 2.5, 0.5, 1.0)),
        ({"method": "VSF"}, "unknown", presets.Strength(1, 2.5, 0.5, 1.0)),
        ({"method": "VSF", "scale": 2, "vsf_offset": 0}, "SDXL", presets.Strength(2, 2.5, 0.5, 0.0)),
        ({"method": "VSF", "preset": "Few-step"}, "SDXL", presets.Strength(1, 2.5, 0.5, 1.0)),
        ({"method": "VSF", "preset": "SDXL"}, "SDXL", presets.Strength(2, 2.5, 0.5)),
        ({"preset": "SD3.5-L-Turbo VSF"}, "SDXL", presets.Strength(3.5, 2.5, 0.125, 0.1)),
        ({"method": "Orthogonal"}, "SD3.5", presets.Strength(1, 2.5, 0.125)),
        ({"method": "NASA"}, "SD3.5", presets.Strength(4, 2.5, 0.125)),
    ],
    ids=str,
)
def test_auto_takes_a_scale_that_suits_the_rule(given_values, family, strength):
    settings = parse([given_values]).settings
    assert strengths.of(settings, family) == strength
    toy = strength.phi == 1
    assert strengths.borrowed(settings, family).startswith("Auto has no") == toy


def test_the_offset_slider_wins_under_auto_where_it_was_moved():
    slots = [field.default for field in FIELDS]
    slots.insert(OVERRIDES_SLOT, {"method": "VSF"})
    slots[0], slots[19] = True, 0.4
    assert strengths.of(parse(slots).settings, "SDXL").offset == 0.4


def test_what_a_method_does_not_read_is_said_where_it_was_named():
    given_values = {"method": "VSF", "scale": 2, "tau": 3, "alpha": 0.5, "vsf_offset": 0.1}
    assert strengths.unread(parse([given_values]).settings) == "VSF does not read tau and alpha"
    assert strengths.unread(parse([{"tau": 3, "scale": 1}]).settings) == ""
    assert strengths.unread(parse([{"vsf_offset": 1}]).settings) == "NAG does not read vsf_offset"
