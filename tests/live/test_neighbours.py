"""Beside what users run with it: other guidance scripts, LoRA, inpainting, batches of batches."""

import base64
import io
import re

import pytest
from PIL import Image, ImageDraw

from tests.live.client import ON


def script_of(webui, prefix):
    """(is it in img2img only, title) of the script whose title begins so; None where there is none."""
    listed = webui.http.get("/sdapi/v1/script-info").json()
    found = [(s["is_img2img"], s["name"]) for s in listed if s["name"].startswith(prefix)]
    return min(found, default=None)


# How the title begins on every host, and arguments strong enough to show in a picture of random weights.
NEIGHBOURS = {
    "FreeU": ("freeu integrated", [True]),
    "PAG": ("perturbedattentionguidance", [True, 100.0]),
    "SAG": ("selfattentionguidance", [True, 5.0, 10.0, 0.0]),
    "Kohya HRFix": ("kohya hrfix", [True]),
    "HyperTile": ("hypertile integrated", [True]),
    "MultiDiffusion": ("multidiffusion integrated", [True, "MultiDiffusion", 64, 64, 32, 4]),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_beside_another_guidance_script(webui, name):
    """NAG acts in every layer and step, scale 0 gives the neighbour's own picture, both have an effect."""
    prefix, args = NEIGHBOURS[name]
    found = script_of(webui, prefix)
    if found is None:
        pytest.skip(f"this WebUI has no {name}")
    is_img2img, title = found
    job = {"cfg_scale": 7, "width": 128, "height": 128}
    if is_img2img:  # Neo's MultiDiffusion
        picture = webui.txt2img(width=128, height=128).pngs[0]
        job |= {
            "route": "img2img", "init_images": [base64.b64encode(picture).decode()],
            "denoising_strength": 0.7, "steps": 6,
        }  # fmt: skip

    def draw(nag, neighbour=True):
        scripts = {title: {"args": args}} if neighbour else {}
        return webui.txt2img(**job, alwayson_scripts=scripts | {"NAG": {"args": nag}})

    both, alone, neutral = draw(ON), draw([False]), draw([{"scale": 0}])
    assert neutral.pixels == alone.pixels
    if alone.pixels == draw([False], neighbour=False).pixels:
        pytest.skip(f"{name} has no effect on this checkpoint, so nothing can be seen of the two together")
    assert both.pixels != alone.pixels
    assert both.pixels != draw(ON, neighbour=False).pixels
    # In img2img the host decides how many of the steps are sampled.
    assert re.search(r"× (\d+)/\1 steps" if is_img2img else "4/4 steps", both.report())
    assert "unguided" not in both.report()


def test_a_lora_reaches_the_negatives_keys_and_leaves_with_its_tag(webui, request):
    """Keys made before the LoRA was applied are a known bug elsewhere."""
    lora = request.config.getoption("--lora")
    if not lora:
        pytest.skip("needs --lora, the name of a LoRA that changes the cross-attention's keys")
    plain = webui.txt2img(ON)
    tagged = webui.txt2img(ON, prompt=f"a circle <lora:{lora}:1>")
    without_nag = webui.txt2img(prompt=f"a circle <lora:{lora}:1>")
    assert len({tagged.pixels[0], plain.pixels[0], without_nag.pixels[0]}) == 3
    assert "4/4 steps" in tagged.report()
    assert webui.txt2img(ON).pngs == plain.pngs
    first_thing_after = webui.txt2img(ON, prompt=f"a circle <lora:{lora}:1>")
    assert first_thing_after.pixels == tagged.pixels


@pytest.mark.parametrize("cfg", [1, 7])
def test_beside_a_controlnet(webui, request, cfg):
    """The hosts' own ControlNet, whose picture at scale 0 it still is."""
    name = request.config.getoption("--controlnet")
    if not name:
        pytest.skip("needs --controlnet, the name of a ControlNet model for the checkpoint")
    models = webui.http.get("/controlnet/model_list").json()["model_list"]
    model = next(model for model in models if model.split(" [")[0] == name)
    hint = Image.new("RGB", (128, 128), "black")
    ImageDraw.Draw(hint).ellipse((32, 32, 96, 96), outline="white", width=6)

    def draw(nag, weight=1.0):
        unit = {"enabled": True, "module": "None", "model": model, "image": encoded(hint), "weight": weight}
        scripts = {"ControlNet": {"args": [unit] if weight else []}, "NAG": {"args": nag}}
        return webui.txt2img(cfg_scale=cfg, width=128, height=128, alwayson_scripts=scripts)

    both, alone, nag, plain = draw(ON), draw([False]), draw(ON, weight=0), draw([False], weight=0)
    pictures = [result.pixels[0] for result in (both, alone, nag, plain)]
    assert len(set(pictures)) == 4
    assert draw([{"scale": 0}]).pixels[0] == alone.pixels[0]
    assert "4/4 steps" in both.report()
    assert "unguided" not in both.report()
    assert both.report().partition(" layers")[0] == nag.report().partition(" layers")[0]


def test_inpainting_guides_inside_the_mask_and_keeps_the_rest(webui):
    picture = webui.txt2img()
    image = Image.open(io.BytesIO(picture.pngs[0])).convert("RGB")
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, image.width // 2 - 1, image.height), fill=255)
    job = {
        "init_images": [base64.b64encode(picture.pngs[0]).decode()], "mask": encoded(mask), "mask_blur": 0,
        "steps": 8, "denoising_strength": 0.75, "inpainting_fill": 1, "inpaint_full_res": False,
        "route": "img2img",
    }  # fmt: skip
    off, on = webui.txt2img(**job), webui.txt2img(ON, **job)
    left, right = (0, 0, 16, image.height), (image.width - 16, 0, image.width, image.height)
    crops = [
        [Image.open(io.BytesIO(r.pngs[0])).convert("RGB").crop(box) for r in (off, on)]
        for box in (left, right)
    ]
    assert crops[0][0].tobytes() != crops[0][1].tobytes()
    assert crops[1][0].tobytes() == crops[1][1].tobytes()
    assert re.search(r"× (\d+)/\1 steps", on.report()), "of layers or of blocks"


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_batch_count_times_batch_size(webui):
    result = webui.txt2img(ON, batch_size=2, n_iter=2)
    plain = webui.txt2img(batch_size=2, n_iter=2)
    assert len(result.pngs) >= 4
    assert all(a != b for a, b in zip(result.pixels[-4:], plain.pixels[-4:], strict=True))
    assert all("4/4 steps" in result.report(index) for index in range(-4, 0))
    assert len(set(result.pixels[-4:])) == 4
