"""Settings, user presets in the page and in jobs, and the routes, inside the sandbox's host."""

from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import nag_core
from nag_core import identity
from nag_core.settings import presets
from nag_core.settings.parse import FIELD, FIELDS
from nag_core.settings.user_presets import Store
from nag_core.webui.preset_controls import HELD

SOFT = {"scale": 1.5, "tau": 2.0, "alpha": 0.2, "end": 0.5}
SLIDERS = list(HELD)
DEFAULTS = [FIELD[name].default for name in SLIDERS]


@pytest.fixture
def store(host):
    found = Store(f"{host.paths.data_path}/nag_presets.json")
    yield found
    found.path.unlink(missing_ok=True)


class Page:
    """The accordion in a page of its own, and the functions behind its events."""

    def __init__(self, script):
        with gr.Blocks() as self.blocks:
            self.arguments = script.ui(False)
        self.prefix = script.elem_id("")

    def control(self, name):
        (found,) = [b for b in self.blocks.blocks.values() if b.elem_id == self.prefix + name]
        return found

    def event(self, name, trigger):
        target = (self.control(name)._id, trigger) if name else (None, trigger)
        found = [
            fn for fn in self.blocks.fns.values() if fn.fn and target[1] in [t[1] for t in fn.targets]
            and (not name or target in fn.targets)
        ]  # fmt: skip
        assert found, (name, trigger)
        return found[0].fn


@pytest.fixture
def page(script):
    return Page(script)


# Settings


def test_the_settings_section_has_our_options_and_their_defaults(host):
    ours = {name: info for name, info in host.shared.opts.data_labels.items() if name.startswith("nag_")}
    assert {name: info.default for name, info in ours.items()} == {
        "nag_enabled_default": False,
        "nag_comments": True,
        "nag_show_advanced": True,
        "nag_default_negative": "",
    }
    assert {info.section for info in ours.values()} == {("nag", "NAG")}


def test_a_host_without_the_options_or_with_other_types_gets_the_defaults(host, monkeypatch):
    from nag_core.webui import options

    monkeypatch.setattr(host.shared, "opts", object())
    assert options.read(options.COMMENTS) is True
    monkeypatch.setattr(host.shared, "opts", type("Opts", (), {"nag_default_negative": None})())
    assert options.read(options.NEGATIVE) == ""


def test_the_box_is_ticked_by_the_loaded_page_and_never_by_the_code(script, options):
    options(nag_enabled_default=True)
    page = Page(script)
    assert page.arguments[0].value is False, "what the API takes for its default"
    tick, _ = page.event(None, "load")()
    assert tick["value"] is True
    options(nag_enabled_default=False)
    assert "value" not in page.event(None, "load")()[0], "the user's own tick is left alone"


def test_the_api_default_stays_off_whatever_the_settings_say(job, options):
    options(nag_enabled_default=True)
    _, processed = job()
    assert "NAG" not in processed.infotexts[0]


@pytest.mark.parametrize("shown", [True, False])
def test_the_advanced_controls_are_hidden_and_still_arguments(script, options, shown):
    options(nag_show_advanced=shown)
    page = Page(script)
    assert page.control("method").visible is shown
    assert page.control("hires").parent.visible is shown or page.control("hires").visible is shown
    assert len(page.arguments) == len(FIELDS) + 1


def test_the_comment_can_be_switched_off_and_the_parameters_keep_the_report(job, options):
    options(nag_comments=False)
    p, processed = job([{}])
    assert not any("NAG" in comment for comment in p.comments)
    assert "NAG report: " in processed.infotexts[0]


def test_the_default_negative_is_used_where_both_are_empty_and_said(job, options):
    options(nag_default_negative="blue")
    _, default = job([{}], negative_prompt="")
    _, own = job([{"negative": "blue"}], negative_prompt="")
    assert default.images[0].tobytes() == own.images[0].tobytes()
    assert "the default negative of the settings is used" in default.infotexts[0]
    assert "NAG negative: blue" in default.infotexts[0], "the picture does not depend on the settings"


