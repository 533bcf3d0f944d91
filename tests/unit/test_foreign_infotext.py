"""Pictures of the other NAG extensions, with the keys those write."""

import logging

import pytest

from nag_core.webui import infotext, sigmas
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
        (
            {
                "neg_method": "vsf",
                "nag_scale": "12",
                "nag_tau": "2.5",
                "vsf_scale": "1.5",
                "vsf_offset": "0.1",
            },
            {"method": "VSF", "scale": 1.5, "vsf_offset": 0.1},
        ),
        (
            {"neg_method": "nag", "nag_scale": "12", "nag_tau": "2.5", "vsf_scale": "1.5"},
            {"method": "NAG", "scale": 11.0},
        ),
    ],
    ids=["forge-neo-nag", "PR 44", "NAGuidance", "official convention", "VSF", "NAG beside VSF"],
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
    assert pasted({"NAG Scale": "0.5", "NAG Tau": "1.5"})["scale"] == 0.0


@pytest.mark.parametrize("junk", ["abc", "", "nan", "inf"])
def test_junk_is_no_nag(junk):
    assert pasted({"NAG Scale": junk})["enabled"] is False


def test_our_own_pictures_are_left_alone():
    parameters = {"NAG scale": "3", "nag_scale": "9"}
    translate("", parameters)
    assert parameters == {"NAG scale": "3", "nag_scale": "9"}


# Tools that are not meant


OTHER_METHOD = {
    "nag_enabled": "True", "nag_scale": "3.0", "nag_norm_type": "L2", "nag_block": "middle",
    "nag_block_id": "0", "nag_start_step": "0.0", "nag_end_step": "1.0",
}  # fmt: skip


@pytest.mark.parametrize(
    "foreign",
    [
        OTHER_METHOD,
        {name: OTHER_METHOD[name] for name in ("nag_enabled", "nag_scale", "nag_block")},
        {**OTHER_METHOD, "nag_norm_type": "softmax_temp", "nag_temperature": "1.5"},
        {**OTHER_METHOD, "nag_tau": "2.5", "nag_alpha": "0.5"},
        {"nag_enabled": "True", "nag_scale": "3.0"},
        {"nag_scale": "5"},
        {"NAG Scale": "5"},
        {"nag_enabled": "True", "nag_tau": "2.5"},
        {"Forge NAG Phi": "4"},
        {"PAG Scale": "3", "nag_negative": "x"},
    ],
    ids=str,
)
def test_keys_that_several_tools_write_are_nobodys(foreign):
    parameters = {"Steps": "4", **foreign}
    translate("", parameters)
    assert parameters == {"Steps": "4", **foreign}
    assert pasted(foreign)["enabled"] is False


# What is not taken


def imported(foreign, **more):
    """The parameters after a paste, with the picture's own line."""
    parameters = {"Steps": "4", "Negative prompt": "ugly", **foreign, **more}
    translate("a circle\nNegative prompt: ugly\nSteps: 4", parameters)
    return parameters


HIRES = {"nag_hr_override": "True", "nag_hr_scale": "8", "nag_hr_tau": "3", "nag_hr_alpha": "0.75"}


