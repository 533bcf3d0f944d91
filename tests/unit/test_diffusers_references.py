"""`nag_core.applied` on pipelines that take reference images."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

import nag_core
from nag_core.hosts.diffusers.network import Network
from nag_core.hosts.diffusers.places import by_ids, by_shapes
from nag_core.method.joint import NotGuided
from tests import diffusers_pipelines as pipelines
from tests.diffusers_models import BATCH, CASES
from tests.diffusers_pipelines import draw
from tests.extras import needs_pipelines
from tests.unit.test_diffusers_models import Given, entries_of, guided, texts
from tests.unit.test_diffusers_pipelines import GIVEN, apart, touched

pytestmark = needs_pipelines
EDITING = list(pipelines.EDITING)
_made = {}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def photo(seed, width=32, height=32):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (height, width, 3), np.uint8))


@pytest.fixture
def pipe(request, monkeypatch):
    """Built once; its reference images stay small."""
    name = request.param
    if name not in _made:
        _made[name] = pipelines.pipeline(name)
    space = inspect.unwrap(type(_made[name]).__call__).__globals__
    if (original := space.get("calculate_dimensions")) is not None:
        monkeypatch.setitem(space, "calculate_dimensions", lambda *given: (32, 16, *original(*given)[2:]))
    return _made[name]


def on(*names):
    return pytest.mark.parametrize(("name", "pipe"), [(n, n) for n in names or EDITING], indirect=["pipe"])


# References are half as large as the picture; those of Klein, which takes no small ones, four times.
SHARE = {"kontext": 67, "qwen-edit": 67, "qwen-edit-plus": 50, "klein-edit": 11}
TWO_IMAGES = ("qwen-edit-plus", "klein-edit")


def edited(name, pipe, seed=1, **more):
    images = [photo(seed, *((64, 64) if name == "klein-edit" else (32, 16)))] * (
        2 if name in TWO_IMAGES else 1
    )
    if name == "kontext":
        more |= {"max_area": pipelines.SIZE**2, "_auto_resize": False}
    return draw(name, pipe, image=images if len(images) > 1 else images[0], **more)


@pytest.mark.parametrize("cfg", [False, True], ids=["no CFG", "CFG"])
@on()
def test_the_target_is_guided_and_its_share_is_said(name, pipe, cfg):
    plain, before = edited(name, pipe, cfg=cfg), touched(pipe)
    with nag_core.applied(pipe, "blue", **GIVEN) as nag:
        blue = edited(name, pipe, cfg=cfg)
    assert "× 2/2 steps" in nag.report
    assert f", {SHARE[name]} % of the image tokens (the rest are reference images)" in nag.report
    assert (nag.complete, nag.reports[0].problems) == (True, ())
    with nag_core.applied(pipe, "dark dog", **GIVEN):
        dark = edited(name, pipe, cfg=cfg)
    assert touched(pipe) == before
    assert torch.equal(edited(name, pipe, cfg=cfg), plain)
    assert apart(edited(name, pipe, seed=5, cfg=cfg), plain) > 1e-4, "the reference is seen"
    for one, other in ((blue, plain), (dark, plain), (blue, dark)):
        assert torch.isfinite(one).all()
        assert apart(one, other) > 3e-4


@on()
def test_several_negatives_beside_reference_images(name, pipe):
    """Each text is encoded together with the images."""

    def drawn(negative, **settings):
        with nag_core.applied(pipe, negative, scale=4, **settings) as nag:
            return edited(name, pipe), nag.report

    blue, _ = drawn("blue")
    both, report = drawn("", negatives="blue\nlarge dark dog :: 3")
    assert "2 negatives of " in report
    assert apart(both, blue) > 1e-4
    twice, _ = drawn("", negatives="blue\nblue")
    assert apart(twice, blue) < 1e-4, "but for rounding"


@on("kontext")
def test_without_a_reference_all_of_the_image_is_guided(name, pipe):
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        draw(name, pipe, max_area=pipelines.SIZE**2)
    assert "2/2 steps" in nag.report
    assert "reference" not in nag.report


@on("kontext")
def test_an_arrangement_that_nobody_knows_is_left_alone_and_named(name, pipe):
    """Here references that are numbered as the picture is, in the middle of it."""

    def shuffled(_model, _args, kwargs):
        ids = kwargs["img_ids"].clone()
        ids[::2, 0], ids[1::2, 0] = 1, 0
        return (), {**kwargs, "img_ids": ids}

    handle = pipe.transformer.register_forward_pre_hook(shuffled, with_kwargs=True)
    try:
        plain = edited(name, pipe)
        with nag_core.applied(pipe, "blue", scale=4) as nag:
            found = edited(name, pipe)
    finally:
        handle.remove()
    assert torch.equal(found, plain)
    assert nag.report.startswith("not applied: ")
    assert nag.report.endswith("the image tokens are arranged in a way that NAG does not know")


def ids(*first):
    return torch.tensor([[one, 0, 0] for one in first])


@pytest.mark.parametrize(
    ("first", "place"),
    [((0, 0, 0), (0, 0)), ((0, 0, 1), (0, 1)), ((10, 20, 0), (2, 0)), ((1, 0, 2), (1, 1))],
    ids=str,
)
def test_where_the_picture_is_by_its_positions(first, place):
    assert by_ids(None, {"img_ids": ids(*first)}, 3) == place
    assert by_ids(None, {"img_ids": ids(*first)[None].repeat(2, 1, 1)}, 3) == place


@pytest.mark.parametrize("first", [(1, 1, 2), (0, 1, 0), (0, 0)], ids=str)
def test_other_positions_are_unknown(first):
    with pytest.raises(NotGuided, match="in a way that NAG does not know"):
        by_ids(None, {"img_ids": ids(*first)}, 3)


def test_shapes_that_are_not_those_of_the_tokens_are_unknown():
    model = CASES["qwen-edit"].model(torch.float32)
    assert by_shapes(model, {"img_shapes": [[(1, 2, 3), (1, 1, 2)]]}, 8) == (0, 2)
    assert by_shapes(model, {"img_shapes": [(1, 2, 3)]}, 6) == (0, 0)
    with pytest.raises(NotGuided, match="in a way that NAG does not know"):
        by_shapes(model, {"img_shapes": [[(1, 2, 3), (1, 1, 2)]]}, 6)


@pytest.mark.parametrize("name", ["kontext", "qwen-edit"])
def test_the_references_own_answers_depend_on_the_negative_by_the_picture_alone(name):
    """In the first block their attention is the plain model's: the picture has not changed yet."""
    case = CASES[name]
    model = case.model(torch.float32)
    context, mask, negative, neg_mask = texts(case, torch.float32)
    seen = []
    block = model.transformer_blocks[0]
    handle = block.register_forward_hook(lambda _module, _args, out: seen.append(out[1]))
    case.call(model, BATCH, context, mask)
    source = Given(entries_of(model, negative, neg_mask))
    source.session.may_merge = False  # merged parts round differently
    guided(case, model, source, context, mask)
    handle.remove()
    assert source.failures == source.session.problems == []
    assert source.session.picture == (case.target, case.image)
    plain, found = seen
    assert torch.equal(found[:, case.target :], plain[:, case.target :])
    assert apart(found[2:, : case.target], plain[2:, : case.target]) > 1e-3


