"""A mask picture is read as the host reads the `mask` of an inpaint job, whatever kind of picture it is."""

import base64
import io
from contextlib import closing

import gradio as gr
import pytest
from PIL import Image

from nag_core.webui import mask_image

ON = {"enabled": True, "scale": 4, "alpha": 0.5, "mask": "Inside", "mask_feather": 0}
ROTATED = 6  # of EXIF: turned by a quarter


def shape():
    """White in the upper left quarter: every turn shows."""
    picture = Image.new("L", (64, 64), 0)
    picture.paste(255, (0, 0, 32, 32))
    return picture


def with_alpha(ground, soft=False):
    picture = ground.convert("RGBA")
    picture.putalpha(shape().point(lambda value: 200 if value else 90) if soft else shape())
    return picture


def turned(kind):
    picture = shape()
    picture.getexif()[274] = ROTATED
    return picture, {"format": kind, "exif": picture.getexif(), "quality": 100}


def palette(transparent):
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.paste(1, (0, 0, 32, 32))
    return picture, {"transparency": bytes([0, 255])} if transparent else {}


def deep():
    """16 bit, of which an 8-bit reader may take the upper or the lower half."""
    picture = Image.new("I;16", (64, 64), 0)
    for y in range(32):
        for x in range(32):
            picture.putpixel((x, y), 65535)
    return picture


KINDS = {
    "gray": lambda: (shape(), {}),
    "alpha over white": lambda: (with_alpha(Image.new("L", (64, 64), 255)), {}),
    "alpha over black": lambda: (with_alpha(Image.new("L", (64, 64), 0)), {}),
    "soft alpha": lambda: (with_alpha(Image.new("L", (64, 64), 0), soft=True), {}),
    "opaque colours": lambda: (shape().convert("RGBA"), {}),
    "gray with alpha": lambda: (Image.merge("LA", (shape(), Image.new("L", (64, 64), 128))), {}),
    "turned JPEG": lambda: turned("JPEG"),
    "turned PNG": lambda: turned("PNG"),
    "palette": lambda: palette(False),
    "palette with transparency": lambda: palette(True),
    "one bit": lambda: (shape().convert("1"), {}),
    "16 bit": lambda: (deep(), {}),
    "WebP": lambda: (with_alpha(Image.new("L", (64, 64), 0)), {"format": "WEBP", "lossless": True}),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def file(request):
    """The bytes of a picture file."""
    picture, options = KINDS[request.param]()
    with io.BytesIO() as buffer:
        picture.save(buffer, **{"format": "PNG", **options})
        return buffer.getvalue()


def text(file, form="base64"):
    encoded = base64.b64encode(file).decode()
    if form == "base64 in lines":
        return "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
    return f"data:image/png;base64,{encoded}" if form == "data URI" else encoded


@pytest.fixture
def own(host, file):
    """The picture as the host reads it for a mask."""
    return host.processing.create_binary_mask(host.images.decode_base64(text(file)))


@pytest.mark.parametrize("form", ["base64", "base64 in lines", "data URI"])
def test_it_reads_as_the_hosts_own_mask(own, file, form):
    found = mask_image.decoded(text(file, form))
    assert (found.mode, found.size) == ("L", own.size)
    assert found.tobytes() == own.tobytes()
    assert found.getbbox() is not None, "or nothing is tried"


def test_so_does_one_that_is_dropped_into_the_page(own, file, script, tmp_path):
    from tests.contract.test_settings_and_routes import Page

    path = tmp_path / "mask.png"
    path.write_bytes(file)
    page = Page(script)
    upload = page.control("mask_upload")
    picture = upload.preprocess(upload.data_model(path=str(path), orig_name=path.name))
    assert isinstance(upload, gr.Image)
    dropped = mask_image.decoded(page.event("mask_upload", "change")(picture))
    assert dropped.tobytes() == own.tobytes()


def test_a_host_that_opens_pictures_as_they_are_is_followed(host, file, monkeypatch):
    """Forge Classic has no reader of its own, and its API turns no picture."""
    monkeypatch.delattr(host.images, "read")
    plain = host.processing.create_binary_mask(Image.open(io.BytesIO(file)))
    assert mask_image.decoded(text(file)).tobytes() == plain.tobytes()


@pytest.fixture
def inpaint(host):
    """`inpaint(nag, mask)`: the picture of one img2img, as the API makes it of a mask in base64."""
    from modules.processing import StableDiffusionProcessingImg2Img, process_images

    runner = host.scripts.scripts_img2img
    (ours,) = [s for s in runner.alwayson_scripts if s.title() == "NAG"]

    def run(nag, mask):
        p = StableDiffusionProcessingImg2Img(
            init_images=[Image.new("RGB", (64, 64), "gray")], mask=host.images.decode_base64(mask),
            inpaint_full_res=False, inpainting_fill=1, mask_blur=0, prompt="a circle", negative_prompt="red",
            seed=1, steps=3, width=64, height=64, cfg_scale=1, sampler_name="Euler", do_not_save_grid=True,
            denoising_strength=1.0,
        )  # fmt: skip
        with closing(p):
            p.scripts = runner
            values = [0, *(control.value for control in runner.inputs[1:])]
            values[ours.args_from] = nag
            p.script_args = tuple(values)
            processed = process_images(p)
        return processed.images[0].tobytes(), processed.infotexts[0]

    return run


def test_the_picture_drawn_under_it_is_that_of_the_inpaint_mask(inpaint, file):
    own_mask, report = inpaint(ON, text(file))
    given, _ = inpaint({**ON, "mask_image": text(file)}, text(file))
    assert "7 layers" in report
    assert given == own_mask
