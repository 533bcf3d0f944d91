"""The rule Orthogonal against its literal reference, by itself and on every guided path."""

import pytest
import torch

from nag_core.method.guidance import Method, across, guide
from nag_core.settings.presets import Strength
from tests import reference
from tests.sessions import replan
from tests.unit import test_a1111 as a1111
from tests.unit import test_cross as unet
from tests.unit import test_cross_call as dit
from tests.unit import test_diffusers_models as library
from tests.unit import test_joint as joint
from tests.unit.test_guidance import DTYPES, SHAPES, pair

SCALE = 1.5


@pytest.fixture
def by_rule(monkeypatch):
    """Every literal reference computes this rule, and so does a session that is handed in."""

    def orthogonal(pos, neg, phi, tau, alpha):
        return reference.orthogonal(pos, neg, SCALE), 0

    def changed(used):
        replan(used, method=Method.ORTHOGONAL, strength=Strength(SCALE, 1.0, 0.0))
        used.phi = SCALE
        return used

    monkeypatch.setattr(reference, "nag", orthogonal)
    with torch.no_grad():
        yield changed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.5, 1, 20])
def test_float64_agrees_with_the_reference_and_reads_neither_tau_nor_alpha(shape, scale):
    pos, neg = pair(shape, torch.float64)
    truth = reference.orthogonal(pos, neg, scale)
    for tau, alpha in ((1.0, 0.0), (2.5, 0.5)):
        found = guide(pos, neg, scale, tau, alpha, Method.ORTHOGONAL)
        assert (found.out - truth).abs().max() <= 1e-12
        assert int(found.clipped) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_at_most_twice_that_of_a_naive_implementation(shape, dtype):
    pos, neg = pair(shape, dtype)
    truth = reference.orthogonal(pos, neg, 4.0)
    along = (neg * pos).sum(-1, keepdim=True) / (pos * pos).sum(-1, keepdim=True) * pos
    naive = ((pos - 4.0 * (neg - along)).double() - truth).abs().max()
    ours = (guide(pos, neg, 4.0, 2.5, 0.5, Method.ORTHOGONAL).out.double() - truth).abs().max()
    assert ours <= 2 * max(naive, truth.abs().max() * torch.finfo(dtype).eps / 2)


def test_what_is_taken_away_is_orthogonal_and_a_zero_token_keeps_all_of_it():
    pos, neg = pair((2, 9, 32), torch.float64)
    dot = (across(neg, pos) * pos).sum(-1)
    assert dot.abs().max() <= 1e-13
    assert torch.equal(across(neg, torch.zeros_like(pos)), neg)
    assert across(2.5 * pos, pos).abs().max() <= 1e-14


def test_attn2_of_a_unet(by_rule):
    used = by_rule(unet.session())
    q, k, v = unet.tensors(4, dtype=torch.float64)
    entries = [unet.entry(5, 5, torch.float64), unet.entry(9, 6, torch.float64)]
    found = unet.run(q, k, v, entries, [1, 0], used=used)
    assert (found - unet.expected(q, k, v, entries, {2: 0, 3: 1})).abs().max() <= 1e-12
    assert used.problems == []


@pytest.mark.parametrize("kind", [dit.WanModel, dit.WanImageModel, dit.Anima])
def test_the_cross_attention_of_a_dit(by_rule, kind, monkeypatch, request):
    request.param = kind
    model, used = dit.model.__wrapped__(request, monkeypatch), by_rule(dit.session())
    entries = [dit.negative(model, 9, 5), dit.negative(model, 4, 6)]
    found, tensors = dit.call(model, entries, [0], 2, used)
    assert dit.error(found, dit.expected(model, tensors, entries)) <= 1e-12
    assert used.problems == []


def test_hooked_modules(by_rule, monkeypatch):
    a1111.hypernetworks.__wrapped__(monkeypatch)
    negatives = [a1111.entry(5, 5), a1111.entry(8, 6)]
    denoiser, network, used, *_ = a1111.prepared(negatives, (1, 1))
    by_rule(used)
    x, cond, uncond = a1111.tensors(2)
    found = denoiser(x, cond, uncond)
    for image, one in enumerate(negatives):
        at = slice(image, image + 1)
        assert a1111.error(found[at], a1111.literal(network, x[at], cond[at], one)) <= 1e-12


@pytest.mark.parametrize("name", library.NAMES)
def test_the_models_of_the_library(by_rule, name):
    case = library.CASES[name]
    model = case.model(torch.float64)
    context, mask, negative, neg_mask = library.texts(case, torch.float64)
    source = library.Given(library.entries_of(model, negative, neg_mask))
    by_rule(source.session)
    found = library.guided(case, model, source, context, mask)
    assert joint.error(found, library.literal(case, model, torch.float64)) <= 1e-12
    assert source.failures == source.session.problems == []


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", joint.FAMILIES)
def test_the_joint_attention_of_a_webui(by_rule, family, lse):
    kind, literal = joint.FAMILIES[family]
    network, tensors = joint.models.build(kind), joint.inputs(2, 7)
    entries, used = [joint.entry(5, 5), joint.entry(9, 6)], by_rule(joint.session())
    found = joint.call(network, tensors, entries, [0], used, lse=lse)
    assert joint.error(found, joint.expected(literal, network, tensors, entries)) <= 1e-12
    assert used.problems == []
