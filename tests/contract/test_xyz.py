"""The host's X/Y/Z plot with our axes, run as the page runs it."""

import json
import logging
from types import SimpleNamespace

import pytest

from nag_core.hosts.diffusers import sdnext
from nag_core.settings.parse import FIELDS, OVERRIDES_SLOT, SENDER, parse
from nag_core.settings.user_presets import FILE_NAME, Store
from nag_core.webui import xyz
from nag_core.webui.job import Job
from nag_core.webui.xyz import register

ON = [{"enabled": True}]
AXES = ["Enabled", "Preset", "Scale", "Tau", "Alpha", "Start", "End", "Method", "Hires", "Negative",
        "Negative S/R", "Override", "Curve", "Blocks", "Negatives", "Mask",
        "Mask feather", "VSF offset"]  # fmt: skip


@pytest.fixture
def grid(host):
    """The module of the host's plot."""
    (found,) = [d.module for d in host.scripts.scripts_data if d.script_class.__module__ == "xyz_grid.py"]
    return found


@pytest.fixture
def axis(grid):
    """`axis("Scale")`: the AxisOption of that name."""
    return lambda name: {o.label: o for o in grid.axis_options}[f"[NAG] {name}"]


@pytest.fixture
def plot(host, prepared):
    """`plot({"[NAG] Scale": "2,4"}, nag)` runs a plot; (p, grid's infotext, cells as (pixels, infotext))."""
    runner = host.scripts.scripts_txt2img

    def run(axes, nag=(), **fields):
        (xyz,) = [s for s in runner.selectable_scripts if s.title() == "X/Y/Z plot"]
        labels = [option.label for option in xyz.current_axis_options]
        given = [*axes.items(), *[("Nothing", "")] * (3 - len(axes))]
        args = [value for label, text in given for value in (labels.index(label), text, [])]
        args += [True, True, False, False, False, False, False, 0, True]
        with prepared(nag, **fields) as p:
            values = list(p.script_args)
            values[0] = runner.selectable_scripts.index(xyz) + 1
            values[xyz.args_from : xyz.args_to] = args
            p.script_args = tuple(values)
            processed = runner.run(p, *p.script_args)
        cells = zip(processed.images[1:], processed.infotexts[1:], strict=True)
        return SimpleNamespace(
            p=p,
            maps=processed.extra_images,
            text=processed.infotexts[0],
            cells=[SimpleNamespace(pixels=image.tobytes(), text=text) for image, text in cells],
        )

    return run


@pytest.fixture
def single(job):
    """The picture of one job, as a cell shows it."""
    return lambda nag=(), **fields: job(nag, **fields)[1].images[0].tobytes()


@pytest.fixture
def cell(script):
    """`cell(args, as_list=False, **fields)`: a `p` before its cell is drawn, our arguments first."""

    def make(args=(), as_list=False, **fields):
        args = [*args, *(field.default for field in FIELDS[len(args) : OVERRIDES_SLOT]), ""]
        args = [*[None] * script.args_from, *args, "the next script's"]
        fields = {"negative_prompt": "red", **fields}
        kind = list if as_list else tuple
        return SimpleNamespace(
            scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=kind(args), **fields
        )

    return make


def overrides(p, script):
    """What axes have written; the sender beside it is of tests/contract/test_distributed.py."""
    written = json.loads(p.script_args[script.args_from + OVERRIDES_SLOT])
    return {name: value for name, value in written.items() if name != SENDER}


def test_off_and_on_side_by_side(plot, single):
    drawn = plot({"[NAG] Enabled": "off,on"})
    off, on = drawn.cells
    assert off.pixels == single()
    assert on.pixels == single(ON)
    assert off.pixels != on.pixels
    assert "NAG" not in off.text
    assert "NAG scale" in on.text
    assert "X Type: [NAG] Enabled" in drawn.text


