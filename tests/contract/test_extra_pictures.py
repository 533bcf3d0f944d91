"""Heat maps and scripts that make pictures of a job's results: a map is never one of them, and never lost."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

HEAT = [{"enabled": True, "scale": 4, "alpha": 0.5, "heat_map": True}]
PLAIN = [{"enabled": True, "scale": 4, "alpha": 0.5}]


@pytest.fixture(params=[True, False], ids=["a place for extra pictures", "none"])
def place(request, host, monkeypatch):
    """A1111 has no `p.extra_result_images`."""
    if not request.param:
        kind = host.processing.StableDiffusionProcessing
        original = kind.__post_init__

        def without(p):
            original(p)
            del p.extra_result_images

        monkeypatch.setattr(kind, "__post_init__", without)
        # For the stand-in's own line that hands the list over.
        monkeypatch.setattr(kind, "extra_result_images", None, raising=False)
    return request.param


def upscale(p, process_images, processed):
    """SD upscale, poor man's outpainting: every result of every call is the next tile."""
    tiles = []
    for _ in range(2):
        made = process_images(p)
        p.seed = made.seed + 1
        tiles += made.images
    width, height = tiles[0].size
    joined = Image.new("RGB", (width * len(tiles), height))
    for number, tile in enumerate(tiles):
        joined.paste(tile, (number * width, 0))
    return processed(p, [joined], p.seed, made.info)


def matrix(p, process_images, processed):
    """Prompt matrix: a grid of the results in front of them."""
    made = process_images(p)
    grid = Image.new("RGB", (sum(one.width for one in made.images), made.images[0].height))
    for number, one in enumerate(made.images):
        grid.paste(one, (number * one.width, 0))
    made.images.insert(0, grid)
    made.infotexts.insert(0, made.infotexts[0])
    return made


def loopback(p, process_images, processed):
    """Loopback, prompts from file: the first result, or all of them, of every call."""
    made = [process_images(p) for _ in range(2)]
    return processed(p, [one for m in made for one in m.images], made[0].seed, made[0].info)


@pytest.fixture
def by_script(host, prepared, monkeypatch):
    """`by_script(run, nag)`: the job as a selectable script `run` draws it; (p, its result)."""

    def draw(run, nag, **fields):
        runner = host.scripts.scripts_txt2img
        kind = type("Script", (host.scripts.Script,), {"__module__": "sd_upscale.py"})
        monkeypatch.setattr(runner, "selectable_scripts", [*runner.selectable_scripts, kind()])
        with prepared(nag, **{"batch_size": 2, **fields}) as p:
            p.script_args = (len(runner.selectable_scripts), *p.script_args[1:])
            return p, run(p, host.processing.process_images, host.processing.Processed)

    return draw


@pytest.fixture
def saved(host):
    """The heat maps among the files that were saved, oldest first; they go with the test."""
    folder = Path(host.paths.data_path, "outputs")

    def files():
        return sorted(folder.glob("*-nag-heat.png"))

    for file in files():
        file.unlink()
    yield files
    for file in files():
        file.unlink()


@pytest.mark.parametrize("run", [upscale, matrix, loopback])
def test_no_map_is_a_tile_and_none_is_lost(by_script, saved, place, run):
    _, plain = by_script(run, PLAIN)
    p, found = by_script(run, HEAT)
    assert [one.tobytes() for one in found.images] == [one.tobytes() for one in plain.images]
    calls = 1 if run is matrix else 2
    assert len(saved()) == 2 * calls
    with Image.open(saved()[0]) as picture:
        assert "NAG heat map of: " in picture.info["parameters"]
        assert picture.size == (128, 128)
    assert any(comment.startswith("NAG: heat maps are saved in ") for comment in p.comments)
    assert "the heat maps are files of their own" in p.extra_generation_params["NAG report"]


def test_of_a_plain_job_they_are_handed_over_where_the_host_wants_them(job, saved, place):
    _, plain = job(PLAIN, batch_size=2)
    p, found = job(HEAT, batch_size=2)
    assert [one.tobytes() for one in found.images[:2]] == [one.tobytes() for one in plain.images]
    maps = found.extra_images if place else found.images[2:]
    assert len(maps) == 2
    assert len(found.images) == (2 if place else 4)
    assert all("NAG heat map of: " in one.info["parameters"] for one in maps)
    assert saved() == []
    assert "heat maps are" not in p.extra_generation_params["NAG report"]


class SendsAll:
    """Forge's and Classic's."""

    def text2imgapi(self, processed):
        return processed.images + processed.extra_images


class SendsResults:
    """reForge's: no word of extra pictures."""

    def text2imgapi(self, processed):
        return list(processed.images)


@pytest.mark.parametrize("api", [SendsAll, SendsResults])
@pytest.mark.parametrize("by_api", [True, False], ids=["by API", "by page"])
def test_an_api_that_sends_no_extra_pictures_sends_the_maps(host, prepared, monkeypatch, api, by_api):
    """reForge has a place for extra pictures and its API forgets them: maps were lost, unsaid."""
    monkeypatch.setitem(sys.modules, "modules.api.api", SimpleNamespace(Api=api))
    with prepared(HEAT, batch_size=2) as p:
        p.is_api = by_api
        found = host.processing.process_images(p)
    behind = by_api and api is SendsResults
    assert len(found.images) == len(found.infotexts) == (4 if behind else 2)
    assert len(found.extra_images) == (0 if behind else 2)
    if by_api:
        texts = [one.info.get("parameters", "") for one in api().text2imgapi(found)]
        assert ["NAG heat map of: " in text for text in texts] == [False, False, True, True]


def test_a_map_that_cannot_be_saved_is_said(by_script, host, saved, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(host.images, "save_image", full)
    p, found = by_script(upscale, HEAT)
    assert found.images
    assert any("could not be saved (no space left on device)" in comment for comment in p.comments)


def test_a_script_without_heat_maps_says_nothing_of_them(by_script, saved):
    p, _ = by_script(upscale, PLAIN)
    assert "heat map" not in str(p.comments)
    assert saved() == []