def test_a_jobs_own_default_negative_counts_as_any_other_setting_of_its_own(job, options):
    """It was read before the WebUI puts `override_settings` in force."""
    _, blue = job([{"negative": "blue"}], negative_prompt="")
    _, off = job(negative_prompt="")
    own = {"override_settings": {"nag_default_negative": "blue"}, "negative_prompt": ""}
    assert job([{}], **own)[1].images[0].tobytes() == blue.images[0].tobytes()
    options(nag_default_negative="blue")
    own = {"override_settings": {"nag_default_negative": ""}, "negative_prompt": ""}
    _, processed = job([{}], **own)
    assert processed.images[0].tobytes() == off.images[0].tobytes()
    assert "not applied: the negative prompt is empty" in processed.infotexts[0]


@pytest.mark.parametrize(
    "own",
    [{"negative": "<lora:x:1>"}, {"negative": "  "}, {"negatives": "<lora:x:1>\n<lora:x:1> :: 2"}],
    ids=str,
)
def test_the_default_negative_stands_in_where_nothing_is_left_of_the_own_one(job, options, own):
    options(nag_default_negative="blue")
    _, blue = job([{"negative": "blue"}], negative_prompt="")
    _, processed = job([own], negative_prompt="")
    assert processed.images[0].tobytes() == blue.images[0].tobytes()
    assert "the default negative of the settings is used" in processed.infotexts[0]


@pytest.mark.parametrize(
    ("nag", "fields"),
    [
        ({}, {"negative_prompt": "red"}),
        ({"negative": "red"}, {"negative_prompt": ""}),
        ({}, {"negative_prompt": "", "enable_hr": True, "hr_scale": 2, "hr_negative_prompt": "red",
              "denoising_strength": 0.5, "hr_cfg": 1}),
        ({"enabled": False}, {"negative_prompt": ""}),
    ],
    ids=["main", "own", "hires", "off"],
)  # fmt: skip
def test_the_default_negative_gives_way_to_any_other(job, options, nag, fields):
    _, without = job([nag], **fields)
    options(nag_default_negative="blue")
    _, processed = job([nag], **fields)
    assert processed.infotexts == without.infotexts
    assert processed.images[0].tobytes() == without.images[0].tobytes()


# User presets


def test_a_user_preset_draws_what_its_values_draw_and_is_recorded_as_values(job, store):
    store.save("Soft", SOFT)
    _, named = job([True, "Soft", 9.0, 9.0, 0.9])
    _, spelt = job([{**SOFT, "preset": "Custom"}])
    assert named.images[0].tobytes() == spelt.images[0].tobytes()
    for part in ("NAG scale: 1.5", "NAG tau: 2", "NAG alpha: 0.2", "NAG end: 0.5"):
        assert part in named.infotexts[0]
    assert "Soft" not in named.infotexts[0]


def test_a_job_with_a_vanished_preset_runs_with_auto_and_says_so(job, store):
    store.save("Soft", SOFT)
    store.delete("Soft")
    _, vanished = job([True, "Soft"])
    _, auto = job([True, "Auto"])
    assert vanished.images[0].tobytes() == auto.images[0].tobytes()
    assert "Soft" in vanished.infotexts[0]


def test_saved_presets_are_offered_when_the_page_is_built_and_when_it_is_loaded(script, store, page):
    store.save("Soft", SOFT)
    _, choices = page.event(None, "load")()
    assert choices["choices"] == [*presets.CHOICES, "Soft"]
    assert [name for name, _ in Page(script).control("preset").choices] == choices["choices"]


def test_save_rename_and_delete_from_the_page(page, store):
    values = [1.5, 2.0, 0.2, 0.0, 0.5, *DEFAULTS[5:]]
    dropdown, name, message, _ = page.event("preset_save", "click")("Auto", "Soft", *values)
    assert store.load() == {"Soft": SOFT}
    assert dropdown["value"] == "Soft"
    assert dropdown["choices"][-1] == "Soft"
    assert name == ""
    assert "scale 1.5, tau 2, alpha 0.2, end 0.5" in message

    dropdown, _, message, _ = page.event("preset_rename", "click")("Soft", "Softer", *values)
    assert list(store.load()) == ["Softer"]
    assert dropdown["value"] == "Softer"

    dropdown, _, message, _ = page.event("preset_delete", "click")("Softer", "", *values)
    assert store.load() == {}
    assert dropdown["value"] == "Custom"
    assert "Deleted" in message


def test_saving_without_a_name_writes_over_the_chosen_preset_of_ones_own(page, store):
    store.save("Soft", SOFT)
    page.event("preset_save", "click")("Soft", " ", *DEFAULTS)
    assert store.load()["Soft"]["scale"] == FIELD["scale"].default


