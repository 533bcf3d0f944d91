"""The advanced controls on the sandbox's model: each changes only what it says, and nothing while off."""

import base64
import io
import math

import pytest
import torch
from PIL import Image

from nag_core.hosts.ldm_unet import cross_attention_layers

ON = {"enabled": True, "scale": 4, "alpha": 0.5}
ALL_BLOCKS = "input middle output"


@pytest.fixture
def pixels(job):
    """`pixels(nag, **fields)`: the bytes of the first picture; `nag` None is off."""

    def run(nag=None, **fields):
        return job([] if nag is None else [nag], **fields)[1].images[0].tobytes()

    return run


@pytest.fixture
def text(job):
    return lambda nag, **fields: job([{**ON, **nag}], **fields)[1].infotexts[0]


@pytest.fixture
def model(host, job):
    job()
    return host.shared.sd_model


@pytest.fixture
def patched(host, monkeypatch):
    """The number of attention layers that NAG was put on, call by call."""
    from nag_core.hosts.patcher import unet

    seen = []
    original = unet.patch_attn2

    def count(options, layers, call):
        seen.append(sorted(layers))
        return original(options, layers, call)

    monkeypatch.setattr(unet, "patch_attn2", count)
    return seen


def png(picture):
    with io.BytesIO() as buffer:
        picture.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()


