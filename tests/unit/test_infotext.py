"""Every setting into the picture's parameters and back, also for pictures without NAG."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nag_core.settings import presets, strength
from nag_core.settings.parse import FIELD, FIELDS, Settings, parse
from nag_core.webui import infotext
from nag_core.webui.foreign_infotext import translate
from tests.odd_arguments import JUNK, patient


def written(settings, family="SDXL"):
    parameters = {}
    infotext.write(parameters, settings, strength.of(settings, family))
    return {key: str(value) for key, value in parameters.items()}


def read(parameters):
    return {name: reader(parameters) for name, reader in infotext.READERS.items()}


FULL = Settings(
    True, "Custom", 3.5, 2.0, 0.4, 0.1, 0.9, 'a "quoted", text: with\nlines', "NASA", "Hires only", 6.0,
    curve="0:4, 0.5:2, 1:0", blocks="input.4-8, middle", negatives="red :: 1\nblue, dark :: 0.5",
    mask="Outside", mask_feather=8.0, mask_image="iVBORw0KGgo=", heat_map=True, hires_tau=3.0,
    hires_alpha=0.7, vsf_offset=1.5,
)  # fmt: skip


def test_every_field_survives_the_round_trip():
    back = read(written(FULL))
    assert all(getattr(FULL, field.name) != field.default for field in FIELDS), "or nothing is tried"
    for field in FIELDS:
        assert back[field.name] == getattr(FULL, field.name), field.name


def test_a_field_that_was_at_its_default_is_set_back_to_it():
    """With plain string keys an absent key leaves the previous picture's value standing in the control."""
    back = read(written(Settings(True, "Custom", 3.5, 2.0, 0.4)))
    for field in FIELDS:
        if field.name not in ("enabled", "preset", "scale", "tau", "alpha"):
            assert back[field.name] == field.default, field.name


def test_a_picture_without_nag_switches_nag_off_and_leaves_the_rest():
    back = read({"Steps": "4"})
    assert back.pop("enabled") is False
    assert set(back.values()) == {None}


def test_auto_is_recorded_as_its_values():
    back = read(written(Settings(True), "SD1.5"))
    assert back["preset"] == presets.CUSTOM
    assert (back["scale"], back["tau"], back["alpha"]) == (2.0, 2.5, 0.375)


def test_a_named_preset_comes_back_by_name():
    assert read(written(Settings(True, "Flux")))["preset"] == "Flux"


def test_a_named_preset_with_another_scale_comes_back_as_values():
    back = read(written(parse([{"preset": "Flux", "scale": 7}]).settings))
    assert back["preset"] == presets.CUSTOM
    assert back["scale"] == 7


def test_few_step_is_recorded_as_values_because_its_strength_is_the_models():
    back = read(written(parse([{"preset": "Few-step"}]).settings, "SD1.5"))
    assert back["preset"] == presets.CUSTOM
    assert (back["scale"], back["alpha"], back["end"]) == (2.0, 0.375, 0.25)


@pytest.mark.parametrize("name", ["SDXL 20+ steps", "SDXL v-pred"])
def test_a_variant_of_a_family_comes_back_by_name_with_its_values(name):
    back = read(written(parse([{"preset": name}]).settings, "Flux"))
    assert back["preset"] == name
    assert {key: back[key] for key in ("scale", "tau", "alpha")} == presets.values(name)


def test_a_user_preset_is_recorded_as_values_and_not_by_name():
    mine = {
        "scale": 3, "tau": 2, "alpha": 0.3, "start": 0.1, "end": 0.5, "method": "NASA",
        "hires": "Hires only", "hires_scale": 6,
    }  # fmt: skip
    parameters = written(parse([True, "mine"], {"mine": mine}).settings)
    assert "mine" not in parameters.values()
    back = read(parameters)
    assert back["preset"] == presets.CUSTOM
    assert {key: back[key] for key in mine} == mine


@pytest.mark.parametrize("junk", ["abc", "", "1;2", None])
def test_damaged_values_fall_back_to_the_default(junk):
    back = read({"NAG scale": junk, "NAG method": junk, "NAG hires": junk, "NAG end": junk})
    assert back["enabled"] is True
    assert back["scale"] == FIELD["scale"].default
    assert back["method"] == "NAG"
    assert back["end"] == 1.0


@pytest.mark.parametrize(
    ("pasted", "held"), [("99", 20.0), ("-1", 0.0), ("nan", 2.0), ("inf", 2.0), ("1e999", 2.0)]
)
def test_a_pasted_number_no_slider_can_show_is_held_or_the_default(pasted, held):
    """Out of range or not a number, it stood in the control and made the page refuse the next job."""
    assert read({"NAG scale": pasted})["scale"] == held


KEYS = [infotext.REPORT, *(f"{field.infotext}{end}" for field in FIELDS for end in ("", "-1", "-2"))]


@patient
@given(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=6))
def test_whatever_is_pasted_every_control_gets_a_value_it_can_show(parameters):
    back = read(parameters)
    if not back.pop("enabled"):
        assert set(back.values()) == {None}
        return
    for name, value in back.items():
        field = FIELD[name]
        assert type(value) is type(field.default)
        assert not field.choices or value in field.choices
        assert field.kind != "float" or field.minimum <= value <= field.maximum


def test_clear_removes_everything_that_was_written_and_nothing_else():
    parameters = {"Steps": 4, infotext.REPORT: "x"}
    infotext.write(parameters, FULL, strength.of(FULL, "SDXL"))
    infotext.clear(parameters)
    assert parameters == {"Steps": 4}


def test_values_survive_the_hosts_quoting():
    """The host reads 3x4 as two numbers; nothing we write may look like that."""
    import re

    assert not any(re.fullmatch(r"\d+x\d+", str(value)) for value in written(FULL).values())


WITH_THE_WORDS_OF_THE_PROMPTS = """a circle
Negative prompt: red
Template: a circle
Negative template: red
Steps: 4, Size: 64x64, Seed: 1, CFG scale: 1.0, NAG scale: 4, NAG tau: 2.5, NAG alpha: 0.5, \
NAG negatives: "red :: 2\\na circle, \\"big\\" :: 0.5", NAG version: 0.2.0"""


def read_by_sdnext(text):
    """What modules/infotext.py finds where the words of both prompts are taken out first."""
    line = text.rpartition("\n")[2].replace("a circle", "").replace("red", "")
    found = dict(re.findall(r'\s*([\w ]+):\s*("(?:\\"[^,]|\\"|\\|[^\"])+"|[^,]*)(?:,|$)', line))
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found.items()}


def test_words_of_the_prompts_stay_in_the_negatives_that_sdnext_pastes():
    parameters = read_by_sdnext(WITH_THE_WORDS_OF_THE_PROMPTS)
    assert parameters["NAG negatives"].startswith(" ::")  # what the host makes of it
    translate(WITH_THE_WORDS_OF_THE_PROMPTS, parameters)
    assert infotext.READERS["negatives"](parameters) == 'red :: 2\na circle, "big" :: 0.5'
    assert infotext.READERS["scale"](parameters) == 4
    assert parameters["Steps"] == "4"


def test_a_key_that_the_user_disregards_is_not_read_again(monkeypatch):
    monkeypatch.setattr(infotext, "_disregarded", lambda: ("NAG negatives",))
    parameters = {"Steps": "4", "NAG scale": "4"}
    translate(WITH_THE_WORDS_OF_THE_PROMPTS, parameters)
    assert "NAG negatives" not in parameters