@pytest.mark.parametrize(
    ("button", "preset", "name", "said"),
    [
        ("save", "Auto", "", "needs a name"),
        ("save", "Auto", "SDXL", "built-in"),
        ("save", "Auto", "<b>" * 30, "at most"),
        ("rename", "SDXL", "x", "no preset of yours named &#x27;SDXL&#x27;"),
        ("delete", "Auto", "", "no preset of yours"),
        ("delete", None, None, "no preset of yours"),
    ],
)
def test_errors_are_a_sentence_under_the_buttons(page, store, button, preset, name, said):
    dropdown, _, message, _ = page.event(f"preset_{button}", "click")(preset, name, *DEFAULTS)
    assert "choices" not in dropdown
    assert message.startswith("Not done: ")
    assert said in message
    assert "<" not in message


def filled(page, preset, before, current):
    *updates, last = page.event("preset", "input")(preset, before, *current)
    values = [u.get("value", old) for u, old in zip(updates, current, strict=True)]
    return dict(zip(SLIDERS, values, strict=True)), last


def test_choosing_a_preset_fills_what_it_sets_and_leaves_the_rest(page, store):
    store.save("Soft", SOFT)
    moved = [9.0, 9.0, 0.9, 0.1, 1.0, "NASA", *DEFAULTS[6:]]
    values, last = filled(page, "Soft", {}, moved)
    assert values == {**dict(zip(SLIDERS, moved, strict=True)), **SOFT}
    assert last == SOFT
    assert filled(page, "Flux", {}, moved)[0]["scale"] == 4.0
    assert filled(page, "Few-step", {}, moved)[0] == {**dict(zip(SLIDERS, moved, strict=True)), "end": 0.25}


def test_what_only_the_preset_before_had_set_goes_back(page):
    values, last = filled(page, "Few-step", {}, DEFAULTS)
    assert values["end"] == 0.25
    values, _ = filled(page, "SDXL", last, list(values.values()))
    assert values["end"] == 1.0
    by_hand = [*DEFAULTS[:4], 0.4, *DEFAULTS[5:]]
    assert filled(page, "SDXL", last, by_hand)[0]["end"] == 0.4, "what the user set stays"


@pytest.mark.parametrize(
    ("moved", "preset", "becomes"),
    [
        ("scale", "SDXL", "Custom"), ("alpha", "Soft", "Custom"), ("end", "Soft", "Custom"),
        ("end", "Few-step", "Auto"), ("end", "SDXL", None), ("method", "Soft", None), ("start", "Auto", None),
    ],
)  # fmt: skip
def test_moving_what_a_preset_sets_leaves_the_preset(page, store, moved, preset, becomes):
    store.save("Soft", SOFT)
    event = page.event(moved, "input")
    result = event() if moved in ("scale", "tau", "alpha") else event(preset)
    assert (result if isinstance(result, str) else result.get("value")) == becomes


def test_the_controls_beside_the_preset_are_no_arguments_and_leave_no_trace_in_ui_config(page):
    arguments = {component._id for component in page.arguments}
    for name in ("preset_name", "preset_save", "preset_rename", "preset_delete", "preset_message"):
        assert page.control(name)._id not in arguments
        assert page.control(name).do_not_save_to_config is True


# Routes


@pytest.fixture
def routes(host, script, store, monkeypatch):
    """`routes(api_auth)` is a client of a server on which the running extension registered its routes."""

    def serve(api_auth=None, demo=None):
        app = FastAPI()
        monkeypatch.setattr(host.shared.cmd_opts, "api_auth", api_auth)
        for entry in host.scripts.script_callbacks.callback_map["callbacks_app_started"]:
            entry.callback(demo, app)
        return TestClient(app)

    return serve


def test_version_names_the_release_the_code_and_the_webui(routes, monkeypatch):
    client = routes()
    # An update that waits for a restart: what runs is what was loaded.
    monkeypatch.setattr(identity, "_PACKAGE", Path("nowhere"))
    assert client.get("/nag/v1/version").json() == {
        "name": "sd-webui-nag", "version": nag_core.__version__, "code": identity.digest(),
        "host": "Forge (backend)",
    }  # fmt: skip
    assert len(identity.digest()) == 12


