"""Beside stable-diffusion-webui-distributed a job is what it is on one machine: pictures, texts and maps."""

import base64
import copy
import io
from pathlib import Path

import pytest
from PIL import Image

from nag_core.settings.parse import FIELDS, OVERRIDES_SLOT
from nag_core.settings.user_presets import Store
from tests.contract.distributed import LABEL, another_machine, distribute

MINE = {"scale": 9, "tau": 3.0, "alpha": 0.7, "end": 0.75}
ON = {"enabled": True, "scale": 4, "alpha": 0.5}


@pytest.fixture
def saved(host):
    """What is saved on this machine: a preset of the user's own."""
    store = Store(f"{host.paths.data_path}/nag_presets.json")
    store.save("Mine", MINE)
    yield store
    store.path.unlink(missing_ok=True)


@pytest.fixture(params=["packed before NAG", "packed after NAG"])
def order(request):
    """Scripts come by the names of their folders, which anybody may change."""
    return request.param


@pytest.fixture
def shared(host, script, prepared, order, monkeypatch, tmp_path):
    """`shared(nag, **fields)`: the job on this machine and another one; (p, its result, what was sent)."""

    def run(nag=(), change=None, has_nag=True, default_negative="", extra=None, **fields):
        machine = another_machine(host, script, tmp_path, default_negative)
        theirs = distribute(host, prepared, machine, has_nag=has_nag)
        pair = [theirs, script] if order == "packed before NAG" else [script, theirs]
        with monkeypatch.context() as patched:
            every = pair if extra is None else [*pair, extra]
            patched.setattr(host.scripts.scripts_txt2img, "alwayson_scripts", every)
            with prepared(nag, **{"batch_size": 4, **fields}) as made:
                p = made if change is None else change(made)
                return p, host.processing.process_images(p), theirs.sent

    return run


@pytest.fixture
def alone(host, prepared):
    """The same pictures, drawn by one machine in batches of the same size: a sum in another order may differ
    by its last bit.
    """

    def run(nag=(), change=None, n_iter=1, **fields):
        with prepared(nag, batch_size=2, n_iter=2 * n_iter, **fields) as p:
            return host.processing.process_images(p if change is None else change(p))

    return run


def pixels(processed):
    return [one.tobytes() for one in processed.images]


def assert_as_alone(there, here):
    """The same pictures, and the same said of each."""
    assert pixels(there) == pixels(here)
    assert [text.replace(LABEL, "") for text in there.infotexts] == here.infotexts


def png():
    """A mask image: white on its left half."""
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 4, 8))
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def by_axis(host, name, x):
    """As the plot makes a cell: on a copy of the job, after that was set up."""
    (grid,) = [d.module for d in host.scripts.scripts_data if d.script_class.__module__ == "xyz_grid.py"]
    (option,) = [one for one in grid.axis_options if one.label == f"[NAG] {name}"]

    def change(p):
        cell = copy.copy(p)
        option.apply(cell, x, [x])
        return cell

    return change


@pytest.mark.parametrize(
    ("nag", "fields"),
    [
        ({}, {}),
        ({}, {"n_iter": 2}),
        ({"negatives": "red :: 2\nblue"}, {"cfg_scale": 7}),
        ({"curve": "linear", "negative": "[blue:red:0.5]"}, {}),
        ({"mask": "Inside", "mask_image": png()}, {}),
        ({"hires_scale": 6}, {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1}),
        ({}, {"subseed": 7, "subseed_strength": 0.3}),
    ],
    ids=str,
)
def test_a_job_is_what_it_is_on_one_machine(shared, alone, nag, fields):
    _, drawn, _ = shared([{**ON, **nag}], **fields)
    assert_as_alone(drawn, alone([{**ON, **nag}], **fields))


POSITIONAL = [True, "Mine", *(field.default for field in FIELDS[2:OVERRIDES_SLOT])]


@pytest.mark.parametrize(
    "nag",
    [
        [{"preset": "Mine"}],
        [{"preset": "mine", "scale": 5}],
        ['{"preset": "Mine"}'],
        [True, {"preset": "Mine", "negative": "blue"}],
        POSITIONAL,
        [*POSITIONAL, '{"scale": 3}'],
    ],
    ids=str,
)
def test_p1_a_preset_saved_here_is_known_there(shared, alone, saved, nag):
    _, drawn, _ = shared(nag)
    assert_as_alone(drawn, alone(nag))
    assert all("not understood" not in text for text in drawn.infotexts)
    assert all("NAG tau: 3, NAG alpha: 0.7" in text for text in drawn.infotexts)


