"""The mask on every grid, and what it and a list of blocks leave untouched."""

import pytest
import torch

from nag_core.method.focus import EVERYWHERE, NOWHERE, Focus, focus_on
from nag_core.method.guidance import Method
from nag_core.method.heat import HeatMap, relative_change
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse_kernels import lse_kernel
from nag_core.method.region import Region, Spot, feathered, token_grid
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.passes import guiding
from tests import joint_models as models
from tests import reference
from tests.sessions import replan
from tests.unit import test_cross as cross
from tests.unit.test_joint import FAMILIES, call, described, entry, error, expected, inputs, normal, session

CPU = torch.device("cpu")
LEFT = torch.tensor([[1.0, 0.0]])


def rule():
    return Rule(4.0, 2.5, 0.5, Method.NAG, torch.zeros((), dtype=torch.int64))


def plain(q, k, v, mask):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


# Grids


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((64, 64), {4096: 1, 1024: 2, 256: 4, 64: 8}),
        ((97, 61), {97 * 61: 1, 49 * 31: 2, 25 * 16: 4, 13 * 8: 8}),
    ],
    ids=str,
)
def test_grids_of_odd_and_non_square_sizes_are_found(size, sides):
    for tokens, side in sides.items():
        assert token_grid(tokens, *size) == side
    assert token_grid(7, *size) is None


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (33, 17), (128, 96)], ids=str)
@pytest.mark.parametrize("side", [1, 2, 4])
def test_the_left_half_of_a_mask_is_the_left_half_of_every_grid(size, side):
    """Also where the mask is coarser or finer than the grid, and where a token lies across the edge."""
    rows, columns = (-(-length // side) for length in size)
    for mask in (LEFT, torch.cat([torch.ones(300, 150), torch.zeros(300, 150)], 1)):
        spot = Region(mask).on(size, side, CPU)
        weight = torch.zeros(rows * columns)
        weight[spot.index] = 1.0 if spot.weight is None else spot.weight[:, 0]
        weight = weight.view(rows, columns)
        centres = torch.arange(columns) * side
        assert (weight[:, centres + side <= size[1] / 2 - 1] == 1).all()
        assert (weight[:, centres >= size[1] / 2 + 1] == 0).all()


def test_a_grid_is_made_once_for_a_pass():
    region = Region(LEFT)
    assert region.on((8, 8), 2, CPU) is region.on((8, 8), 2, CPU)


def test_a_mask_of_nothing_is_no_spot_and_a_mask_of_everything_every_token():
    assert Region(torch.zeros(4, 4)).on((8, 8), 1, CPU) is None
    spot = Region(torch.ones(4, 4), feather=64).on((8, 8), 1, CPU)
    assert spot.weight is None
    assert len(spot.index) == 64


def test_the_feather_falls_off_inwards_and_never_reaches_outside():
    mask = torch.zeros(20, 20)
    mask[4:16, 4:16] = 1
    soft = feathered(mask, 3)
    assert torch.equal(soft[10, :10], torch.tensor([0, 0, 0, 0, 1, 2, 3, 3, 3, 3]) / 3)
    assert torch.equal(soft > 0, mask > 0)
    assert feathered(mask, 1) is mask
    edge = feathered(torch.ones(5, 5), 4)
    assert torch.equal(edge, torch.ones(5, 5)), "the picture's border is no edge of the mask"
    line = torch.zeros(9, 9)
    line[:, 4] = 1
    assert (feathered(line, 8)[:, 4] > 0).all(), "a mask narrower than its feather does not vanish"


def test_a_feather_is_in_pixels_of_the_picture():
    spot = Region(LEFT, feather=32).on((8, 8), 1, CPU)
    weights = torch.zeros(64).index_put((spot.index,), spot.weight[:, 0]).view(8, 8)
    expected = torch.tensor([4, 3, 2, 1, 0, 0, 0, 0]) / 4  # 32 pixels are 4 latent ones
    assert torch.equal(weights, expected.expand(8, 8))


def test_blending_finite_values_is_finite_and_exact_at_full_weight():
    pos, guided = torch.tensor([[[6e4]], [[1.7]]]).half(), torch.tensor([[[-6e4]], [[0.3]]]).half()
    half = Spot(torch.tensor([0]), torch.tensor([[0.5]])).blend(pos, guided)
    assert torch.equal(half, torch.tensor([[[0.0]], [[1.0]]]).half())
    assert Spot(torch.tensor([0]), None).blend(pos, guided) is guided
    assert torch.equal(Spot(torch.tensor([0]), torch.tensor([[1.0]])).blend(pos, guided), guided)


# In the layers


def masked_cross(region, size, used=None, **more):
    q, k, v = cross.tensors(2, tokens=size[0] * size[1])
    used = used or cross.session()
    replan(used, region=region)
    patched = cross.patch_attn2(
        {}, {cross.KEY: cross.Attention(q.dtype)},
        cross.Step(used, cross.Batch((cross.entry(),), **more), "weights", size),
    )  # fmt: skip
    replace = patched["transformer_options"]["patches_replace"]["attn2"][cross.KEY]
    out = replace(q, k, v, {"n_heads": cross.HEADS, "cond_or_uncond": [1, 0]})
    return out, cross.host_attention(q, k, v, {"n_heads": cross.HEADS}), (q, k, v)


@pytest.mark.parametrize("size", [(6, 10), (7, 5)], ids=str)
def test_cross_attention_outside_the_mask_keeps_its_bits_and_inside_is_guided(size):
    used = cross.session()
    found, untouched, (q, k, v) = masked_cross(Region(LEFT), size, used)
    guided = cross.run(q, k, v, [cross.entry()], [1, 0])
    spot = used.plan.region.on(size, 1, CPU)
    inside = torch.zeros(size[0] * size[1], dtype=torch.bool)
    inside[spot.index] = True
    whole = spot.index if spot.weight is None else spot.index[spot.weight[:, 0] == 1]
    assert 0 < len(whole) < len(inside)
    assert torch.equal(found[0], untouched[0])
    assert torch.equal(found[1, ~inside], untouched[1, ~inside])
    assert error(found[1, whole], guided[1, whole]) < 1e-6
    assert used.tokens == int(inside.sum()), "clipped tokens are counted of those that were guided"
    assert not torch.isclose(found[1, whole], untouched[1, whole]).all(dim=-1).any()


def test_a_feathered_token_is_mixed_by_its_weight():
    size = (6, 10)
    used = cross.session()
    found, untouched, (q, k, v) = masked_cross(Region(LEFT, feather=24), size, used)
    guided = cross.run(q, k, v, [cross.entry()], [1, 0])
    spot = used.plan.region.on(size, 1, CPU)
    assert torch.allclose(spot.weight.unique(), torch.tensor([1 / 3, 2 / 3, 1.0]))
    wanted = untouched[1, spot.index].lerp(guided[1, spot.index], spot.weight)
    assert error(found[1, spot.index], wanted) < 1e-6


def test_a_layer_that_fits_no_grid_and_a_tiled_one_stay_plain_and_are_said():
    for size, more, said in (((6, 9), {}, "does not fit"), ((5, 7), {"tiled": True}, "tiles and a mask")):
        used = cross.session()
        replan(used, region=Region(LEFT))
        focus = guiding._focus(used, 35 if more else 11, size, CPU, bool(more), None)
        assert not focus.guided
        assert said in used.problems[0]


def test_without_mask_and_heat_map_nothing_is_looked_up():
    assert focus_on(None, None, 7, (6, 9), CPU) is EVERYWHERE


def test_a_mask_of_the_host_and_ours_meet_without_a_wait_for_the_device(monkeypatch):
    """A list of a device's index stalled every block."""

    def fail(*_):
        raise AssertionError("waited for the device")

    layout = Layout(5, 7, 12)
    q, k, v = (normal(1, 2, layout.total, 16, seed=i, dtype=torch.float32) for i in range(3))
    rows = Arrangement([Group(slice(0, 1), (entry(5, 1),))], None)
    focus, mask = Focus(spot=Spot(torch.tensor([0, 3, 11]), None)), torch.zeros(1, 1, 24, 24)
    given = rule()
    for name in ("tolist", "item", "__bool__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    assert joint_attention(q, k, v, layout, rows, plain, None, given, mask, focus).shape == (1, 24, 32)


@pytest.mark.parametrize("image_first", [False, True])
def test_joint_attention_outside_the_mask_keeps_the_bits_of_an_attention_without_nag(image_first):
    layout = Layout(5, 7, 12, image_first)
    q, k, v = (normal(3, 2, layout.total, 16, seed=i, dtype=torch.float32) for i in range(3))
    rows = Arrangement([Group(slice(1, 3), (entry(5, 1), entry(5, 2)))], slice(0, 1))
    spot = Spot(torch.tensor([0, 3, 11]), None)
    found = joint_attention(q, k, v, layout, rows, plain, lse_kernel(q), rule(), focus=Focus(spot=spot))
    guided = joint_attention(q, k, v, layout, rows, plain, lse_kernel(q), rule())
    own = layout.unguided_part
    untouched = plain(*(x[:, :, own] for x in (q, k, v)), None)
    image = slice(0, 12) if image_first else slice(7, 19)
    outside = torch.ones(12, dtype=torch.bool)
    outside[spot.index] = False
    assert torch.equal(found[0, own], untouched[0])
    assert torch.equal(found[:, own][:, image][:, outside], untouched[:, image][:, outside])
    assert torch.equal(found[:, layout.pos_part], untouched[:, slice(12, 19) if image_first else slice(0, 7)])
    inside = found[1:, layout.image_part][:, spot.index]
    assert error(inside, guided[1:, layout.image_part][:, spot.index]) < 1e-5
    (neg,) = layout.neg_parts(rows.groups[0])
    assert error(found[1:, neg], guided[1:, neg]) < 1e-5, "the negative's own tokens go on as ever"


def test_an_attention_mask_and_a_spot_go_together():
    layout = Layout(5, 7, 12)
    q, k, v = (normal(1, 2, layout.total, 16, seed=i) for i in range(3))
    hidden = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    hidden[..., 3] = hidden[..., 20] = -torch.inf
    rows = Arrangement([Group(slice(0, 1), (entry(5, 1),))], None)
    spot = Spot(torch.tensor([1, 7]), None)
    guided = joint_attention(q, k, v, layout, rows, plain, None, rule(), hidden)
    found = joint_attention(q, k, v, layout, rows, plain, None, rule(), hidden, Focus(spot=spot))
    assert error(found[:, 12:][:, spot.index], guided[:, 12:][:, spot.index]) < 1e-13
    assert error(found[:, :12], guided[:, :12]) < 1e-13


def test_an_attention_mask_and_a_block_that_is_not_guided_go_together():
    layout = Layout(5, 7, 12)
    q, k, v = (normal(1, 2, layout.total, 16, seed=i) for i in range(3))
    hidden = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    hidden[..., 3] = hidden[..., 20] = -torch.inf
    rows = Arrangement([Group(slice(0, 1), (entry(5, 1),))], None)
    found = joint_attention(q, k, v, layout, rows, plain, None, rule(), hidden, NOWHERE)
    own = layout.unguided_part
    assert torch.equal(found[:, own], plain(*(x[:, :, own] for x in (q, k, v)), hidden[:, :, own, own]))
    guided = joint_attention(q, k, v, layout, rows, plain, None, rule(), hidden)
    assert error(found[:, :5], guided[:, :5]) < 1e-13


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_everything_is_no_mask_in_a_whole_model(family):
    kind, rule_of = FAMILIES[family]
    network, tensors = models.build(kind), inputs(2, 7)
    entries = [entry(5, 5), entry(5, 6)]
    used = session()
    replan(used, region=Region(torch.ones(3, 3), feather=40))
    found = call(network, tensors, entries, [0], used)
    assert error(found, expected(rule_of, network, tensors, entries)) <= 1e-12
    assert used.path.startswith("LSE merge")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_nothing_is_the_plain_model(family):
    network, tensors = models.build(FAMILIES[family][0]), inputs(1, 7)
    used = session()
    replan(used, region=Region(torch.zeros(3, 3)))
    assert torch.equal(call(network, tensors, [entry(5, 5)], [0], used), network(*tensors))


# Blocks


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_by_name_equals_no_list(family, lse):
    network, tensors = models.build(FAMILIES[family][0]), inputs(2, 7)
    entries = [entry(5, 5), None]
    used = session()
    used.blocks = frozenset(name for name, _ in described(network).named_blocks())
    found = call(network, tensors, entries, [1, 0][1:], used, lse=lse)
    assert torch.equal(found, call(network, tensors, entries, [0], lse=lse))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_of_a_joint_model_is_the_plain_model(family):
    """Prompt and image attend as without NAG, and what is in the negative's slot is read by nobody."""
    network, tensors = models.build(FAMILIES[family][0]), inputs(3, 7)
    used = session()
    used.blocks = frozenset()
    found = call(network, tensors, [entry(5, 5), entry(8, 6), None], [0], used)
    assert error(found, network(*tensors)) <= 1e-14
    assert used.layers == {}


def test_an_unguided_block_keeps_the_bits_of_prompt_and_image():
    layout = Layout(5, 7, 12)
    q, k, v = (normal(2, 2, layout.total, 16, seed=i, dtype=torch.float32) for i in range(3))
    rows = Arrangement([Group(slice(0, 2), (entry(5, 1), entry(5, 2)))], None)
    found = joint_attention(q, k, v, layout, rows, plain, lse_kernel(q), rule(), focus=NOWHERE)
    own = layout.unguided_part
    assert torch.equal(found[:, own], plain(*(x[:, :, own] for x in (q, k, v)), None))
    guided = joint_attention(q, k, v, layout, rows, plain, None, rule())
    assert error(found[:, :5], guided[:, :5]) < 1e-6, "its text goes on, for the blocks behind"


def test_only_the_named_blocks_are_guided_and_counted():
    network, tensors = models.build(models.FluxLike), inputs(1, 7)
    used = session()
    names = [name for name, _ in described(network).named_blocks()]
    used.blocks = frozenset(name for name in names if name[0] == "single")
    used.begin_call()
    found = call(network, tensors, [entry(5, 5)], [0], used)
    everywhere = call(network, tensors, [entry(5, 5)], [0])
    assert used.report().layers == (("single", sum(name[0] == "single" for name in names)),)
    assert error(found, network(*tensors)) > 1e-3
    assert error(found, everywhere) > 1e-3


# The heat map


def test_the_relative_change_of_a_token_is_that_of_its_l1_norm():
    before, after = normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)
    before[0, 3] = 0
    wanted = (after - before).abs().sum(-1) / before.abs().sum(-1)
    found = relative_change(before, after)
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[0, 3] = False
    assert torch.allclose(found[keep].double(), wanted[keep], rtol=1e-5)
    largest = torch.full((1, 1, 8), torch.finfo(torch.float32).max)
    assert torch.isfinite(relative_change(largest, -largest)).all()
    assert relative_change(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8)).item() == 0


def test_layers_and_steps_are_averaged_per_image_on_the_finest_grid():
    heat = HeatMap()
    one = torch.ones(1, 1, 1)
    fine, coarse = one.expand(2, 16, 1), one.expand(2, 4, 1)
    for _ in range(3):  # steps
        heat.note((0, 1), (4, 4), 1, None, fine, fine * torch.tensor([1.5, 3.0])[:, None, None])
    spot = Spot(torch.tensor([0]), None)
    heat.note((0, 1), (4, 4), 2, spot, coarse[:, :1], coarse[:, :1] * 2)
    first, second, third = heat.pictures(3)
    assert third is None
    assert torch.allclose(first[:2, :2], torch.tensor((3 * 0.5 + 1) / 4))
    assert torch.allclose(first[2:], torch.tensor(3 * 0.5 / 4))
    assert torch.allclose(second[2:], torch.tensor(3 * 2.0 / 4))


def test_a_heat_map_changes_no_bit_of_the_result():
    q, k, v = cross.tensors(2, tokens=35)
    used = cross.session()
    used.heat = HeatMap()
    call_ = cross.Step(used, cross.Batch((cross.entry(),)), "weights", (5, 7))
    patched = cross.patch_attn2({}, {cross.KEY: cross.Attention(q.dtype)}, call_)
    replace = patched["transformer_options"]["patches_replace"]["attn2"][cross.KEY]
    found = replace(q, k, v, {"n_heads": cross.HEADS, "cond_or_uncond": [1, 0]})
    assert torch.equal(found, cross.run(q, k, v, [cross.entry()], [1, 0]))
    (heat,) = used.heat.pictures(1)
    plain_ = cross.host_attention(q, k, v, {"n_heads": cross.HEADS})[1]
    wanted = (found[1] - plain_).abs().sum(-1) / plain_.abs().sum(-1)
    assert torch.allclose(heat.flatten(), wanted, rtol=1e-4)


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_heat_map_of_a_joint_model_shows_where_the_mask_is(family, lse):
    network, tensors = models.build(FAMILIES[family][0]), inputs(2, 7, size=(8, 6))
    entries = [entry(5, 5), entry(5, 6)]
    used = session()
    used.heat = HeatMap()
    assert torch.equal(
        call(network, tensors, entries, [0], used, lse=lse), call(network, tensors, entries, [0], lse=lse)
    )
    assert all(heat.shape == (4, 3) and (heat > 0).all() for heat in used.heat.pictures(2))
    masked = session()
    masked.heat = HeatMap()
    replan(masked, region=Region(torch.tensor([[1.0], [0.0]])))
    call(network, tensors, entries, [0], masked, lse=lse)
    for heat in masked.heat.pictures(2):
        assert (heat[:2] > 0).all()
        assert (heat[2:] == 0).all()


def test_the_references_of_these_tests_are_the_rule_itself():
    """`guided` above is compared with the code's own unmasked result; that one is checked here once more."""
    q, k, v = cross.tensors(1, dtype=torch.float64)
    one = cross.entry(dtype=torch.float64)
    module = cross.Attention(torch.float64)
    neg = reference.attention(q, module.to_k(one.context[None]), module.to_v(one.context[None]), cross.HEADS)
    wanted, _ = reference.nag(reference.attention(q, k, v, cross.HEADS), neg, 4.0, 2.5, 0.5)
    assert error(cross.run(q, k, v, [one], [0]), wanted) < 1e-13


@pytest.mark.parametrize(
    ("mask", "size", "tiled", "said", "guided"),
    [
        (True, None, False, "a mask is not possible on video yet", False),
        (False, None, False, "no heat map of video yet", True),
        (True, (8, 8), True, "tiles and a mask cannot be combined", False),
        (False, (8, 8), True, "no heat map of tiles", True),
        (True, (8, 8), False, "the mask does not fit some layers", False),
        (False, (8, 8), False, "the heat map leaves out some layers", True),
    ],
)
def test_where_tokens_have_no_known_place_it_is_said(mask, size, tiled, said, guided):
    """Four frames of 8 x 8 latent pixels in tokens of 2 x 2 would pass for 64 tokens of one picture."""
    from nag_core.method.heat import HeatMap
    from tests.unit.test_joint import session

    used = session()
    replan(used, region=Region(torch.ones(8, 8)) if mask else None)
    tokens = 64 if size is None or tiled else 63
    focus = guiding._focus(used, tokens, size, torch.device("cpu"), tiled, HeatMap())
    assert focus.guided == guided
    assert used.complete == guided, "a heat map that leaves something out costs no guidance"
    assert len(used.problems) == 1
    assert used.problems[0].startswith(said)
