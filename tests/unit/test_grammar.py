"""Arguments as people write them: JSON text for a dict, numbers, names, and what is said of the rest."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nag_core.settings import strength
from nag_core.settings.assignments import NotAssignmentsError, assignments, cells
from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT
from nag_core.settings.parse import parse
from nag_core.settings.presets import Strength
from nag_core.settings.values import json_object, number, switch
from tests.odd_arguments import JUNK, NUMBERS, TEXTS, WORDS, patient

FLUX = Strength(4, 2.5, 0.25)


def of_model(settings):
    return strength.of(settings, "Flux")


def parsed(*args, user_presets=None):
    return parse(list(args), user_presets, of_model)


# JSON text wherever a dict is


@pytest.mark.parametrize(
    "args",
    [
        ['{"enabled": true, "scale": 6}'], ['{"scale": 6}'], [' {"phi": "6"}\n'], [True, '{"scale": 6}'],
        ["on", '{"nag_scale": 7}'],
        [True, *(field.default for field in FIELDS[1:OVERRIDES_SLOT]), {"scale": 6}],
    ],
    ids=str,
)  # fmt: skip
def test_json_text_is_a_dict(args):
    request = parsed(*args)
    assert request.notes == ()
    assert (request.settings.enabled, request.settings.scale) == (True, 6.0)
    assert "scale" in request.settings.explicit


@pytest.mark.parametrize(
    "slot", ["{broken", "[1]", "null", '"{}"', "{'enabled': true}", "{" * 3000, [{"enabled": True}], ["on"]]
)
def test_what_is_no_dict_and_no_switch_is_off_and_said(slot):
    request = parsed(slot)
    assert not request.settings.enabled
    (note,) = request.notes
    assert note.startswith("enabled ")
    assert note.endswith("not understood, False used")


# Off by mistake


@pytest.mark.parametrize("word", ["enable", "checked", "True.", "2", "y", "1.5", " ", "аn"])
def test_a_dict_whose_enabled_cannot_be_read_is_on_as_without_it(word):
    request = parsed({"enabled": word, "scale": 4})
    assert request.settings.enabled
    assert any(note.startswith("enabled ") and note.endswith("True used") for note in request.notes)


@pytest.mark.parametrize("word", ["enable", "checked", [[{}]], 2, -1, 0.5, " ", "ja"])
def test_a_switch_that_cannot_be_read_is_off_and_said(word):
    request = parsed(word)
    assert not request.settings.enabled
    assert any(note.startswith("enabled ") and note.endswith("False used") for note in request.notes)


OFF_ON_PURPOSE = ([], [False], [0], [0.0], ["off"], ["no"], ["OFF "], ["false"], ["0"], [""], [None])


@pytest.mark.parametrize("args", [*OFF_ON_PURPOSE, [{"enabled": False}], [False, {"scale": 4}]], ids=str)
def test_off_on_purpose_is_not_talked_about(args):
    request = parsed(*args)
    assert not request.settings.enabled
    assert request.notes == ()


# What is used in place of what cannot be read


@pytest.mark.parametrize(
    ("args", "used", "said"),
    [
        ([{"scale": "high"}], FLUX, "scale 'high' not understood, 4 used"),
        ([{"alpha": "half"}], FLUX, "alpha 'half' not understood, 0.25 used"),
        ([{"nag_tau": {}}], FLUX, "nag_tau of type dict not understood, 2.5 used"),
        ([{"phi": True}], FLUX, "phi True not understood, 4 used"),
        ([True, "Flux", "high"], FLUX, "scale 'high' not understood, 4 used"),
        ([True, "Custom", "high"], Strength(2, 2.5, 0.5), "scale 'high' not understood, 2 used"),
        ([True, "Custom", 9, 2.5, 0.5, []], Strength(9, 2.5, 0.5),
         "start of type list not understood, 0 used"),
        ([True, "Flux", 99], FLUX, "scale 99 is outside 0–20, 4 used"),
        ([{"scale": 99}], Strength(20, 2.5, 0.25), "scale 99 is outside 0–20, 20 used"),
        ([{"nag_scale": "0,5"}], Strength(0, 2.5, 0.25),
         "nag_scale '0,5' (scale -0.5) is outside 0–20, 0 used"),
        ([{"preset": "Mine", "tau": "x"}], Strength(3, 2, 0.3), "tau 'x' not understood, 2 used"),
        ([{"preset": "SDXL v-pred", "alpha": []}], Strength(2, 2.5, 0.125),
         "alpha of type list not understood, 0.125 used"),
        ([{"hires_tau": 0.5}], FLUX, "hires_tau 0.5 is outside 1–10, 1 used"),
        ([{"hires_tau": -1}], FLUX, "hires_tau -1 is outside 0–10, 0 used"),
        ([{"scale": 4, "phi": 5}], Strength(5, 2.5, 0.25), "scale and phi are the same setting, 5 used"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_the_message_names_the_value_that_is_used(args, used, said):
    request = parsed(*args, user_presets={"Mine": {"scale": 3, "tau": 2, "alpha": 0.3}})
    assert strength.of(request.settings, "Flux") == used
    assert request.notes == (said,)


def test_an_unreadable_override_leaves_what_the_dict_says():
    args = [{"scale": 7, "end": 0.5}, *(field.default for field in FIELDS[1:OVERRIDES_SLOT])]
    request = parsed(*args, '{"scale": "x", "end": 2, "hires": "second"}')
    assert (request.settings.scale, request.settings.end, request.settings.hires) == (7, 1, "Both")
    assert request.notes == (
        "scale 'x' not understood, 7 used", "end 2 is outside 0–1, 1 used",
        "hires 'second' not understood, 'Both' used",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "used"),
    [
        ("curve", "zigzag", "''"),
        ("blocks", "input.", "''"),
        ("negatives", "red :: x", "''"),
        ("mask", "In", "'Off'"),
    ],
)
def test_a_text_that_means_nothing_names_what_is_used(field, value, used):
    (note,) = parsed({field: value}).notes
    assert note.startswith(f"{field} {value!r} ")
    assert note.endswith(f", {used} used")


def test_without_a_model_the_message_says_whose_value_it_will_be():
    assert parse([{"scale": "high"}]).notes == ("scale 'high' not understood, the model's own used",)


# Numbers and switches as people write them


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (" 4 ", 4), ("4.0", 4), ("4.", 4), (".5", 0.5), ("+4", 4), ("1e1", 10), ("４", 4), ("０．５", 0.5),
        ("0,5", 0.5), ("０，５", 0.5), ("٤", 4), ("٠٫٥", 0.5), ("−1", -1), ("\u00a04\u3000", 4), ("4\n", 4),
        ("1_000", None), ("0x10", None), ("4²", None), ("½", None), ("1,2,3", None), ("1.000,5", None),
        ("", None), (" ", None), ("nan", None), ("inf", None), ("1e999", None), ("four", None), ("4 5", None),
        (True, None), (10**400, None), ([4], None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_numbers_in_text(written, meant):
    assert number(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [("On", True), (" yes ", True), ("1", True), ("１", True), (1.0, True), ("0,0", False), ("", False),
     (2, None), (float("nan"), None), ("enabled", None), ([], None), (10**400, None)],
)  # fmt: skip
def test_switches(written, meant):
    assert switch(written) is meant


@pytest.mark.parametrize("field", ["scale", "tau", "alpha", "start", "end", "hires_scale", "mask_feather"])
def test_a_comma_before_the_decimals_in_every_number_and_not_where_commas_separate(field):
    settings = parsed({field: "1,5" if field == "tau" else "0,5"}).settings
    assert getattr(settings, field) == (1.5 if field == "tau" else 0.5)
    points = parsed({"curve": "0,5:2, 1:0"})
    assert points.settings.curve == ""
    assert "curve" in points.notes[0]


@patient
@given(st.floats(0, 20, allow_subnormal=False), st.sampled_from(["{}", " {} ", "+{}"]))
def test_every_number_reads_as_itself_in_any_digits(value, form):
    text = form.format(value)
    wide = text.translate({ord("0") + n: ord("０") + n for n in range(10)}).replace(".", "，")
    assert number(text) == number(wide) == value


# Several settings in one text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("scale=4 tau=2; method=No refinement", [("scale", "4"), ("tau", "2"), ("method", "No refinement")]),
        ('preset="a=b; c" scale=4', [("preset", "a=b; c"), ("scale", "4")]),
        ("preset=A=B; c", [("preset", "a=b; c")]),
        ("preset=a=b scale=4", [("preset", "a=b"), ("scale", "4")]),
        ('negative="say ""hi"", you"; tau = 2', [("negative", 'say "hi", you'), ("tau", "2")]),
        ('negative=5" pipe', [("negative", '5" pipe')]),
        ("tau=", [("tau", "")]),
    ],
)  # fmt: skip
def test_settings_in_one_text(text, found):
    assert assignments(text, lambda name: ["a=b", "a=b; c"] if name == "preset" else []) == found


@pytest.mark.parametrize(
    "text", ["", ";", "scale", "scale=4=5", "scale=4; tau", 'negative="open', 'a="b"c', "=4"]
)
def test_what_is_not_of_that_form_is_refused(text):
    with pytest.raises(NotAssignmentsError):
        assignments(text, lambda name: [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a, b", ["a", "b"]), ("", []), ("a,", ["a", ""]), ('"a, b",c', ["a, b", "c"]),
        ('preset="a, b" scale=2, scale=3', ['preset="a, b" scale=2', "scale=3"]),
        ('"preset=""a, b"" scale=2",scale=3', ['preset="a, b" scale=2', "scale=3"]),
        ('negative=5" pipe, negative=6" pipe', ['negative=5" pipe', 'negative=6" pipe']),
    ],
)  # fmt: skip
def test_cells(text, found):
    assert cells(text) == found


LINE = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12) | st.sampled_from(
    [word for word in WORDS if "\n" not in word and "\x00" not in word]
)


@patient
@given(st.lists(st.dictionaries(st.sampled_from("abc"), LINE, min_size=1), min_size=1, max_size=3))
def test_whatever_is_quoted_comes_back(settings):
    """Commas, equals signs, semicolons and quotes, in a cell as in a list of cells."""
    written = [
        " ".join('{}="{}"'.format(name, value.replace('"', '""')) for name, value in one.items())
        for one in settings
    ]
    for texts in (
        cells(", ".join(written)),
        cells(", ".join('"{}"'.format(t.replace('"', '""')) for t in written)),
    ):
        assert [dict(assignments(text, lambda name: [])) for text in texts] == settings


@patient
@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_no_text_is_an_error_of_ours(text, words):
    cells(text)
    with contextlib.suppress(NotAssignmentsError):
        assignments(text, lambda name: words)


# Nothing is changed in silence, whatever comes


def same(field, used, given_value):
    """Whether the value in use is what was written."""
    if field.kind in ("float", "bool"):
        return used == (number if field.kind == "float" else switch)(given_value)
    return used == given_value or str(used).lower() == str(given_value).strip().lower()


@patient
@given(st.lists(JUNK | NUMBERS | TEXTS, max_size=24))
def test_every_slot_is_taken_as_it_is_or_talked_about(args):
    request = parsed(*args)
    said = " ".join(request.notes)
    slots = [*args[:OVERRIDES_SLOT], *args[OVERRIDES_SLOT + 1 :]]
    for field, given_value in zip(FIELDS, slots, strict=False):
        if field.name in ("enabled", "preset") and json_object(given_value) is not None:
            continue
        used = getattr(request.settings, field.name)
        if given_value is not None and field.name not in request.settings.explicit:
            assert field.name in said or same(field, used, given_value), field.name


@patient
@given(JUNK)
def test_the_same_dict_as_json_text_is_the_same_request(value):
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return
    if isinstance(value, dict):
        assert parsed(text) == parsed(json.loads(text))