@pytest.mark.parametrize(
    ("more", "taken", "left"),
    [
        (HIRES, {"hires_scale": 8.0, "hires_tau": 3.0, "hires_alpha": 0.75}, []),
        ({**HIRES, "nag_hr_override": "False"}, {"hires_scale": 0.0, "hires_tau": 0.0}, []),
        ({**HIRES, "nag_hr_scale": "0"}, {"hires": "First pass", "hires_scale": 0.0, "hires_tau": 0.0}, []),
        ({**HIRES, "nag_hr_mode": "HRFix Only"}, {"hires": "Hires only", "hires_scale": 8.0}, []),
        ({"nag_block_list": "d2-3, m0"}, {}, ["nag_block_list d2-3, m0"]),
        ({"nag_sigma_start": "14.7", "nag_sigma_end": "3"}, {}, ["nag_sigma_start 14.7", "nag_sigma_end 3"]),
        ({"nag_sigma_start": "-1.0", "nag_sigma_end": "-1.0"}, {}, []),
        ({"nag_scale": "50"}, {"scale": 20.0}, ["nag_scale 50 (scale 20 in its place)"]),
        ({"nag_tau": "abc"}, {"tau": 2.5}, ["nag_tau abc"]),
        ({**HIRES, "nag_block_list": "u0", "nag_sigma_end": "1"}, {"hires_scale": 8.0},
         ["nag_block_list u0", "nag_sigma_end 1"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_taken_of_pull_request_44_is_named_in_one_line(caplog, monkeypatch, more, taken, left):
    monkeypatch.setattr(logging.getLogger("nag"), "propagate", True)
    with caplog.at_level(logging.INFO, "nag"):
        parameters = imported({**PR_44, "nag_hr_mode": "Both", **more})
    back = {name: infotext.READERS[name](parameters) for name in taken}
    assert back == taken
    line = parameters.get("NAG import", "")
    said = f"settings of sd-perturbed-attention's NAG that are not taken: {', '.join(left)}"
    assert line == (said if left else "")
    assert line in caplog.text


@pytest.mark.parametrize(
    ("foreign", "left"),
    [
        (NEO, ""),
        ({**NEO, "Forge NAG Sigma Start": "8", "Forge NAG Sigma End": "0.5"},
         "sd-webui-forge-neo-nag that are not taken: Forge NAG Sigma Start 8, Forge NAG Sigma End 0.5"),
        ({**NAGUIDANCE, "NAG Tau": "x"}, "NAGuidance that are not taken: NAG Tau x"),
        ({"nag_scale": "5", "nag_tau": "2.5", "nag_sigma_end": "0.75"},
         "the official code or ComfyUI that are not taken: nag_sigma_end 0.75"),
        ({"nag_scale": "5", "nag_tau": "2.5", "nag_sigma_end": "0"}, ""),
    ],
    ids=str,
)  # fmt: skip
def test_and_of_the_others(monkeypatch, foreign, left):
    """As where the host cannot tell the schedule that an end by sigma needs."""
    monkeypatch.setattr(sigmas, "share_until", lambda *_: None)
    assert imported(foreign).get("NAG import", "") == (f"settings of {left}" if left else "")


# A negative that is the main one


@pytest.mark.parametrize("tool", [PR_44, NEO], ids=["PR 44", "forge-neo-nag"])
@pytest.mark.parametrize(
    ("negative", "main", "hires", "box"),
    [
        ("blurry", "blurry", None, ""), ("blurry,  ugly ", "blurry, ugly", None, ""),
        ("blurry", "ugly", None, "blurry"), ("blurry", "", None, "blurry"),
        ("blurry", "blurry", "dark", "blurry"), ("blurry", "blurry", "blurry", ""),
        ("a\nb", "a\nb", None, ""),
    ],
)  # fmt: skip
def test_a_negative_that_equals_the_main_one_leaves_the_box_empty(tool, negative, main, hires, box):
    key = next(key for key in tool if key.lower().endswith("negative"))
    parameters = {**tool, key: negative, "Negative prompt": main}
    if hires is not None:
        parameters["Hires negative prompt"] = hires
    translate(f"a circle\nNegative prompt: {main}\nSteps: 4", parameters)
    assert infotext.READERS["negative"](parameters) == box
    assert infotext.READERS["enabled"](parameters) is True


def test_so_does_one_that_equals_it_before_the_host_took_a_style_out():
    parameters = {**PR_44, "nag_negative": "blurry, dark", "Negative prompt": "blurry"}
    translate("a circle\nNegative prompt: blurry, dark\nSteps: 4", parameters)
    assert infotext.READERS["negative"](parameters) == ""