def test_schema_describes_every_field_of_the_dict_form(routes, store):
    store.save("Soft", SOFT)
    found = routes().get("/nag/v1/schema").json()["properties"]
    assert list(found) == [field.name for field in FIELDS]
    assert found["enabled"]["default"] is True, "a dict without enabled means on"
    assert found["preset"]["enum"] == [*presets.CHOICES, "Soft"]
    assert (found["tau"]["minimum"], found["tau"]["maximum"]) == (1, 10)
    assert "default" not in found["scale"], "the preset's"


def test_presets_lists_built_in_and_user_presets(routes, store):
    store.save("Soft", SOFT)
    found = routes().get("/nag/v1/presets").json()
    assert found["user"] == {"Soft": SOFT}
    assert found["built_in"]["SD1.5"] == {"scale": 2.0, "tau": 2.5, "alpha": 0.375}
    assert found["built_in"]["Few-step"] == {"end": 0.25}


def test_status_is_null_before_the_first_job(host):
    from nag_core.webui import routes
    from nag_core.webui.status import Status

    app = FastAPI()
    routes.register(None, app, Store("nowhere.json"), Status())
    response = TestClient(app).get("/nag/v1/status")
    assert response.status_code == 200
    assert response.json() is None


def test_status_tells_what_the_last_job_asked_resolved_and_did(routes, job):
    _, processed = job([{"scale": 3, "end": 0.5}])
    found = routes().get("/nag/v1/status").json()
    assert found["settings"]["scale"] == 3
    assert found["settings"]["preset"] == "Auto"
    assert found["explicit"] == ["end", "scale"]
    assert found["strength"]["scale"] == 3
    assert found["strength"]["tau"] == 2.5
    assert found["family"] == "SD1.5"
    assert found["report"] in processed.infotexts[0]
    (one,) = found["passes"]
    assert (one["pass_name"], one["layers"], one["guided_calls"], one["total_calls"]) == (
        "first pass",
        7,
        2,
        4,
    )
    assert one["applied"] is True
    assert (one["complete"], one["due_calls"], found["applied"]) == (True, 2, "fully")
    assert 0 <= one["clipped_share"] <= 1


def test_status_of_both_passes_and_of_a_job_that_stood_aside(routes, job):
    job([{"hires": "Hires only"}], enable_hr=True, hr_scale=2, denoising_strength=0.5, hr_cfg=1)
    found = routes().get("/nag/v1/status").json()
    first, second = found["passes"]
    assert (first["applied"], second["applied"]) == (False, True)
    assert found["applied"] == "fully", "the first pass was not asked for"
    assert first["reason"] == "hires is set to Hires only"


def test_status_of_a_job_with_nag_off(routes, job):
    job([{}])
    job([{"enabled": False}])
    found = routes().get("/nag/v1/status").json()
    assert found["settings"]["enabled"] is False
    assert (found["report"], found["passes"], found["strength"]) == ("off", [], None)
    assert found["applied"] == "no"


@pytest.mark.parametrize(
    ("nag", "fields", "applied"),
    [
        ({}, {}, "fully"),
        ({"hires": "First pass"}, {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5}, "fully"),
        ({}, {"negative_prompt": ""}, "no"),
        ({"scale": 0}, {}, "no"),
        ({"negative": "a circle"}, {}, "no"),
    ],
)
def test_the_infotext_says_in_a_word_whether_nag_was_applied(job, nag, fields, applied):
    _, processed = job([{"scale": 3, **nag}], **fields)
    assert f"NAG applied: {applied}" in processed.infotexts[0]


def test_a_layer_that_fails_and_a_call_left_out_make_a_part_of_it(job, monkeypatch):
    from nag_core.hosts.patcher import unet
    from nag_core.method import cross

    original, seen = cross.guide, []

    def once(*args):
        seen.append(args)
        return 1 / 0 if len(seen) == 1 else original(*args)

    monkeypatch.setattr(cross, "guide", once)
    _, processed = job([{}])
    assert "NAG applied: partly (4 of 4 calls, not everywhere)" in processed.infotexts[0].replace('"', "")
    monkeypatch.undo()
    calls = []

    def refuse(options, *args):
        calls.append(args)
        if len(calls) == 2:
            raise ValueError("no room")
        return patch(options, *args)

    patch = unet.patch_attn2
    monkeypatch.setattr(unet, "patch_attn2", refuse)
    _, processed = job([{}])
    assert "NAG applied: partly (3 of 4 calls)" in processed.infotexts[0]