def test_p1_of_two_presets_by_one_name_this_machines_is_used(shared, alone, saved, tmp_path):
    Store(tmp_path / "nag_presets.json").save("Mine", {"scale": 1})
    _, drawn, _ = shared([{"preset": "Mine"}])
    assert_as_alone(drawn, alone([{"preset": "Mine"}]))


def test_p1_a_name_that_this_machine_does_not_know_is_not_looked_up_there(shared, alone, tmp_path):
    Store(tmp_path / "nag_presets.json").save("Theirs", MINE)
    _, drawn, _ = shared([{"preset": "Theirs"}])
    assert_as_alone(drawn, alone([{"preset": "Theirs"}]))


@pytest.mark.parametrize(
    ("nag", "axis", "x"),
    [
        ([ON], "Preset", "Mine"),
        ([{"preset": "Mine"}], "Preset", "SDXL"),
        ([{"preset": "Mine"}], "Scale", 1.0),
        ([False, "Mine"], "Enabled", "on"),
        ([ON], "Override", "preset=Mine end=0.5"),
    ],
    ids=str,
)
def test_p1_an_axis_names_a_preset(host, shared, alone, saved, nag, axis, x):
    change = by_axis(host, axis, x)
    _, drawn, _ = shared(nag, change)
    assert_as_alone(drawn, alone(nag, change))


@pytest.mark.parametrize("nag", [{}, {"preset": "SDXL"}], ids=str)
def test_p2_the_default_negative_of_this_machine_counts_there(shared, alone, options, nag):
    options(nag_default_negative="blue")
    _, drawn, _ = shared([nag], negative_prompt="")
    assert_as_alone(drawn, alone([nag], negative_prompt=""))
    assert all("NAG negative: blue" in text for text in drawn.infotexts)


def test_p2_the_default_negative_of_the_other_machine_does_not(shared, alone):
    _, drawn, _ = shared([{}], negative_prompt="", default_negative="blue")
    assert_as_alone(drawn, alone([{}], negative_prompt=""))
    assert all("the negative prompt is empty" in text for text in drawn.infotexts)


def test_p2_a_main_negative_that_a_script_fills_in_later_wins(shared, alone, options):
    """Prompts from file, styles in the plot: after the arguments were set up, before the job begins."""

    def fill(p):
        p.negative_prompt = "red"
        return p

    options(nag_default_negative="blue")
    _, drawn, _ = shared([{}], fill, negative_prompt="")
    assert_as_alone(drawn, alone([{}], fill, negative_prompt=""))
    assert all("NAG negative" not in text for text in drawn.infotexts)


@pytest.mark.parametrize(
    "nag", [[], [False, "Mine"], [{"enabled": False, "preset": "Mine"}], ["off"]], ids=str
)
def test_off_is_off_and_no_argument_is_touched(host, script, shared, saved, options, nag):
    options(nag_default_negative="blue")
    p, _, sent = shared(nag, negative_prompt="")
    defaults = [control.value for control in host.scripts.scripts_txt2img.inputs]
    defaults[script.args_from : script.args_from + len(nag)] = nag
    assert list(p.script_args)[1:] == defaults[1:]
    assert sent == defaults[script.args_from : script.args_to]


def test_with_nag_off_no_preset_is_read_for_other_machines(script, prepared, saved, monkeypatch):
    read, load = [], Store.load
    monkeypatch.setattr(Store, "load", lambda store: read.append(store) or load(store))
    for nag, times in (([], 0), ([{"enabled": False, "preset": "Mine"}], 0), ([{"preset": "Mine"}], 1)):
        read.clear()
        with prepared(nag) as p:
            script.setup(p)
        assert len(read) == times, nag