def half(width=128, height=128, white="left"):
    """A mask whose left or right half is white."""
    picture = Image.new("L", (width, height), 0)
    left = 0 if white == "left" else width // 2
    picture.paste(255, (left, 0, left + width // 2, height))
    return picture


# Strength over the steps


def test_a_curve_that_is_zero_from_the_middle_on_equals_that_end(pixels, patched):
    dropped = pixels({**ON, "curve": "0:4 0.5:4 0.5:0"})
    assert len(patched) == 2, "in the other steps nothing is hooked"
    assert dropped == pixels({**ON, "end": 0.5})
    assert dropped != pixels(ON)


@pytest.mark.parametrize("curve", ["constant", "0:4", "0:4, 1:4"])
def test_a_constant_curve_is_none(pixels, curve):
    assert pixels({**ON, "curve": curve}) == pixels(ON)


@pytest.mark.parametrize("curve", ["linear", "cosine", "0:1 1:8"])
def test_a_curve_draws_something_else(pixels, curve):
    assert pixels({**ON, "curve": curve}) not in (pixels(ON), pixels())


def test_points_act_with_a_scale_of_zero_and_a_curve_of_zeros_stands_aside(text, pixels):
    assert "7 layers × 4/4 steps" in text({"scale": 0, "curve": "0:4"})
    assert "not applied: the strength over the steps is 0 everywhere" in text({"curve": "0:0"})
    assert pixels({**ON, "curve": "0:0"}) == pixels()


def test_the_curve_composes_with_start_and_end(text):
    assert "× 2/4 steps" in text({"curve": "linear", "start": 0.25, "end": 0.75})


# Blocks


@pytest.mark.parametrize("blocks", [ALL_BLOCKS, "input.1-3, middle.0, output.0-"])
def test_a_list_of_all_blocks_equals_none(pixels, blocks):
    assert pixels({**ON, "blocks": blocks}) == pixels(ON)


def test_only_the_named_blocks_are_touched(pixels, patched, text):
    some = pixels({**ON, "blocks": "middle output.2-"})
    assert patched[0] == [("middle", 0, 0), ("output", 2, 0), ("output", 3, 0)]
    assert some not in (pixels(), pixels(ON))
    assert "3 layers × 4/4 steps" in text({"blocks": "middle output.2-"})


def test_blocks_that_do_not_exist_are_told_with_what_does(text, pixels):
    has = "this model has input.1, input.3, middle.0, output.0-3"
    partly = text({"blocks": "double.0-18 middle"})
    assert "1 layer × 4/4 steps" in partly
    assert f"no blocks double.0-18 here; {has}" in partly
    assert f"not applied: no blocks single here; {has}" in text({"blocks": "single"})
    assert pixels({**ON, "blocks": "single"}) == pixels()


def test_a_block_list_that_cannot_be_read_is_said_and_ignored(text):
    assert "blocks 'input.' ignored" in text({"blocks": "input."})


# Several negatives


def test_two_equal_negatives_with_weights_1_and_1_equal_one(pixels):
    once = pixels({**ON, "negative": "red"})
    assert pixels({**ON, "negatives": "red"}) == once
    twice = torch.frombuffer(bytearray(pixels({**ON, "negatives": "red :: 1\nred :: 1"})), dtype=torch.uint8)
    # 0.5 z + 0.5 z is z, but a kernel may take its keys in another order: one step of 255 at most.
    assert (twice.int() - torch.frombuffer(bytearray(once), dtype=torch.uint8).int()).abs().max() <= 1


def test_a_weight_of_zero_takes_a_negative_out_and_all_zeros_stand_aside(pixels, text):
    assert pixels({**ON, "negatives": "blue :: 0\nred :: 3"}) == pixels({**ON, "negatives": "red"})
    assert "not applied: the weights of the negatives sum to 0" in text({"negatives": "red :: 0"})


def test_the_weights_decide_between_the_negatives(pixels):
    mixed = pixels({**ON, "negatives": "red\nblue"})
    assert mixed not in (pixels({**ON, "negatives": "red"}), pixels({**ON, "negatives": "blue"}))
    assert mixed == pixels({**ON, "negatives": "red :: 2\nblue :: 2"})
    assert mixed != pixels({**ON, "negatives": "red :: 2\nblue :: 1"})


def test_several_negatives_take_the_place_of_the_others_and_are_reported(text, pixels):
    assert pixels({**ON, "negatives": "blue", "negative": "red"}, negative_prompt="teal") == pixels(
        {**ON, "negative": "blue"}
    )
    assert "2 negatives of " in text({"negatives": "red\nblue :: 0.5"}, batch_size=2)


def test_each_negatives_keys_are_projected_once_and_together(job, model):
    rows = []
    handles = [
        layer.to_k.register_forward_hook(lambda module, args, out: rows.append(args[0].shape[:2]))
        for layer in cross_attention_layers(model.forge_objects.unet.model.diffusion_model).values()
    ]
    try:
        job([{**ON, "negatives": "red\nblue\ngreen"}])
    finally:
        for handle in handles:
            handle.remove()
    tokens = {shape[1] for shape in rows}
    assert len(tokens) == 2
    assert [shape[1] for shape in rows].count(max(tokens)) == 7, "all of them in one go, once per layer"
    assert max(tokens) == 3 * min(tokens)


# Mask


@pytest.mark.parametrize("size", [(128, 128), (192, 96), (128, 256)], ids=str)
@pytest.mark.parametrize("mask", ["Inside", "Outside"])
def test_in_the_first_layer_of_the_first_call_nothing_outside_changes(job, model, monkeypatch, mask, size):
    """Behind it the convolutions carry the change on; within a layer the tokens outside keep their bits."""
    from nag_core.hosts.patcher import unet

    width, height = size
    seen = {}
    original = unet.guide

    def record(session, pos, layer, rows, size, *more, **named):
        before = pos.clone()
        after = original(session, pos, layer, rows, size, *more, **named)
        if layer.key not in seen:
            seen[layer.key] = ((before != after).any(-1)[-1], size, pos.shape[1])
        return after

    monkeypatch.setattr(unet, "guide", record)
    white = "left" if mask == "Inside" else "right"
    given = {**ON, "mask": mask, "mask_image": png(half(width, height, white)), "mask_feather": 0}
    job([given], width=width, height=height)
    assert len(seen) == 7
    for changed, (rows, columns), tokens in seen.values():
        side = 2 ** round(math.log2(rows * columns / tokens) / 2)
        grid = changed.view(-(-rows // side), -(-columns // side))
        centre = columns / 2 / side
        assert grid[:, : int(centre)].all(), "inside, every token is guided"
        assert not grid[:, -(-columns // 2 // side) :].any(), "outside, none"


def test_a_mask_of_everything_equals_none_and_one_of_nothing_stands_aside(pixels, text):
    white, black = png(Image.new("L", (8, 8), 255)), png(Image.new("L", (8, 8), 0))
    assert pixels({**ON, "mask": "Inside", "mask_image": white}) == pixels(ON)
    assert pixels({**ON, "mask": "Outside", "mask_image": black}) == pixels(ON)
    assert pixels({**ON, "mask": "Inside", "mask_image": black}) == pixels()
    assert "not applied: the mask leaves nothing inside" in text({"mask": "Inside", "mask_image": black})


def test_without_any_mask_it_stands_aside(text):
    assert "not applied: there is no mask" in text({"mask": "Inside"})


@pytest.mark.parametrize("junk", ["", "x", "data:image/png;base64,AAAA", "é", "A" * 5000], ids=len)
def test_a_mask_image_that_is_none_is_said_and_costs_nothing(pixels, text, junk):
    found = text({"mask": "Inside", "mask_image": junk})
    assert "not applied: there is no mask" in found
    assert ("mask image ignored" in found) == bool(junk)
    assert "NAG mask image" not in found
    assert pixels({**ON, "mask": "Inside", "mask_image": junk}) == pixels()


def test_the_recorded_mask_draws_the_same_picture_again(job, pixels):
    import re

    big = png(half(640, 640).resize((640, 480)))
    _, processed = job([{**ON, "mask": "Inside", "mask_image": big}])
    recorded = re.search(r"NAG mask image: ([^,\n]+)", processed.infotexts[0])[1]
    assert len(recorded) < 2000
    assert pixels({**ON, "mask": "Inside", "mask_image": recorded}) == processed.images[0].tobytes()


def test_both_passes_of_a_hires_job_are_masked(text):
    found = text(
        {"mask": "Inside", "mask_image": png(half())}, enable_hr=True, hr_scale=1.5, denoising_strength=0.5,
        hr_cfg=1,
    )  # fmt: skip
    assert "first pass: 7 layers × 4/4 steps" in found
    assert "hires pass: 7 layers" in found


def test_a_dropped_mask_becomes_text_and_an_emptied_one_none(script, pixels):
    from tests.contract.test_settings_and_routes import Page

    read = Page(script).event("mask_upload", "change")
    assert read(None) == ""
    dropped = half().convert("RGBA")
    dropped.putalpha(half())  # what was erased counts as black
    made = pixels({**ON, "mask": "Inside", "mask_image": read(dropped)})
    assert made == pixels({**ON, "mask": "Inside", "mask_image": png(half())})


@pytest.fixture
def inpaint(host, script):
    """`inpaint(nag, mask)`: one img2img with that inpaint mask, its picture and infotext."""
    from contextlib import closing

    from modules.processing import StableDiffusionProcessingImg2Img, process_images

    runner = host.scripts.scripts_img2img
    (own,) = [s for s in runner.alwayson_scripts if s.title() == "NAG"]

    def run(nag, mask):
        p = StableDiffusionProcessingImg2Img(
            init_images=[Image.new("RGB", (64, 64), "gray")], mask=mask, inpaint_full_res=False,
            inpainting_fill=1, mask_blur=0, prompt="a circle", negative_prompt="red", seed=1, steps=4,
            width=64, height=64, cfg_scale=1, sampler_name="Euler", do_not_save_grid=True,
            denoising_strength=1.0,
        )  # fmt: skip
        with closing(p):
            p.scripts = runner
            values = [0, *(control.value for control in runner.inputs[1:])]
            values[own.args_from] = nag
            p.script_args = tuple(values)
            processed = process_images(p)
        return processed.images[0].tobytes(), processed.infotexts[0]

    return run


def test_the_inpaint_mask_is_taken_where_no_image_is_given(inpaint):
    masked, text = inpaint({**ON, "mask": "Inside", "mask_feather": 0}, half())
    assert "7 layers × 4/4 steps" in text
    same, _ = inpaint({**ON, "mask": "Inside", "mask_feather": 0, "mask_image": png(half())}, half())
    assert masked == same
    everywhere, _ = inpaint(ON, half())
    assert masked != everywhere
    _, none = inpaint({**ON, "mask": "Inside"}, None)
    assert "not applied: there is no mask" in none


# Heat map


def test_the_heat_maps_stand_beside_the_pictures_and_change_none_of_them(job):
    _, plain = job([ON], batch_size=2, n_iter=2)
    _, heated = job([{**ON, "heat_map": True}], batch_size=2, n_iter=2)
    assert [image.tobytes() for image in heated.images] == [image.tobytes() for image in plain.images]
    assert len(heated.infotexts) == 4
    maps = heated.extra_images
    assert all(image.size == heated.images[0].size for image in maps)
    assert len({image.tobytes() for image in maps}) == 4
    for one, own in zip(maps, heated.infotexts, strict=True):
        assert one.info["parameters"].startswith(own)
        assert "NAG heat map of: " in one.info["parameters"]


def test_the_heat_map_is_dark_where_the_mask_keeps_nag_out(job):
    _, processed = job(
        [{**ON, "heat_map": True, "mask": "Inside", "mask_image": png(half()), "mask_feather": 0}]
    )
    picture = torch.frombuffer(bytearray(processed.extra_images[0].tobytes()), dtype=torch.uint8)
    picture = picture.view(128, 128, 3).float()
    chroma = picture.max(-1).values - picture.min(-1).values
    assert chroma[:, :64].mean() > 20
    assert chroma[:, 72:].max() == 0


@pytest.mark.parametrize(
    "nag", [None, {**ON, "enabled": False, "heat_map": True}, {"scale": 0, "heat_map": True}], ids=str
)
def test_no_heat_map_where_nag_did_nothing(job, nag):
    _, processed = job([] if nag is None else [nag])
    assert len(processed.images) == 1
    assert processed.extra_images == []


# Every way in and out


ADVANCED = {
    "curve": "0:4, 1:2", "blocks": "middle output", "negatives": "red :: 2\nblue", "mask": "Outside",
    "mask_feather": 8, "heat_map": True,
}  # fmt: skip


def test_off_leaves_no_trace(job, text):
    assert not any(f"NAG {word}" in text({}) for word in ("curve", "blocks", "negatives", "mask", "heat"))


def test_the_infotext_draws_the_same_job_again(job, script):
    from nag_core.settings.parse import FIELDS
    from nag_core.webui import infotext

    given = {**ON, **ADVANCED, "mask_image": png(half())}
    p, processed = job([given])
    back = {field.name: infotext.READERS[field.name](p.extra_generation_params) for field in FIELDS}
    assert {name: back[name] for name in ADVANCED} == {**ADVANCED, "mask_feather": 8.0}
    _, again = job([back])
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in processed.images]
    maps = [[image.tobytes() for image in one.extra_images] for one in (again, processed)]
    assert maps[0] == maps[1]
    assert len(maps[0]) == 1


def test_positional_arguments_behind_the_overrides_are_the_same_job(job):
    from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT

    given = {**ON, "preset": "Custom", **ADVANCED, "mask_image": png(half())}
    slots = [given.get(field.name, field.default) for field in FIELDS]
    slots.insert(OVERRIDES_SLOT, "")
    _, positional = job(slots)
    _, named = job([given])
    assert [image.tobytes() for image in positional.images] == [image.tobytes() for image in named.images]


def test_a_preset_keeps_them_but_for_texts_of_this_job(tmp_path):
    from nag_core.settings.user_presets import Store

    store = Store(tmp_path / "presets.json")
    store.save("mine", {"scale": 4, "tau": 2.5, "alpha": 0.5, **ADVANCED, "mask_image": "AAAA"})
    kept = store.load()["mine"]
    assert "negatives" not in kept
    assert "mask_image" not in kept
    assert {name: kept[name] for name in ADVANCED if name != "negatives"} == {
        name: value for name, value in ADVANCED.items() if name != "negatives"
    }


# What it does to pictures


@pytest.mark.slow
def test_the_mask_suppresses_the_attribute_inside_and_not_outside(job):
    """The colour of the shape, which stands in the middle, by the exact decoder.

    Of the 32 pictures 59 % were red without NAG, 3 % guided everywhere, 3 % guided inside the disc and 59 %
    guided outside of it.
    """
    from nag_core.evaluate.toy.gallery import disc
    from nag_core.sandbox.model.decoder import decode

    mask = {"mask_image": png(disc()), "mask_feather": 0}

    def red(nag):
        _, processed = job([{**ON, **nag}], width=256, height=256, batch_size=32, seed=1000)
        pixels = [torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in processed.images]
        pictures = torch.stack(pixels).view(-1, 256, 256, 3)[:, 4::8, 4::8].permute(0, 3, 1, 2)
        return float(decode(pictures.float() / 127.5 - 1).attributes.has("red").float().mean())

    off, everywhere = red({"enabled": False}), red({})
    inside, outside = red({"mask": "Inside", **mask}), red({"mask": "Outside", **mask})
    assert everywhere < off - 0.2
    assert inside < off - 0.2
    assert abs(inside - everywhere) < 0.15
    assert abs(outside - off) < 0.15


# What is asked for in vain is said


def test_a_mask_image_without_a_mask_is_said_to_be_ignored(pixels, text):
    given = {**ON, "mask_image": png(half())}
    assert "mask image ignored: Mask is Off" in text(given)
    assert pixels(given) == pixels(ON)


def test_a_negative_beside_several_is_said_not_to_be_used(text):
    assert "the NAG negative is not used beside several" in text({"negative": "blue", "negatives": "red"})


def test_a_hires_scale_beside_points_is_said_to_have_no_effect(text):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1}
    found = text({"curve": "0:4", "hires_scale": 10}, **hires)
    assert "hires scale has no effect: the curve's points are used" in found
    assert "φ 10" not in found


def test_a_curve_that_is_zero_in_the_windows_steps_is_named_as_the_reason(text):
    found = text({"curve": "0:0, 1:4", "end": 0.25})
    assert "not applied: the strength over the steps is 0 in every step of the window" in found


def test_a_video_of_many_frames_has_one_negative(text, monkeypatch):
    """Neo's batch size is then the number of frames, and so is the number of negatives it makes."""
    from nag_core.hosts.patcher.forge import Forge
    from nag_core.webui import negative_text

    monkeypatch.setattr(negative_text, "_main_negatives", lambda p, hires: ["red"] * 13)
    assert "not applied: 13 negatives for 1 images" in text({})
    monkeypatch.setattr(Forge, "samples_one", lambda self, sd_model: True)
    for nag in ({}, {"negative": "blue"}, {"negatives": "red\nblue"}):
        assert "7 layers × 4/4 steps" in text(nag)


def test_a_heat_map_of_a_pass_that_was_not_guided_is_none(job, monkeypatch):
    from nag_core.passes.session import Session

    monkeypatch.setattr(Session, "count", lambda *_, **__: None)  # as where every call had to be made again
    _, processed = job([{**ON, "heat_map": True}])
    assert len(processed.images) == 1
