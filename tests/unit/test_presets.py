"""The values that users have published, the row that Auto takes, and when another preset may fit better."""

import math

import pytest

from nag_core.settings import presets, strength
from nag_core.settings.families import FAMILIES
from nag_core.settings.hints import hint
from nag_core.settings.parse import FIELD, parse

NAN = math.nan


@pytest.mark.parametrize("name", presets.COMMUNITY)
def test_every_row_of_the_community_has_a_source_and_is_marked(name):
    row = presets.COMMUNITY[name]
    assert name.endswith(" (community)"), "in the list, the report, the parameters and the README"
    assert len(row.source) > 10
    assert row.address.startswith("https://github.com/")
    assert row.made_with
    values = presets.values(name)
    assert {*presets.STRENGTHS} <= set(values)
    assert all(FIELD[key].minimum < value <= FIELD[key].maximum for key, value in values.items())
    assert [one.name for one in FAMILIES if one.row == name], "or Auto never takes it"


def test_every_row_that_a_family_takes_is_the_papers_or_the_communitys():
    for family in FAMILIES:
        assert family.row in {**presets.TABLE_5, **presets.COMMUNITY}, family.name
    assert not set(presets.TABLE_5) & set(presets.COMMUNITY)


@pytest.mark.parametrize(
    ("args", "end"),
    [
        ([{}], 0.5), ([True], 0.5), ([True, "Auto", 2, 2.5, 0.5, 0, 1], 0.5), ([{"scale": 3}], 0.5),
        ([{"preset": "Few-step"}], 0.25),
        ([{"end": 1}], 1), ([{"end": 0.3}], 0.3), ([{"start": 0}], 1),
        ([True, "Auto", 2, 2.5, 0.5, 0, 0.3], 0.3), ([True, "Auto", 2, 2.5, 0.5, 0.6], 1),
        ([{"preset": "Custom"}], 1), ([{"preset": "SDXL"}], 1), ([{"preset": "mine"}], 1),
    ],
    ids=str,
)  # fmt: skip
def test_the_rows_end_is_taken_where_nobody_has_set_a_window(args, end):
    settings = parse(args, {"mine": {"scale": 3, "tau": 2, "alpha": 0.3}}).settings
    assert strength.ended(settings, "Anima").end == end
    assert strength.ended(settings, "SDXL") == settings, "the paper's rows have none"


@pytest.mark.parametrize(
    ("preset", "family", "checkpoint", "steps", "cfg", "said"),
    [
        ("Auto", "SDXL", "dreamshaperXL_lightningDPMSDE", 6, 2, "“Few-step”"),
        ("Auto", "SDXL", "sd_xl_turbo_1.0", NAN, NAN, "“Few-step”"),
        ("Auto", "SDXL", "sdxl_4step_unet", 4, 1.5, "“4step” in the model's name"),
        ("Auto", "SDXL", "wai-illustrious", 8, 1, "CFG 1 and 8 steps"),
        ("Auto", "Flux", "flux1-schnell-Q8", 4, 1, "“schnell” in the model's name"),
        ("Flux", "Flux", "flux1-dev", 4, 1, "“Few-step”"),
        ("Auto", "SD1.5", "dreamshaper_LCM", 8, 1.5, "“LCM” in the model's name"),
        ("Auto", "Krea 2", "krea2", 8, 1, "“Few-step”"),
        ("Auto", "SDXL", "juggernautXL", 20, 7, "“SDXL 20+ steps” may fit better: 20 steps"),
        ("SDXL", "SDXL", "juggernautXL", 30, 1, "“SDXL 20+ steps”"),
        ("Auto", "Z-Image", "z_image_base", 30, 4, "for the base model nobody has published values"),
        ("Auto", "Anima", "anima-base-v1.0", 30, 4, "Turbo LoRA at CFG 1, 8–12 steps"),
    ],
)
def test_what_may_fit_better_is_said(preset, family, checkpoint, steps, cfg, said):
    assert said in hint(preset, family, checkpoint, steps, cfg)


@pytest.mark.parametrize(
    ("preset", "family", "checkpoint", "steps", "cfg"),
    [
        ("Auto", "SDXL", "juggernautXL", 19, 7), ("Auto", "SDXL", "hyperrealism", 12, 3),
        ("Auto", "SDXL", "x_28steps", 12, 3), ("Auto", "SDXL", "x", NAN, NAN),
        ("Auto", "Flux", "flux1-dev", 20, 1), ("Auto", "SD1.5", "x", 30, 7),
        ("Auto", "Z-Image", "z_image_turbo", 9, 1), ("Auto", "Anima", "anima_turbo", 10, 2),
        ("Auto", "Flux.2 Klein", "klein-base", 10, 4), ("SDXL 20+ steps", "SDXL", "x_turbo", 20, 1),
        ("Few-step", "SDXL", "x", 30, 7), ("Custom", "SDXL", "x_turbo", 4, 1), ("mine", "SDXL", "x", 30, 7),
        ("SD1.5", "SDXL", "x", 30, 7), ("Auto", "unknown", "", NAN, NAN),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_said_where_nothing_is_known_to_fit_better(preset, family, checkpoint, steps, cfg):
    assert hint(preset, family, checkpoint, steps, cfg) == ""