def test_the_infotext_of_a_cell_does_not_reach_the_next(plot):
    on, off = plot({"[NAG] Enabled": "on,off"}).cells
    assert "NAG scale" in on.text
    assert "NAG" not in off.text


@pytest.fixture
def failing(host, job, monkeypatch):
    """`failing(2)`: that cell, counted from 1, raises in the middle of its sampling."""
    job()
    network = type(host.shared.sd_model.forge_objects.unet.model)
    original, calls = network.apply_model, []

    def at(number):
        def apply_model(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 4 * (number - 1) + 2:
                calls.extend([1, 1])  # its other steps
                raise RuntimeError("out of memory, say")
            return original(self, *args, **kwargs)

        calls.clear()
        monkeypatch.setattr(network, "apply_model", apply_model)

    return at


def test_a_cell_that_fails_leaves_nothing_to_the_cells_behind_it(plot, single, failing, script, monkeypatch):
    """Plots go on behind it without `postprocess`, and all cells share one dict of parameters: the next were
    taken for jobs within the failed one, and were recorded with its values.
    """
    wanted = [single([{"scale": scale}]) for scale in (2, 6)]
    closed = []
    monkeypatch.setattr(Job, "close", lambda job, close=Job.close: (closed.append(job.recorded), close(job)))
    failing(2)
    first, last = plot({"[NAG] Scale": "2,4,6"}, ON).cells
    assert [first.pixels, last.pixels] == wanted
    assert "NAG scale: 6," in last.text
    assert "× 4/4 steps" in last.text
    assert [one.phi for one in closed] == [2, 4, 6]
    assert not script.jobs._jobs


def test_an_off_cell_behind_a_cell_that_failed_says_nothing_of_nag(plot, single, failing):
    failing(2)
    _, off = plot({"[NAG] Enabled": "on,on,off"}, ON).cells
    assert off.pixels == single()
    assert "NAG" not in off.text


def test_the_parameters_of_a_plot_whose_last_cell_failed_are_json(host, plot, failing):
    """Forge Classic's answer is json.dumps of them: functions among them cost the whole plot."""
    failing(2)
    drawn = plot({"[NAG] Scale": "2,4"}, ON)
    parameters = drawn.p.extra_generation_params
    assert json.loads(json.dumps(parameters)) == dict(parameters)


def test_three_scales_by_off_and_on(plot, single):
    cells = plot({"[NAG] Scale": "1,3,6", "[NAG] Enabled": "off,on"}).cells
    off = [cell for cell in cells if "NAG" not in cell.text]
    on = [cell for cell in cells if "NAG" in cell.text]
    assert [cell.pixels for cell in off] == [single()] * 3
    assert [cell.pixels for cell in on] == [single([{"scale": scale}]) for scale in (1, 3, 6)]
    for cell, scale in zip(on, (1, 3, 6), strict=True):
        assert f"NAG scale: {scale}," in cell.text


def test_two_axes_combine_in_either_order(plot, single):
    for axes in ({"[NAG] Tau": "1.5", "[NAG] Alpha": "0.5"}, {"[NAG] Alpha": "0.5", "[NAG] Tau": "1.5"}):
        (drawn,) = plot(axes, ON).cells
        assert drawn.pixels == single([{"tau": 1.5, "alpha": 0.5}])


def test_the_compound_axis_equals_the_single_settings(plot, single):
    drawn = plot({"[NAG] Override": "scale=6 tau=1.5 alpha=0.5,end=0.5; method=No refinement"}, ON)
    assert drawn.cells[0].pixels == single([{"scale": 6, "tau": 1.5, "alpha": 0.5}])
    assert drawn.cells[1].pixels == single([{"end": 0.5, "method": "No refinement"}])
    (axes,) = plot({"[NAG] Scale": "6", "[NAG] Tau": "1.5", "[NAG] Alpha": "0.5"}, ON).cells
    assert axes.pixels == drawn.cells[0].pixels


def test_a_preset_axis_wins_over_the_sliders_and_over_the_dict_form(plot, single):
    expected = [single([{"preset": name}]) for name in ("SD1.5", "SD3.5")]
    assert expected[0] != expected[1]
    for nag in ([True, "Custom", 9.0], [{"scale": 9}], [{"phi": 9, "nag_tau": 5}]):
        assert [cell.pixels for cell in plot({"[NAG] Preset": "SD1.5,SD3.5"}, nag).cells] == expected


@pytest.fixture
def store(host):
    found = Store(f"{host.paths.data_path}/{FILE_NAME}")
    yield found
    found.path.unlink(missing_ok=True)


def test_a_preset_of_the_users_is_a_value_from_the_moment_it_is_saved(plot, single, axis, store):
    soft = {"scale": 1.5, "tau": 2.0, "alpha": 0.2, "end": 0.5}
    with pytest.raises(RuntimeError, match="allowed are Auto, Custom"):
        plot({"[NAG] Preset": "SDXL,Soft"}, ON)
    store.save("Soft", soft)
    assert axis("Preset").choices()[-1] == "Soft"
    assert axis("Preset").format_value(None, axis("Preset"), "soft") == "NAG preset: Soft"
    for nag in (ON, [{"scale": 9, "end": 0.75}]):
        sdxl, own = plot({"[NAG] Preset": "SDXL,soft"}, nag).cells
        assert own.pixels == single([soft])
        assert sdxl.pixels == single([{**nag[0], "scale": None, "preset": "SDXL"}])
    (cell,) = plot({"[NAG] Override": "preset=Soft end=1"}, ON).cells
    assert cell.pixels == single([{**soft, "end": 1}])


def test_the_compound_axis_takes_the_names_of_the_api(plot, single):
    cells = plot({"[NAG] Override": "phi=6, nag_scale=7 nag_tau=1.5; nag_alpha=0.5, scale=６"}, ON).cells
    settings = ({"scale": 6}, {"scale": 6, "tau": 1.5, "alpha": 0.5}, {"scale": 6})
    assert [cell.pixels for cell in cells] == [single([one]) for one in settings]


@pytest.mark.parametrize("name", ["a=b", "a; b", "a=b; scale=1", 'say "hi"', "a, b=c", "=", ";"])
def test_a_preset_whose_name_holds_signs_of_the_grammar(plot, single, store, name):
    """By one rule in both axes: in double quotes, and a double quote in it twice."""
    store.save(name, {"scale": 7, "tau": 2.0, "alpha": 0.5})
    wanted = single([{"preset": name}])
    assert wanted == single([{"scale": 7, "tau": 2.0, "alpha": 0.5}])
    quoted = '"{}"'.format(name.replace('"', '""'))
    (axis,) = plot({"[NAG] Preset": quoted}, ON).cells
    first, second = plot({"[NAG] Override": f"preset={quoted} end=1, scale=7 tau=2 alpha=0.5"}, ON).cells
    assert axis.pixels == first.pixels == second.pixels == wanted
    whole = '"preset={}"'.format(quoted.replace('"', '""'))
    (cell,) = plot({"[NAG] Override": whole}, ON).cells
    assert cell.pixels == wanted, "as a list of the host's own takes it, quoted as a whole"


@pytest.mark.parametrize("name", ["a=b", "a; b", "x=1; y"])
def test_a_known_word_needs_no_quotes(plot, single, store, name):
    store.save(name, {"scale": 7, "tau": 2.0, "alpha": 0.5})
    (cell,) = plot({"[NAG] Override": f"preset={name.upper()} end=0.5"}, ON).cells
    assert cell.pixels == single([{"preset": name, "end": 0.5}])


@pytest.mark.parametrize("text", ["red, blue", "red; blue", 'a "red" one', "scale=9", '"'])
def test_a_quoted_negative_in_the_compound_axis_is_taken_as_it_is(plot, single, text):
    quoted = '"{}"'.format(text.replace('"', '""'))
    (cell,) = plot({"[NAG] Override": f"scale=6 negative={quoted}"}, ON).cells
    assert cell.pixels == single([{"scale": 6, "negative": text}])


def test_a_plot_without_a_splitter_of_its_own_is_given_none():
    """SD.Next's axes take no `prepare`."""

    class Option:
        def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None):
            self.label = label

    assert [option.label for option in xyz._axes(Option, dict)] == [f"[NAG] {name}" for name in AXES]


