"""Pictures of the other NAG extensions, with the keys those write."""

import pytest

from nag_core.webui import infotext
from nag_core.webui.foreign_infotext import translate

NEO = {
    "Forge NAG": "True", "Forge NAG Phi": "4.0", "Forge NAG Tau": "2.5", "Forge NAG Alpha": "0.25",
    "Forge NAG Negative": "big wings", "Forge NAG Sigma Start": "1000.0",
}  # fmt: skip
PR_44 = {
    "nag_enabled": "True", "nag_scale": "4", "nag_tau": "2.5", "nag_alpha": "0.8", "nag_negative": "blurry",
    "nag_hr_mode": "HRFix Off",
}  # fmt: skip
NAGUIDANCE = {"NAG Scale": "5.0", "NAG Alpha": "0.5", "NAG Tau": "1.5"}


def pasted(parameters):
    parameters = {"Steps": "4", **parameters}
    translate("", parameters)
    return {name: reader(parameters) for name, reader in infotext.READERS.items()}


@pytest.mark.parametrize(
    ("foreign", "expected"),
    [
        (NEO, {"scale": 4.0, "tau": 2.5, "alpha": 0.25, "negative": "big wings"}),
        (PR_44, {"scale": 4.0, "alpha": 0.8, "negative": "blurry", "hires": "First pass"}),
        (NAGUIDANCE, {"scale": 4.0, "tau": 1.5, "alpha": 0.5, "negative": ""}),
        ({"nag_scale": "5", "nag_tau": "2.5"}, {"scale": 4.0, "tau": 2.5}),
    ],
    ids=["forge-neo-nag", "PR 44", "NAGuidance", "official convention"],
)
def test_settings_are_taken_over_with_phi_as_the_scale(foreign, expected):
    back = pasted(foreign)
    assert back["enabled"] is True
    assert back["preset"] == "Custom"
    assert {name: back[name] for name in expected} == expected


@pytest.mark.parametrize(
    "foreign", [{"Forge NAG": "False", "Forge NAG Phi": "4"}, {"nag_enabled": "False", "nag_scale": "4"}]
)
def test_what_was_off_there_is_off_here(foreign):
    assert pasted(foreign)["enabled"] is False


def test_values_outside_our_ranges_are_held():
    assert pasted({"NAG Scale": "50", "NAG Tau": "0.5"})["scale"] == 20.0
    assert pasted({"NAG Scale": "0.5"})["scale"] == 0.0


@pytest.mark.parametrize("junk", ["abc", "", "nan", "inf"])
def test_junk_is_no_nag(junk):
    assert pasted({"NAG Scale": junk})["enabled"] is False


def test_our_own_pictures_are_left_alone():
    parameters = {"NAG scale": "3", "nag_scale": "9"}
    translate("", parameters)
    assert parameters == {"NAG scale": "3", "nag_scale": "9"}