@pytest.mark.parametrize("has_nag", [True, False])
@pytest.mark.parametrize("n_iter", [1, 2])
def test_p4_what_is_written_into_another_machines_picture_is_not_our_report(shared, has_nag, n_iter):
    """The text that the picture is saved with; the one beside it is replaced by the other machine's."""
    p, drawn, _ = shared([ON], has_nag=has_nag, n_iter=n_iter)
    ours, theirs = drawn.images[: 2 * n_iter], drawn.images[2 * n_iter :]
    assert len(theirs) == 2 * n_iter
    for one in ours:
        assert 'NAG report: "7 layers' in one.info["parameters"]
        assert "NAG applied: fully" in one.info["parameters"]
    for one in theirs:
        assert "another WebUI" in one.info["parameters"]
        assert "7 layers" not in one.info["parameters"]
        assert "NAG applied: unknown" in one.info["parameters"]
    assert [LABEL in text for text in drawn.infotexts] == [False] * 2 * n_iter + [True] * 2 * n_iter
    own = [text.count('NAG report: "7 layers') for text in drawn.infotexts]
    assert own == [1] * 2 * n_iter + [int(has_nag)] * 2 * n_iter


def test_p4_the_grid_and_a_plain_job_keep_our_report(shared, alone):
    p, drawn, _ = shared([ON], do_not_save_grid=False)
    grid = drawn.images[0].info["parameters"]
    assert drawn.index_of_first_image == 1
    assert "7 layers" in grid
    assert "another WebUI" not in grid
    assert all("another WebUI" not in text for text in alone([ON]).infotexts)


def test_p4_another_machines_picture_has_no_negative_of_ours(shared, alone, wildcards, capsys):
    """Drawn wildcards are recorded as a list by image, and that has no entry for it."""
    nag = [{**ON, "negative": "__colour__"}]
    _, drawn, _ = shared(nag, extra=wildcards)
    assert "Error" not in capsys.readouterr().err
    inside = [one.info["parameters"] for one in drawn.images]
    assert ["NAG negative: " in text for text in inside] == [True, True, False, False]
    assert ["NAG negative: " in text for text in drawn.infotexts] == [True] * 4


@pytest.fixture
def wildcards(host):
    """A script that draws `__colour__` by the picture's seed."""

    class Wildcards(host.scripts.Script):
        args_from = args_to = 0
        filename, name, alwayson = "wildcards.py", "wildcards", True

        def title(self):
            return "Wildcards"

        def replace_wildcard(self, text, seed):
            return text.replace("__colour__", ("red", "blue")[seed % 2])

        def process(self, p):
            texts = zip(p.all_negative_prompts, p.all_seeds, strict=True)
            p.all_negative_prompts = [self.replace_wildcard(*one) for one in texts]

    return Wildcards()


@pytest.mark.parametrize("has_nag", [True, False])
def test_p5_heat_maps_are_labelled_and_saved_with_their_own_picture(shared, monkeypatch, host, has_nag):
    folder = Path(host.paths.data_path, "outputs")
    for file in folder.glob("*-nag-heat.png"):
        file.unlink()
    nag = {**ON, "heat_map": True}
    monkeypatch.setattr(host.processing.StableDiffusionProcessing, "save_samples", lambda p: True)
    p, drawn, _ = shared([nag], has_nag=has_nag, n_iter=2)
    maps = drawn.extra_images
    assert [seed(one.info["parameters"]) for one in maps] == [1, 2, 3, 4]
    assert all("NAG heat map of: " in one.info["parameters"] for one in maps)
    files = sorted(folder.glob("*-nag-heat.png"))
    for file in files:
        with Image.open(file) as picture:
            assert f"-{seed(picture.info['parameters'])}-" in file.name
        file.unlink()
    assert len(files) == (8 if has_nag else 4), "the other machine saves its own"


def seed(text):
    return int(text.rpartition("Seed: ")[2].partition(",")[0])


@pytest.mark.parametrize(
    "slot",
    [
        '{"sender": 5}',
        '{"sender": {"presets": [1], "default_negative": 3}}',
        {"sender": {"presets": {"Mine": 2}}},
    ],
    ids=str,
)
def test_a_sender_that_means_nothing_costs_nothing(job, slot):
    nag = [True, "Custom", 4.0, *(field.default for field in FIELDS[3:OVERRIDES_SLOT])]
    plain, odd = job([*nag, ""])[1], job([*nag, slot])[1]
    assert pixels(odd) == pixels(plain)
    assert odd.infotexts == plain.infotexts