def test_a_preset_axis_wins_over_the_dict_form_in_json_text(plot, single):
    nag = [json.dumps({"phi": 9, "nag_tau": 5})]
    cells = plot({"[NAG] Preset": "SD1.5,SD3.5"}, nag).cells
    assert [cell.pixels for cell in cells] == [single([{"preset": name}]) for name in ("SD1.5", "SD3.5")]


def test_a_custom_cell_takes_the_jobs_own_values(plot, single):
    (drawn,) = plot({"[NAG] Preset": "Custom"}, [{"scale": 9}]).cells
    assert drawn.pixels == single([{"preset": "Custom", "scale": 9}])


def test_the_window_the_method_and_the_negative_have_axes(plot, single):
    for label, text, setting in [
        ("Start", "0.5", {"start": 0.5}),
        ("End", "0.25", {"end": 0.25}),
        ("Method", "nasa", {"method": "NASA"}),
        ("Negative", "blue square", {"negative": "blue square"}),
    ]:
        (drawn,) = plot({f"[NAG] {label}": text}, ON).cells
        assert drawn.pixels == single([setting])


def test_the_heat_maps_of_all_cells_are_handed_on_and_no_cell_is_one(plot, single):
    nag = [{"heat_map": True}]
    drawn = plot({"[NAG] Scale": "2,6"}, nag)
    assert [cell.pixels for cell in drawn.cells] == [single([{"scale": scale}]) for scale in (2, 6)]
    assert len(drawn.maps) == 2
    assert all("NAG heat map of: " in one.info["parameters"] for one in drawn.maps)
    assert "heat maps are" not in str(drawn.p.comments)


