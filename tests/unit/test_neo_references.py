"""Reference images on Forge Neo, on stand-ins of its networks: their tokens are keys, and never guided."""

import sys
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from nag_core.hosts.patcher import neo
from nag_core.hosts.patcher.cross import patch_cross_call
from nag_core.hosts.patcher.positions import known_places
from nag_core.hosts.patcher.references import in_sequence
from nag_core.hosts.patcher.step import Step
from nag_core.method.joint import NotGuided
from nag_core.method.layout import Layout
from nag_core.method.negative import Entry
from nag_core.method.region import Region
from nag_core.method.rows import Batch
from nag_core.passes.report import UNKNOWN_PLACES
from tests import joint_models as models
from tests import joint_reference as literal
from tests.sessions import replan
from tests.unit import test_cross_call as crossing
from tests.unit.test_hosts import dit, neo_host  # noqa: F401
from tests.unit.test_joint import call, described, entry, error, expected, inputs, normal, session

FLUX, KREA = (neo._JOINT[name] for name in ("IntegratedFluxTransformer2DModel", "SingleStreamDiT"))
SIZES = {"one": [(4, 6)], "two": [(8, 4), (2, 6)], "the picture's": [(8, 6), (8, 6)]}  # of the latents
KINDS = {"behind": models.FluxEdit, "by parts": models.FluxEditByParts, "in front": models.FluxEditInFront}


@pytest.fixture
def references(request, monkeypatch):
    found = [normal(1, 4, *size, seed=20 + i) for i, size in enumerate(SIZES[request.param])]
    monkeypatch.setattr(models, "dynamic_args", SimpleNamespace(ref_latents=found))
    return found


def edit(network, family=FLUX, lse=True):
    asked = partial(in_sequence, network, family, 2)
    return replace(described(network, lse), references=asked, begins="norm")


ONE = pytest.mark.parametrize("references", ["one"], indirect=True)


