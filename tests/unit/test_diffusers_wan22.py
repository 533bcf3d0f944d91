"""`nag_core.applied` on Wan 2.2: two experts, image to video without an image encoder, a time for each
token.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import nag_core
from nag_core.hosts.diffusers.families import family_of
from tests import diffusers_pipelines as pipelines
from tests.diffusers_models import CASES
from tests.diffusers_pipelines import draw
from tests.diffusers_reference import Cross
from tests.extras import needs_pipelines
from tests.unit.test_diffusers_models import state
from tests.unit.test_diffusers_pipelines import apart

pytestmark = needs_pipelines

STRENGTH = (4.0, 2.5, 0.5)
STEPS = 5
SETTINGS = dict(zip(("scale", "tau", "alpha"), STRENGTH, strict=True))


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def experts(channels):
    """Two models with other weights, in double precision."""
    made = []
    for factor in (1.0, 1.1):
        case = type(CASES["wan"])()
        build, case.text = case.build, 24
        case.build = lambda build=build: build(in_channels=channels)
        model = case.model(torch.float64)
        for parameter in model.parameters():
            parameter.data.mul_(factor)
        made.append(model)
    return made


def text_to_video():
    from diffusers import WanPipeline

    one, other = experts(4)
    return WanPipeline(**{**parts(), "transformer": one, "transformer_2": other}, boundary_ratio=0.9), {}


def image_to_video():
    from diffusers import WanImageToVideoPipeline

    one, other = experts(12)  # latents, the image's, and a mask of four frames
    without = {"image_encoder": None, "image_processor": None}
    made = {**parts(), **without, "transformer": one, "transformer_2": other}
    pipe = WanImageToVideoPipeline(**made, boundary_ratio=0.9)
    pixels = np.random.RandomState(1).randint(0, 255, (16, 16, 3), np.uint8)
    return pipe, {"image": Image.fromarray(pixels)}


def a_time_for_each_token():
    """As the 5B model has it."""
    from diffusers import WanPipeline

    return WanPipeline(**{**parts(), "transformer": experts(4)[0]}, expand_timesteps=True), {}


def low_noise_alone():
    from diffusers import WanPipeline

    made = {**parts(), "transformer": None, "transformer_2": experts(4)[1]}
    return WanPipeline(**made, boundary_ratio=2.0), {}


def parts():
    made = pipelines.pipeline("wan").components
    return {name: made[name] for name in ("tokenizer", "text_encoder", "vae", "scheduler")}


KINDS = [text_to_video, image_to_video, a_time_for_each_token, low_noise_alone]


def models(pipe):
    return [one for one in (pipe.transformer, pipe.transformer_2) if one is not None]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_video_is_the_literal_references(kind):
    pipe, given = kind()
    pipe.set_progress_bar_config(disable=True)
    plain, before = draw("wan", pipe, steps=STEPS, **given), list(map(state, models(pipe)))
    with nag_core.applied(pipe, "blue dog", **SETTINGS) as nag:
        found = draw("wan", pipe, steps=STEPS, **given)
    layers = sum(len(family_of(model).layers(model)) for model in models(pipe))
    assert nag.report.startswith(f"{layers} layers × {STEPS}/{STEPS} steps")
    assert (nag.complete, nag.reports[0].problems) == (True, ())
    assert list(map(state, models(pipe))) == before
    assert torch.equal(draw("wan", pipe, steps=STEPS, **given), plain)
    asked = {"do_classifier_free_guidance": False, "device": "cpu", "max_sequence_length": 512}
    negative, _ = pipe.encode_prompt("blue dog", **asked)
    for model in models(pipe):
        embedded = family_of(model).embed(model, negative.double())
        for name, module in model.named_modules():
            if name.endswith(".attn2"):
                module.processor = Cross([(embedded, None, 1.0)], 0, STRENGTH)
    wanted = draw("wan", pipe, steps=STEPS, **given)
    assert apart(found, wanted) < 1e-10
    assert apart(found, plain) > 3e-4