def test_the_hires_axis(plot):
    job = {
        "enable_hr": True,
        "hr_scale": 2,
        "denoising_strength": 0.6,
        "hr_cfg": 1,
        "width": 128,
        "height": 128,
    }
    both, first, only = plot({"[NAG] Hires": "Both,First pass,Hires only"}, ON, **job).cells
    assert len({both.pixels, first.pixels, only.pixels}) == 3
    assert "NAG hires" not in both.text
    assert "NAG hires: Hires only" in only.text


def test_search_and_replace_in_the_nag_negative(plot, single):
    nag = [{"negative": "red circle"}]
    first, second = plot({"[NAG] Negative S/R": "red,blue"}, nag).cells
    assert first.pixels == single(nag)
    assert second.pixels == single([{"negative": "blue circle"}])


def test_search_and_replace_in_the_main_negative_where_the_box_is_empty(plot, single):
    job = {"negative_prompt": "red circle", "cfg_scale": 7}
    first, second = plot({"[NAG] Negative S/R": "red,blue"}, ON, **job).cells
    assert first.pixels == single(ON, **job)
    assert second.pixels == single([{"negative": "blue circle"}], **job)
    assert "Negative prompt: red circle" in second.text, "the main negative stays CFG's"


def test_search_and_replace_after_a_negative_axis_searches_that_ones_text(plot, single):
    axes = {"[NAG] Negative": "green circle", "[NAG] Negative S/R": "green,blue"}
    cells = plot(axes, ON).cells
    assert [c.pixels for c in cells] == [single([{"negative": f"{x} circle"}]) for x in ("green", "blue")]


