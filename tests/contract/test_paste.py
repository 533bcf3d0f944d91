"""Pasting: what the host is told to disregard stays, and an end by sigma becomes one by steps."""

import json

import pytest

from nag_core.settings.parse import FIELD, FIELDS
from nag_core.webui import infotext

FULL = {
    "enabled": True, "preset": "Custom", "scale": 6, "tau": 3, "alpha": 0.5, "end": 0.75, "negative": "blue",
    "method": "NASA", "curve": "linear",
}  # fmt: skip
CORE = ["NAG scale", "NAG tau", "NAG alpha"]


@pytest.fixture
def pasted(host, monkeypatch):
    """`pasted(text, skip)`: what each control becomes; None where it stays as it is."""

    def paste(text, skip=()):
        monkeypatch.setitem(host.shared.opts.data, "infotext_skip_pasting", list(skip))
        parameters = host.infotext_utils.parse_generation_parameters(text)
        host.script_callbacks.infotext_pasted_callback(text, parameters)
        return {name: reader(parameters) for name, reader in infotext.READERS.items()}

    return paste


@pytest.fixture
def text(job):
    return lambda nag, **fields: job([nag], **fields)[1].infotexts[0]


@pytest.mark.parametrize(
    "skip",
    [
        ["NAG negative"], ["NAG scale"], CORE, ["NAG method", "NAG curve"], ["NAG enabled"],
        [*CORE, "NAG enabled", "NAG preset"], [field.infotext for field in FIELDS],
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_field_that_the_host_is_told_to_disregard_stays(pasted, text, skip):
    drawn = text(FULL)
    whole, found = pasted(drawn), pasted(drawn, skip)
    assert whole["enabled"] is True
    for field in FIELDS:
        stays = field.infotext in skip or (field.name == "preset" and set(CORE) <= set(skip))
        assert found[field.name] == (None if stays else whole[field.name]), field.name


@pytest.mark.parametrize("skip", [[], ["NAG negative"], CORE])
def test_a_picture_without_nag_switches_it_off_whatever_is_disregarded(pasted, text, skip):
    drawn = text({"enabled": False})
    assert pasted(drawn, skip) == {**dict.fromkeys(FIELD), "enabled": False}
    assert pasted("NAG scale: 4, a circle\n" + drawn, CORE)["enabled"] is False, "a prompt is no parameter"


def test_another_tools_settings_are_disregarded_as_ours_are(pasted, text):
    drawn = text({"enabled": False}) + ", nag_scale: 5, nag_tau: 2, nag_alpha: 0.5, nag_negative: blue"
    assert (pasted(drawn)["scale"], pasted(drawn)["negative"]) == (4, "blue")
    found = pasted(drawn, ["NAG scale", "NAG negative"])
    assert (found["enabled"], found["scale"], found["negative"], found["tau"]) == (True, None, None, 2)


def test_our_names_are_in_the_hosts_list_of_fields_to_disregard(script):
    """Hosts list the texts among the fields that scripts hand over (shared_items.get_infotext_names)."""
    listed = [name for _, name in script.infotext_fields if isinstance(name, str)]
    assert listed == [field.infotext for field in FIELDS]
    assert all(callable(name) for _, name in script.infotext_fields), "and ask a function for the value"


def test_a_field_is_the_same_one_in_both_tabs(host, script):
    (other,) = [s for s in host.scripts.scripts_img2img.alwayson_scripts if s.title() == "NAG"]
    assert [name for _, name in other.infotext_fields] == script.paste_field_names
    assert len({*script.paste_field_names}) == len(FIELDS)


# An end by sigma


COMFY = "nag_scale: 5, nag_tau: 2.5, nag_alpha: 0.25, nag_sigma_end: "


@pytest.mark.parametrize(
    ("steps", "sampler", "sigma", "guided"),
    [
        (4, "Euler", 0.75, 2), (4, "Euler", 0.7, 2), (4, "Euler", 1, 1), (3, "Euler", 0.5, 2),
        (3, "Euler", 0.3, 3), (7, "DPM++ 2M", 0.5, 4), (4, "Heun", 0.5, 3), (6, "Heun", 0.8, 2),
    ],
)  # fmt: skip
def test_an_end_by_sigma_is_converted_by_the_schedule_of_the_picture(
    host, job, pasted, text, steps, sampler, sigma, guided
):
    """The toy's sigmas fall from 1 in equal steps; guided are those from the end's sigma up."""
    drawn = text({"enabled": False}, steps=steps, sampler_name=sampler)
    end = pasted(f"{drawn}, {COMFY}{sigma}")["end"]
    _, processed = job([{"scale": 4, "end": end}], steps=steps, sampler_name=sampler)
    calls = processed.infotexts[0].partition("× ")[2].partition("/")[0]
    assert int(calls) == (2 * guided if sampler == "Heun" and guided < steps else guided)


@pytest.mark.parametrize("broken", ["no sampler", "no model"])
def test_an_end_by_sigma_that_nobody_can_convert_is_named(host, text, monkeypatch, broken):
    drawn = f"{text({'enabled': False})}, {COMFY}0.75"
    if broken == "no sampler":
        monkeypatch.delattr(type(host.sd_samplers.create_sampler("Euler", None)), "get_sigmas")
    else:
        monkeypatch.setattr(host.sd_samplers, "create_sampler", lambda name, model: model.nothing)
    parameters = host.infotext_utils.parse_generation_parameters(drawn)
    host.script_callbacks.infotext_pasted_callback(drawn, parameters)
    assert infotext.READERS["end"](parameters) == 1
    assert parameters["NAG import"].endswith("not taken: nag_sigma_end 0.75")


def test_the_page_says_what_is_not_taken(host, text, monkeypatch):
    import gradio as gr
    from gradio.context import LocalContext

    said = []
    monkeypatch.setattr(gr, "Info", said.append)
    drawn = text({"enabled": False}) + ", NAG Scale: 51, NAG Tau: 2, NAG Alpha: 0.5"

    def paste():
        parameters = host.infotext_utils.parse_generation_parameters(drawn)
        host.script_callbacks.infotext_pasted_callback(drawn, parameters)

    paste()
    assert said == [], "the API has no page"
    token = LocalContext.blocks.set(object())
    paste()
    LocalContext.blocks.reset(token)
    assert said == ["NAG: settings of NAGuidance that are not taken: NAG Scale 51 (scale 20 in its place)"]
