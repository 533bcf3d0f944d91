"""Each advanced control once through the API of any WebUI."""

import base64
import io

import pytest
from PIL import Image

ON = {"enabled": True, "preset": "Custom", "scale": 4, "tau": 2.5, "alpha": 0.5, "negative": "blue square"}
NOT_THERE = "has no mask and heat map yet; the page hides them, the report says so"


def mask():
    picture = Image.new("L", (64, 64), 0)
    picture.paste(255, (0, 0, 32, 64))
    with io.BytesIO() as buffer:
        picture.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def drawn():
    return {}


@pytest.fixture
def plain(webui, drawn):
    """NAG off, and NAG on without any of them."""
    if not drawn:
        drawn["off"], drawn["on"] = webui.txt2img(), webui.txt2img([ON])
    return drawn["off"], drawn["on"]


@pytest.mark.parametrize(
    ("control", "recorded"),
    [
        ({"curve": "0:8, 1:1"}, 'NAG curve: "0:8, 1:1"'),
        ({"negatives": "red :: 2\nblue square"}, "NAG negatives: "),
        ({"mask": "Inside", "mask_image": mask()}, "NAG mask: Inside"),
        ({"mask": "Outside", "mask_image": mask()}, "NAG mask image: "),
    ],
    ids=str,
)
def test_it_draws_something_else_and_is_recorded(webui, plain, control, recorded):
    off, on = plain
    if "mask" in control:
        webui.unless_sdnext(NOT_THERE)
    found = webui.txt2img([{**ON, **control}])
    assert found.pixels[0] not in (off.pixels[0], on.pixels[0])
    assert "4/4 steps" in found.report()
    assert recorded in found.infotexts[0]


@pytest.mark.parametrize("method", ["VSF", "Orthogonal", "NASA"])
def test_another_rule_draws_something_else_and_is_named(webui, plain, method):
    off, on = plain
    found = webui.txt2img([{**ON, "method": method}])
    assert found.pixels[0] not in (off.pixels[0], on.pixels[0])
    assert "4/4 steps, " + method in found.report()
    assert f"NAG method: {method}" in found.infotexts[0]
    assert webui.txt2img([{**ON, "method": method, "scale": 0}]).pixels == off.pixels


def test_a_curve_that_drops_to_zero_equals_that_end(webui):
    dropped = webui.txt2img([{**ON, "curve": "0:4 0.5:4 0.5:0"}])
    assert dropped.pixels == webui.txt2img([{**ON, "end": 0.5}]).pixels
    assert "2/4 steps" in dropped.report()


def test_blocks_that_do_not_exist_are_told_and_all_that_do_equal_no_list(webui, plain):
    off, on = plain
    told = webui.txt2img([{**ON, "blocks": "nowhere.3"}])
    assert told.pixels == off.pixels
    _, found, blocks = told.report().partition("no blocks nowhere.3 here; this model has ")
    assert found
    assert webui.txt2img([{**ON, "blocks": blocks}]).pixels == on.pixels
    first = blocks.split(", ")[0].split("-")[0]
    if first != blocks:  # a model of one block
        assert webui.txt2img([{**ON, "blocks": first}]).pixels[0] not in (off.pixels[0], on.pixels[0])


def test_two_negatives_are_reported_with_what_they_add(webui):
    found = webui.txt2img([{**ON, "negatives": "red\nblue square :: 0.5"}])
    assert "2 negatives of " in found.report()


def test_a_mask_of_everything_equals_none(webui, plain):
    webui.unless_sdnext(NOT_THERE)
    _, on = plain
    with io.BytesIO() as buffer:
        Image.new("L", (8, 8), 255).save(buffer, format="PNG")
        white = base64.b64encode(buffer.getvalue()).decode()
    assert webui.txt2img([{**ON, "mask": "Inside", "mask_image": white}]).pixels == on.pixels


def test_the_inpaint_mask_is_taken(webui, plain):
    webui.unless_sdnext(NOT_THERE)
    _, on = plain
    job = {
        "route": "img2img", "init_images": [base64.b64encode(on.pngs[0]).decode()], "mask": mask(),
        "inpaint_full_res": False, "inpainting_fill": 1, "denoising_strength": 0.9, "mask_blur": 0,
    }  # fmt: skip
    inside, everywhere = webui.txt2img([{**ON, "mask": "Inside"}], **job), webui.txt2img([ON], **job)
    assert "not applied" not in inside.report()
    assert inside.pixels != everywhere.pixels


def test_the_heat_map_comes_behind_the_pictures(webui, plain):
    webui.unless_sdnext(NOT_THERE)
    _, on = plain
    found = webui.txt2img([{**ON, "heat_map": True}])
    assert len(found.pngs) == 2
    assert found.pixels[0] == on.pixels[0]
    assert found.pixels[1] != on.pixels[0]
    assert "NAG heat map of: " in found.infotexts[1]