@pytest.mark.parametrize("axis", ["Negative S/R", "Negative"])
def test_an_axis_over_the_negative_acts_where_several_are_given(plot, single, axis):
    nag = [{"enabled": True, "negatives": "red"}]
    cells = plot({f"[NAG] {axis}": "red,blue"}, nag).cells
    assert [c.pixels for c in cells] == [single([{"negatives": x}]) for x in ("red", "blue")]


def test_search_and_replace_of_what_is_not_there_ends_the_plot(plot):
    with pytest.raises(RuntimeError, match="Negative S/R did not find purple"):
        plot({"[NAG] Negative S/R": "purple,blue"}, ON)
    with pytest.raises(RuntimeError, match="leaves nothing of 'red'"):
        plot({"[NAG] Negative S/R": 'red,""'}, ON)


@pytest.fixture(params=["A1111", "SD.Next"])
def confirming(request, monkeypatch, grid):
    """Hosts either hand on what `confirm` raises, or keep it to themselves and answer without a picture."""
    ours = list(grid.axis_options)
    if request.param == "SD.Next":
        monkeypatch.setattr(sdnext, "probe", sdnext.SDNext)
        register()
        assert {o.confirm for o in grid.axis_options if o.label.startswith("[NAG] ")} == {None}
    yield
    grid.axis_options[:] = ours


@pytest.mark.usefixtures("confirming")
@pytest.mark.parametrize(
    ("label", "text", "said"),
    [
        ("Enabled", "on,maybe", "allowed are off, on"),
        ("Enabled", "on,", "allowed are off, on"),
        ("Preset", "SD9", "Auto, Custom, SDXL"),
        ("Scale", "4,21", "21.0: allowed are 0 to 20"),
        ("Tau", "0.5", "0.5: allowed are 1 to 10"),
        ("Alpha", "nan", "allowed are 0 to 1"),
        ("Method", "none", "NAG, NASA, No normalisation, No refinement, VSF, Orthogonal"),
        ("Hires", "second", "Both, First pass, Hires only"),
        ("Override", "strenght=4", "no setting 'strenght'; allowed are enabled, preset, scale"),
        ("Override", "scale=99", "allowed are 0 to 20"),
        ("Override", "scale", "not of the form"),
        ("Override", "scale=4 tau", "allowed are 0 to 20"),
        ("Override", "scale=4=5", "not of the form"),
        ("Override", "tau=", "allowed are 1 to 10"),
        ("Override", "scale=4,", "not of the form"),
        ("Override", 'preset="a=b', "stands in double quotes"),
        ("Override", "scale=4 phi=5", "sets scale twice"),
        ("Override", "nag_scale=0", "nag_scale '0': allowed are 1 to 21"),
        ("Override", "phi=high", "allowed are 0 to 20"),
        ("Override", "nag_strenght=4", "allowed are enabled, .* phi, nag_scale"),
    ],
)
def test_what_is_not_allowed_is_refused_before_the_first_picture(plot, host, monkeypatch, label, text, said):
    drawn = []
    monkeypatch.setattr(host.processing, "process_images", drawn.append)
    with pytest.raises(RuntimeError, match=said):
        plot({f"[NAG] {label}": text}, ON)
    assert drawn == []


def test_ranges_of_the_host_are_read(axis):
    found = [0.1 * n for n in range(11)]
    axis("Alpha").confirm(None, [*found, 1.0000000000000002])
    assert axis("Alpha").format_value(None, axis("Alpha"), found[3]) == "NAG alpha: 0.3"


def test_labels_can_be_read(axis):
    read = {
        (name, x): axis(name).format_value(None, axis(name), x)
        for name, x in [("Enabled", "false"), ("Scale", 4.0), ("Negative", ""), ("Override", "tau=2 end=1")]
    }
    assert list(read.values()) == ["NAG off", "NAG scale: 4", "NAG negative: the main one", "tau=2 end=1"]