# In front of the picture the host has them at its size.
CASES = [(size, kind) for size in SIZES for kind in KINDS if kind != "in front" or size == "the picture's"]


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize(("references", "kind"), CASES, indirect=["references"])
def test_the_picture_is_guided_and_its_references_are_not(references, kind, lse):
    network, tensors, used = models.build(KINDS[kind]), inputs(4, 7), session()
    entries, tokens = [entry(9, 5), entry(4, 6)], sum(one[0, 0].numel() // 4 for one in references)
    used.begin_call()
    joint = edit(network, KREA if kind == "in front" else FLUX, lse)
    found = call(network, tensors, entries, [1, 0], used, joint=joint)
    wanted = expected(literal.flux, network, tensors, [None, None, *entries])
    assert error(found, wanted) <= 1e-12
    assert error(network(*tensors)[2:], wanted[2:]) > 1e-2
    assert used.problems == []
    share = {6: "67 %", 11: "52 %", 24: "33 %"}[tokens]
    assert f"{share} of the image tokens (the rest are reference images)" in used.report().sentence()
    assert dict(used.report().layers) == {"double": 2, "single": 3}


@ONE
def test_references_come_out_of_a_guided_block_with_the_bits_of_an_unguided_one(references):
    network, tensors, seen = models.build(models.FluxEdit), inputs(1, 7), []
    network.double_blocks[0].img.proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for blocks in (None, frozenset()):
        used = session()
        used.blocks = blocks
        call(network, tensors, [entry(9, 5)], [0], used, joint=edit(network, lse=False))
    guided, off = seen
    assert torch.equal(guided[:, 12:], off[:, 12:])
    assert not torch.equal(guided[:, :12], off[:, :12])


@ONE
def test_a_mask_means_the_picture_and_not_its_references(references):
    network, tensors, used = models.build(models.FluxEdit), inputs(1, 7), session()
    replan(used, region=Region(torch.ones(1, 1)))
    found = call(network, tensors, [entry(9, 5)], [0], used, joint=edit(network))
    assert used.problems == []
    assert error(found, expected(literal.flux, network, tensors, [entry(9, 5)])) <= 1e-12


@ONE
def test_blocks_that_are_run_by_parts_are_missed_where_nobody_knows_of_it(references):
    """As before `begins`: such a call costs the guidance, and says so."""
    network, tensors, used = models.build(models.FluxEditByParts), inputs(1, 7), session()
    found = call(network, tensors, [entry(9, 5)], [0], used, joint=replace(edit(network), begins=""))
    assert torch.equal(found, network(*tensors))
    assert "5 of 2 blocks attended as they are known to" in used.problems[0]


@ONE
@pytest.mark.parametrize("changed", ["family", "method", "method handed over", "frames"])
def test_an_arrangement_nobody_knows_costs_the_guidance_and_is_said(references, changed):
    network, tensors, used = models.build(models.FluxEdit), inputs(1, 7), session()
    plain, family, more = network(*tensors), FLUX, {}
    if changed == "family":
        family = FLUX._replace(references="")
    elif changed == "method":
        network.default_ref_method = "negative_index"
    elif changed == "method handed over":
        more = {"ref_latents_method": "negative_index"}
    else:
        more = {"ref_latents": [normal(1, 4, 3, 4, 6, seed=20)]}
    joint = edit(network, family)
    found = call(network, tensors, [entry(9, 5)], [0], used, joint=joint, **more)
    assert torch.equal(found, plain)
    assert used.problems == [f"off from call 0 on: {UNKNOWN_PLACES}"]


@ONE
def test_references_that_the_network_leaves_out_cost_the_guidance_by_their_count(references, monkeypatch):
    network, tensors, used = models.build(models.FluxEdit), inputs(1, 7), session()
    monkeypatch.setattr(network, "tokens", partial(models.FluxLike.tokens, network))
    monkeypatch.setattr(network, "angles", partial(models.FluxLike.angles, network))
    found = call(network, tensors, [entry(9, 5)], [0], used, joint=edit(network))
    assert torch.equal(found, network(*tensors))
    assert used.problems == ["off from call 0 on: an attention over 28 tokens, expected 34"]


@ONE
def test_references_are_those_that_the_networks_own_module_finds(references, monkeypatch):
    """What another model left there is nothing to a network that never looks (Chroma)."""
    network, blind, x = models.build(models.FluxEdit), nn.Identity(), inputs(1, 7)[0]
    handed = {"ref_latents": [normal(1, 4, 2, 2, seed=1)]}
    assert in_sequence(network, FLUX, 2, x, {}) == (0, 6)
    assert in_sequence(network, FLUX, 2, x, handed) == (0, 1)
    assert in_sequence(blind, FLUX, 2, x, {}) == (0, 0)
    assert in_sequence(network, KREA, 2, x, {}) == (12, 0)
    assert in_sequence(network, KREA, 2, x, handed) == (0, 1)
    monkeypatch.setattr(models, "dynamic_args", handed)
    assert in_sequence(network, FLUX, 2, x, {}) == (0, 1), "as Neo kept them until the spring of 2026"
    monkeypatch.setattr(models, "dynamic_args", {})
    assert in_sequence(network, FLUX, 2, x, {}) == (0, 0)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_picture_that_stands_elsewhere_than_expected_is_found_by_its_positions(rows):
    """Of the same count of tokens: their length would not tell."""
    layout, embedder = Layout(3, 2, 8, before=4), nn.Identity()
    ids = torch.zeros(rows, 13, 3)
    ids[:, 5:9, 0] = 1
    with known_places(embedder, layout):
        embedder(ids)
        with pytest.raises(NotGuided, match=UNKNOWN_PLACES):
            embedder(ids.flip(1))
        with pytest.raises(NotGuided, match=UNKNOWN_PLACES):
            embedder(torch.zeros_like(ids))
    embedder(torch.zeros_like(ids))


def test_kreas_own_positions_are_asked_where_its_references_stand(neo_host):  # noqa: F811
    krea = dit("SingleStreamDiT", blocks=2)
    krea.patch, krea.txtfusion = 2, dit("TextFusion", refiner_blocks=1, layerwise_blocks=2)
    krea.pe_embedder = nn.Identity()
    joint, ids = neo_host.joint_model(krea), torch.zeros(1, 13, 3)
    rows = Batch((entry(3, 5),)).arrangement(1, [0], ids.device)
    ids[:, 9:, 0] = 1
    with joint.adapt(Layout(3, 2, 8, behind=4), rows):
        krea.pe_embedder(ids)
    with joint.adapt(Layout(3, 2, 8, before=4), rows), pytest.raises(NotGuided, match=UNKNOWN_PLACES):
        krea.pe_embedder(ids)


# Anima: frames behind the picture's own, and cross-attention

dynamic_args = SimpleNamespace(ref_latents=[])


class Anima(crossing.Anima):
    patch_temporal = patch_spatial = 1

    def forward(self, x, timestep, context, picture=None, **_):
        frames = torch.cat([x, *dynamic_args.ref_latents], dim=2)
        return self.inner(frames, context, None)[:, :, : x.shape[2]]

    def inner(self, frames, context, negative, own=0):
        """Every block written out; the first `own` tokens are guided where there is a negative."""
        x = frames.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + crossing.attended(x, x, x)
            if negative is None:
                x = x + block.cross_attn(x, context, None)
            else:
                plain = block.cross_attn.literal(x, context, None, None)
                guided = block.cross_attn.literal(x, context, negative, None)
                x = x + torch.cat((guided[:, :own], plain[:, own:]), dim=1)
        return x.transpose(1, 2).reshape(frames.shape)


@pytest.fixture
def anima(monkeypatch):
    module = ModuleType("backend.nn.anima")
    module.attention_function = crossing.attention_function
    monkeypatch.setitem(sys.modules, "backend.nn.anima", module)
    reference = normal(1, crossing.WIDTH, 1, 2, 3, seed=9)
    monkeypatch.setattr(dynamic_args, "ref_latents", [reference])
    return Anima()


def anima_call(model, used, frames=1):
    x, text = normal(1, crossing.WIDTH, frames, 2, 3, seed=1), normal(1, 7, crossing.WIDTH, seed=2)
    negative = normal(5, crossing.WIDTH, seed=3)
    step = Step(used, Batch((Entry(negative),)), "w")
    options = patch_cross_call({}, neo.Neo().cross_model(model), step)

    def apply_model(x, timestep, c_crossattn, transformer_options):
        return model(x, timestep, c_crossattn)

    c = {"c_crossattn": text, "transformer_options": {"cond_or_uncond": [0]}}
    found = options["model_function_wrapper"](apply_model, {"input": x, "timestep": None, "c": c})
    return found, (x, text, negative[None])


def test_animas_reference_frames_are_not_guided(anima):
    used = session()
    used.begin_call()
    found, (x, text, negative) = anima_call(anima, used)
    frames = torch.cat([x, *dynamic_args.ref_latents], dim=2)
    assert error(found, anima.inner(frames, text, negative, own=6)[:, :, :1]) <= 1e-12
    assert error(found, anima.inner(frames, text, negative, own=12)[:, :, :1]) > 1e-3
    assert "50 % of the image tokens (the rest are reference images)" in used.report().sentence()
    assert used.problems == []


def test_animas_mask_counts_the_picture_alone(anima):
    used = session()
    replan(used, region=Region(torch.ones(1, 1)))
    found, (x, text, negative) = anima_call(anima, used)
    frames = torch.cat([x, *dynamic_args.ref_latents], dim=2)
    assert used.problems == []
    assert error(found, anima.inner(frames, text, negative, own=6)[:, :, :1]) <= 1e-12


@pytest.mark.parametrize("changed", ["temporal", "left out"])
def test_animas_references_elsewhere_cost_the_guidance_and_are_said(anima, changed, monkeypatch):
    used = session()
    if changed == "temporal":
        monkeypatch.setattr(Anima, "patch_temporal", 2)
        said = f"off from call 0 on: {UNKNOWN_PLACES}"
    else:
        monkeypatch.setattr(Anima, "patch_spatial", 2)  # twice as long as NAG expects it then
        said = "an attention over 12 tokens, expected 4; there it ran unguided"
    found, (x, text, _) = anima_call(anima, used)
    assert torch.equal(found, anima(x, None, text))
    assert used.problems == [said]