def test_a_pipeline_that_keeps_the_references_keys_is_left_alone_and_named():
    """Flux2KleinKVPipeline attends to references in another way in its first step."""
    import diffusers

    if not hasattr(diffusers, "Flux2KleinKVPipeline"):
        pytest.skip(f"diffusers {diffusers.__version__} has no Flux2KleinKVPipeline")
    pipe = pipelines.klein("Flux2KleinKVPipeline")

    def drawn():
        return pipe(
            prompt="a red circle", image=photo(1, 64, 64), height=32, width=32, num_inference_steps=2,
            generator=torch.Generator().manual_seed(3), output_type="latent", **pipelines.CALL["klein"],
        ).images  # fmt: skip

    plain = drawn()
    with nag_core.applied(pipe, "blue", scale=4) as nag:
        found = drawn()
    assert torch.equal(found, plain)
    assert nag.report.startswith("not applied: ")
    assert nag.report.endswith(
        "keys of the reference images are kept over the steps, which NAG cannot take part in"
    )


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("controlnet_block_samples", "a ControlNet adds to text and image alike"),
        ("siglip_feats", "in a way that NAG does not know"),
    ],
)
def test_what_would_not_fit_z_images_longer_sequence_leaves_it_alone(argument, reason):
    case = CASES["z-image"]
    model = case.model(torch.float32)
    if argument not in inspect.signature(type(model).forward).parameters:
        pytest.skip(f"this diffusers has no {argument}")
    context, mask, negative, neg_mask = texts(case, torch.float32)
    plain = case.call(model, BATCH, context, mask)
    original = model.forward

    def forward(x, t, cap_feats, **more):
        return original(x, t, cap_feats, **{name: one for name, one in more.items() if name != argument})

    model.forward = forward
    handle = model.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, {**kwargs, argument: {}}), with_kwargs=True, prepend=True
    )
    source = Given(entries_of(model, negative, neg_mask))
    assert torch.equal(guided(case, model, source, context, mask), plain)
    handle.remove()
    (said,) = source.failures
    assert reason in said


def test_images_of_different_sizes_leave_z_image_alone():
    case = CASES["z-image"]
    model = case.model(torch.float32)
    context, _, negative, _ = texts(case, torch.float32)
    images = [
        torch.randn(4, 1, 8, side, generator=torch.Generator().manual_seed(1)) for side in (8, 8, 8, 24)
    ]

    def call():
        return model(images, torch.full((BATCH,), 0.5), context, return_dict=False)[0]

    plain = call()
    source = Given(entries_of(model, negative, None))
    network = Network(model, source)
    found = call()
    network.remove()
    assert all(map(torch.equal, found, plain))
    (said,) = source.failures
    assert said == "the image tokens are arranged in a way that NAG does not know"