def test_with_nag_off_an_axis_says_that_it_changes_nothing_and_says_it_once(
    plot, single, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("nag"), "propagate", True)
    with caplog.at_level(logging.INFO, "nag"):
        drawn = plot({"[NAG] Scale": "1,3,6"})
    assert {cell.pixels for cell in drawn.cells} == {single()}
    assert "NAG" not in drawn.cells[2].text
    assert "NAG is off: this axis changes nothing" in drawn.p.comments
    assert caplog.text.count("NAG is off: this axis changes nothing") == 1


@pytest.mark.parametrize("count", [0, OVERRIDES_SLOT, OVERRIDES_SLOT + 1])
def test_a_list_that_ends_about_at_the_overrides_has_no_axis_to_speak_of(count):
    """SD.Next hands a script as many arguments as a request has."""
    said = []
    xyz.tell_if_off(SimpleNamespace(comments={}, comment=said.append), [None] * count)
    assert said == []


@pytest.mark.parametrize(
    ("axes", "nag"),
    [
        ({"[NAG] Enabled": "off", "[NAG] Scale": "3"}, ON),
        ({"[NAG] Scale": "3"}, ON),
        ({"Steps": "2"}, [{"enabled": False, "scale": 3}]),
    ],
    ids=str,
)
def test_that_is_not_said_where_off_was_asked_for_or_nag_is_on(plot, axes, nag):
    assert "NAG is off" not in str(plot(axes, nag).p.comments)


def test_the_axes_are_there_once_and_in_order_however_often_they_are_registered(grid):
    from nag_core.webui import xyz

    before = [option.label for option in grid.axis_options]
    assert [label for label in before if label.startswith("[NAG]")] == [f"[NAG] {name}" for name in AXES]
    later = grid.AxisOption("Of another extension", str, grid.do_nothing)
    grid.axis_options.append(later)
    try:
        xyz.register(), xyz.register()
        assert [option.label for option in grid.axis_options] == [*before, later.label]
    finally:
        grid.axis_options.remove(later)


def test_the_axes_are_there_once_after_the_scripts_were_loaded_anew(host, grid, monkeypatch):
    """Also where the list outlives the reload, as on Forge Classic."""
    scripts, callbacks = host.scripts, host.script_callbacks
    saved = list(scripts.scripts_data), {name: list(found) for name, found in callbacks.callback_map.items()}
    for name in ("scripts_txt2img", "scripts_img2img"):
        monkeypatch.setattr(scripts, name, getattr(scripts, name))
    try:
        scripts.load_scripts()
        (new,) = [d.module for d in scripts.scripts_data if d.script_class.__module__ == "xyz_grid.py"]
        assert new is not grid
        for options in (new.axis_options, grid.axis_options):
            new.axis_options = options
            callbacks.before_ui_callback()
            labels = [option.label for option in options]
            assert len(labels) == len(set(labels))
            assert len([label for label in labels if label.startswith("[NAG]")]) == len(AXES)
    finally:
        scripts.scripts_data[:] = saved[0]
        for name, found in saved[1].items():
            callbacks.callback_map[name][:] = found


@pytest.mark.parametrize("as_list", [False, True])
def test_the_arguments_all_cells_share_are_left_alone(axis, cell, script, as_list):
    p = cell([{"enabled": True, "scale": 3, "end": 0.5}], as_list)
    shared, content, dictionary = p.script_args, list(p.script_args), dict(p.script_args[script.args_from])
    axis("Scale").apply(p, 6.0, [6.0])
    axis("Preset").apply(p, "sdxl", ["sdxl"])
    assert type(p.script_args) is type(shared)
    assert len(p.script_args) == len(shared)
    assert list(shared) == content
    assert shared[script.args_from] == dictionary
    assert overrides(p, script) == {"scale": 6.0, "preset": "SDXL"}
    assert p.script_args[script.args_from] == {"enabled": True, "end": 0.5}
    assert p.script_args[-1] == "the next script's"


