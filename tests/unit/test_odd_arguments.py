"""Whatever a client sends: the parser never raises, stays in range, and says what it did not understand."""

import json
import unicodedata

from hypothesis import example, given

from nag_core.settings.parse import FIELD, FIELDS, OVERRIDES_SLOT, parse
from tests.odd_arguments import ARGUMENTS, NAMED, SLOTS, patient

# What Python's float() does not read and people write.
DECIMAL_SIGNS = str.maketrans({",": ".", "\N{ARABIC DECIMAL SEPARATOR}": ".", "\N{MINUS SIGN}": "-"})


@patient
@given(ARGUMENTS)
def test_every_list_becomes_settings_in_range(args):
    request = parse(args)
    for field in FIELDS:
        value = getattr(request.settings, field.name)
        assert type(value) is type(field.default)
        if field.kind == "float":
            assert field.minimum <= value <= field.maximum
        if field.kind == "choice":
            assert value in field.choices
    assert all(len(note) < 200 for note in request.notes)


@patient
@given(ARGUMENTS)
def test_reading_changes_nothing_in_the_list_it_was_given(args):
    before = json.dumps(args)
    parse(args)
    assert json.dumps(args) == before


@patient
@given(ARGUMENTS)
def test_what_was_read_reads_as_itself(args):
    """Settings sent back as a dict are the same settings, and nothing about them needs to be said."""
    settings = parse(args).settings
    again = parse([{name: getattr(settings, name) for name in FIELD}])
    assert again.notes == ()
    assert all(getattr(again.settings, name) == getattr(settings, name) for name in FIELD)


@patient
@given(NAMED)
def test_dict_and_overrides_slot_read_alike(named):
    as_dict = parse([named])
    slots = [True, *(field.default for field in FIELDS[1:OVERRIDES_SLOT]), json.dumps(named)]
    as_text = parse(slots)
    for name in FIELD:
        if name != "enabled" or named.get(name) is not None:
            assert getattr(as_dict.settings, name) == getattr(as_text.settings, name), name


@patient
@given(SLOTS[2])
@example("\uff14\uff0c\uff15")
def test_a_number_that_is_none_is_said(value):
    """Never a default in silence."""
    request = parse([{"scale": value}])
    plain = value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 20
    )
    if request.notes or plain:
        return
    # Full-width signs and a decimal comma are read, too: "４，５" is 4.5.
    assert 0 <= float(unicodedata.normalize("NFKC", value).translate(DECIMAL_SIGNS)) <= 20