def auto(routes, **query):
    return routes().get("/nag/v1/auto", params=query).json()


def test_auto_tells_what_it_takes_for_the_model_that_is_loaded(routes, job):
    job([{}])
    found = auto(routes, preset="Auto", steps="20", cfg_scale="7", start="0", end="1")
    assert (found["family"], found["row"], found["hint"]) == ("SD1.5", "SD1.5", "")
    assert found["strength"] == {"scale": 2, "tau": 2.5, "alpha": 0.375, "end": 1}
    assert found["line"] == "SD1.5: φ 2 τ 2.5 α 0.375"
    assert auto(routes, preset="Custom")["line"] == auto(routes, preset="Flux")["line"] == ""
    assert auto(routes)["line"] == found["line"], "as an API client asks"


@pytest.mark.parametrize(
    ("family", "query", "line"),
    [
        ("SD2", {}, "SD1.5's, none for SD2: φ 2 τ 2.5 α 0.375"),
        ("Anima", {}, "Anima Turbo (community): φ 2 τ 2.5 α 0.5 · 0–0.5"),
        ("Anima", {"end": "0.3"}, "Anima Turbo (community): φ 2 τ 2.5 α 0.5"),
        ("Krea 2", {"preset": "Few-step", "end": "0.25"}, "Krea 2 (community): φ 0.5 τ 3.5 α 0.5"),
        ("Krea 2", {"start": "x", "end": ""}, "Krea 2 (community): φ 0.5 τ 3.5 α 0.5"),
        ("SDXL", {"method": "No refinement"}, "SDXL: φ 2 τ 2.5"),
        ("SDXL", {"method": "VSF"}, "a toy's: φ 1 offset 1"),
        ("SDXL", {"method": "Orthogonal"}, "a toy's: φ 1"),
        ("SD3.5", {"method": "VSF"}, "SD3.5: φ 3.5 offset 0.1"),
        ("SDXL", {"method": "x"}, "SDXL: φ 2 τ 2.5 α 0.5"),
    ],
)
def test_auto_names_whose_values_they_are(routes, job, monkeypatch, family, query, line):
    from nag_core.hosts import model

    job([])
    monkeypatch.setattr(model, "family", lambda sd_model: family)
    assert auto(routes, **query)["line"] == line


def test_auto_hints_at_another_preset_by_what_the_page_shows(routes, job):
    job([])
    assert auto(routes, steps="4", cfg_scale="1")["hint"] == "“Few-step” may fit better: CFG 1 and 4 steps"
    assert auto(routes, steps="4", cfg_scale="1", preset="Custom")["hint"] == ""
    assert auto(routes, steps="", cfg_scale="nan")["hint"] == ""


def test_auto_is_known_after_the_first_picture_and_loads_nothing(routes, job, host, monkeypatch):
    job([])
    data = host.sd_models.model_data
    for change in ("chosen", "not loaded", "gone"):
        with monkeypatch.context() as changed:
            if change == "chosen":  # and loaded by the next job
                changed.setitem(host.shared.opts.data, "sd_model_checkpoint", "tiny-shapes-flux")
            elif change == "not loaded":
                changed.setattr(data, "forge_hash", "")
            else:
                changed.delattr(host.sd_models, "model_data")
            found = auto(routes, steps="4", cfg_scale="1")
            assert (found["line"], found["strength"]) == ("values known after the first picture", None), (
                change
            )
            assert auto(routes, preset="Custom")["line"] == ""
    assert auto(routes)["family"] == "SD1.5"


ROUTES = ("version", "schema", "presets", "status", "auto")


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("demo", [None, object()], ids=["nowebui", "page"])
def test_without_api_auth_the_routes_are_open_as_the_hosts_are(routes, name, demo):
    assert routes(demo=demo).get(f"/nag/v1/{name}").status_code == 200


@pytest.mark.parametrize("name", ROUTES)
def test_with_api_auth_every_route_asks_for_it(routes, name):
    client = routes("ann:secret,bob:pässword")
    for wrong in (None, ("ann", "pässword"), ("bob", "secret"), ("", ""), ("ann", ""), ("eve", "secret")):
        answer = client.get(f"/nag/v1/{name}", auth=httpx.BasicAuth(*wrong) if wrong else None)
        assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"] == "Basic"
    assert client.get(f"/nag/v1/{name}", auth=("ann", "secret")).status_code == 200