def test_a_list_that_ends_before_the_overrides_is_filled_with_the_defaults(axis, cell, script):
    p = cell(as_list=True)
    del p.script_args[script.args_from + 2 :]
    axis("Enabled").apply(p, "on", ["on"])
    own = p.script_args[script.args_from :]
    assert own[:-1] == [field.default for field in FIELDS[:OVERRIDES_SLOT]]
    assert overrides(p, script) == {"enabled": True}


@pytest.mark.parametrize("missing", [0, 1, 2, OVERRIDES_SLOT, OVERRIDES_SLOT + 1])
def test_a_list_that_ends_about_where_ours_does_is_as_long_as_it_must_be(axis, cell, script, missing):
    """missing: of our arguments, the overrides slot last."""
    p = cell(as_list=True)
    before = p.script_args[: script.args_from]
    del p.script_args[script.args_from + OVERRIDES_SLOT + 1 - missing :]
    axis("Scale").apply(p, 6.0, [6.0])
    assert len(p.script_args) == script.args_from + OVERRIDES_SLOT + 1
    assert p.script_args[: script.args_from] == before
    assert p.script_args[script.args_from] is False
    assert overrides(p, script) == {"scale": 6.0}


def test_arguments_of_the_scripts_before_ours_that_are_missing_are_none(axis, cell, script):
    p = cell(as_list=True)
    assert script.args_from > 0
    del p.script_args[0:]
    axis("Scale").apply(p, 6.0, [6.0])
    assert p.script_args[: script.args_from] == [None] * script.args_from
    assert p.script_args[script.args_from] is False


@pytest.mark.parametrize("slot", [None, "", "{broken", "[1]", 7])
def test_an_unreadable_overrides_slot_is_replaced(axis, cell, script, slot):
    p = cell(as_list=True)
    p.script_args[script.args_from + OVERRIDES_SLOT] = slot
    axis("Tau").apply(p, 3.0, [3.0])
    assert overrides(p, script) == {"tau": 3.0}


def test_an_axis_wins_over_an_older_override_of_the_same_setting_by_another_name(axis, cell, script):
    from nag_core.settings.parse import parse

    p = cell(as_list=True)
    p.script_args[script.args_from + OVERRIDES_SLOT] = {"scale": 1, "phi": 9, "end": 0.5}
    axis("Scale").apply(p, 3.0, [3.0])
    settings = parse(p.script_args[script.args_from : script.args_to]).settings
    assert (settings.scale, settings.end) == (3.0, 0.5)


def test_a_job_without_our_script_is_refused(axis, cell):
    p = cell()
    p.scripts.alwayson_scripts = []
    with pytest.raises(RuntimeError, match="NAG is not among the scripts"):
        axis("Scale").apply(p, 3.0, [3.0])


def test_arguments_that_the_host_keeps_by_title_are_those_that_an_axis_changes(axis, cell, script):
    """SD.Next keeps what the API gave beside the list of all scripts, and cells share that dictionary."""
    given = {"NAG": [{"enabled": True, "negative": "red circle"}], "Other": [1]}
    cells = [cell(per_script_args=given) for _ in range(2)]
    for p, scale in zip(cells, (2.0, 5.0), strict=True):
        axis("Scale").apply(p, scale, [2.0, 5.0])
        axis("Negative S/R").apply(p, "blue", ["red", "blue"])
    assert given == {"NAG": [{"enabled": True, "negative": "red circle"}], "Other": [1]}
    for p, scale in zip(cells, (2.0, 5.0), strict=True):
        found = parse(p.per_script_args["NAG"]).settings
        assert (found.enabled, found.scale, found.negative) == (True, scale, "blue circle")
        assert p.per_script_args["Other"] == [1]
        assert p.script_args[script.args_from + OVERRIDES_SLOT] == "", "the host does not look there"
