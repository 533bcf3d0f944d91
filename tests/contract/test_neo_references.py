"""Reference images on Forge Neo's own edit models, from a checkout (`--webui-dir`), in its environment."""

import pytest
import torch

from nag_core.passes.report import UNKNOWN_PLACES
from tests.contract import neo_models as neo
from tests.contract.test_neo_models import LIMIT, backend, call, entry, several, wide  # noqa: F401
from tests.unit.test_joint import STRENGTH, error, session

# This host hands Krea's forward no references; where somebody does, it takes them. (Newer ones look them up.)
FAMILIES = ["Flux.1", "Flux.2 Klein", "Qwen-Image", "Krea 2"]
EACH = pytest.mark.parametrize("family", FAMILIES)
SIZES = {"one": [(8, 8)], "two": [(6, 10), (5, 7)]}  # the last one is padded to the patch size


def references(kind, which, monkeypatch):
    """The latents, and what a call of the network is handed of them; put where the host keeps them."""
    from backend.args import dynamic_args

    video = (1,) if kind.video else ()
    found = [neo.normal(1, 4, *video, *size, seed=30 + i) for i, size in enumerate(SIZES[which])]
    monkeypatch.setattr(dynamic_args, "ref_latents", found)
    return {"ref_latents": found} if kind.module == "krea" else {}


def tokens(kind, which):
    side = 1 if kind.image == 64 else 2
    return sum(-(-height // side) * -(-width // side) for height, width in SIZES[which])


def written_out(kind, network, tensors, negative, which, **handed):
    """One picture: the references are in every branch as they are in the prompt's."""
    x, timestep, context, more = tensors
    own = torch.ones(kind.image)
    where = torch.cat((own, own.new_zeros(tokens(kind, which))))
    parts = negative.parts or ((len(negative.context), 1.0),)
    texts = negative.context[None].split([length for length, _ in parts], dim=1)
    asked = neo.Asked(STRENGTH, tuple(weight for _, weight in parts), None, where.to(x))
    longer = kind._replace(image=len(where))
    return neo.literal(longer, network, x, timestep, context, texts, asked, **more, **handed)


def without(kind, network, tensors, **handed):
    x, timestep, context, more = tensors
    return neo.run(kind, network, x, timestep, context, **more, **handed)


def with_more(tensors, handed):
    return (*tensors[:3], {**tensors[3], **handed})


@EACH
@pytest.mark.parametrize("which", SIZES)
@pytest.mark.parametrize("negatives", [(9,), (9, 4)], ids=["one negative", "two negatives"])
def test_the_picture_is_guided_and_its_references_are_not(family, which, negatives, monkeypatch):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    handed = references(kind, which, monkeypatch)
    one = entry(kind, 9, 5) if len(negatives) == 1 else several(kind, negatives, (2.0, 0.5))
    used = session()
    found = call(kind, network, with_more(tensors, handed), [one], [0], used)
    wanted = written_out(kind, network, tensors, one, which, **handed)
    assert used.problems == []
    assert error(found, wanted) <= LIMIT
    assert error(without(kind, network, tensors, **handed), wanted) > 1e-3
    assert used.picture == (kind.image, kind.image + tokens(kind, which))


@EACH
def test_in_float64_it_is_the_same(family, monkeypatch):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind, torch.float64), [wide(one) for one in neo.inputs(kind, 1, 7)]
    handed = references(kind, "two", monkeypatch)
    try:
        without(kind, network, tensors, **handed)
    except Exception as refused:  # the rotation that most of them share, which is compiled
        pytest.skip(f"Neo's own network does not run in float64: {str(refused)[:80]}")
    one, used = several(kind, (9, 4), (2.0, 0.5), torch.float64), session()
    found = call(kind, network, with_more(tensors, handed), [one], [0], used)
    assert used.problems == []
    assert error(found, written_out(kind, network, tensors, one, "two", **handed)) <= 1e-10


@pytest.mark.parametrize("family", ["Flux.1", "Flux.2 Klein"])
def test_rows_of_uncond_are_the_hosts_own_with_their_references(family, monkeypatch):
    """The others of the host's networks take references in a batch of one picture alone."""
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 2, 7)
    references(kind, "two", monkeypatch)
    used, one = session(), entry(kind, 9, 5)
    found = call(kind, network, tensors, [one], [1, 0], used)
    x, timestep, context, more = tensors
    rows = [
        (x[i : i + 1], timestep[i : i + 1], context[i : i + 1], {k: v[i : i + 1] for k, v in more.items()})
        for i in (0, 1)
    ]
    assert used.problems == []
    assert error(found[:1], without(kind, network, rows[0])) <= 2e-6
    assert error(found[1:], written_out(kind, network, rows[1], one, "two")) <= LIMIT


@EACH
def test_references_have_the_bits_of_an_unguided_attention(family, monkeypatch):
    """After the first attention, beside the same call with no block chosen."""
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    handed, seen = references(kind, "one", monkeypatch), []
    block = next(
        getattr(network, name)[0]
        for name in ("double_blocks", "transformer_blocks", "blocks")
        if hasattr(network, name)
    )
    project = {"flux": "img_attn.proj", "qwen": "attn.to_out.0", "krea": "attn.wo"}[kind.module]
    block.get_submodule(project).register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    for blocks in (None, frozenset()):
        used = session()
        used.blocks, used.may_merge = blocks, False
        call(kind, network, with_more(tensors, handed), [entry(kind, 9, 5)], [0], used)
        assert used.problems == []
    guided, off = (one[:, -kind.image - tokens(kind, "one") :] for one in seen)
    assert torch.equal(guided[:, kind.image :], off[:, kind.image :])
    assert not torch.equal(guided[:, : kind.image], off[:, : kind.image])


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_a_method_nobody_knows_costs_the_guidance_and_says_so(family, monkeypatch):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    references(kind, "one", monkeypatch)
    used, handed = session(), {"ref_latents_method": "negative_index"}
    found = call(kind, network, with_more(tensors, handed), [entry(kind, 5, 5)], [0], used)
    assert torch.equal(found, without(kind, network, tensors, **handed))
    assert used.problems == [f"off from call 0 on: {UNKNOWN_PLACES}"]


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
@pytest.mark.parametrize("family", FAMILIES[:3])
def test_each_of_the_hosts_methods_is_guided(family, method, monkeypatch):
    """They differ in the references' positions, which stay the host's own."""
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    references(kind, "two", monkeypatch)
    used, one, handed = session(), entry(kind, 9, 5), {"ref_latents_method": method}
    found = call(kind, network, with_more(tensors, handed), [one], [0], used)
    assert used.problems == []
    assert error(found, written_out(kind, network, tensors, one, "two", **handed)) <= LIMIT


@pytest.mark.parametrize("family", ["Chroma", "Z-Image", "Ernie", "Krea 2"])
def test_what_lies_there_is_nothing_to_a_network_that_never_looks(family, monkeypatch):
    kind = neo.KINDS[family]
    network, tensors, one = neo.build(kind), neo.inputs(kind, 1, 7), entry(kind, 9, 5)
    without_any = call(kind, network, tensors, [one], [0])
    references(kind, "one", monkeypatch)
    used = session()
    assert torch.equal(call(kind, network, tensors, [one], [0], used), without_any)
    assert used.problems == []


def test_animas_references_are_frames_that_are_not_guided(monkeypatch):
    from backend.args import dynamic_args

    kind = neo.KINDS["Anima"]
    network, tensors, one = neo.build(kind), neo.inputs(kind, 1, 7), entry(kind, 9, 5)
    monkeypatch.setattr(dynamic_args, "ref_latents", [neo.normal(1, 4, 1, 8, 8, seed=30)])
    used, where = session(), torch.cat((torch.ones(16), torch.zeros(16)))
    found = call(kind, network, tensors, [one], [0], used)
    asked = neo.Asked(STRENGTH, where=where)
    x, timestep, context, more = tensors
    longer = kind._replace(image=32)
    wanted = neo.literal(longer, network, x, timestep, context, [one.context[None]], asked, **more)
    assert used.problems == []
    assert error(found, wanted) <= LIMIT
    everywhere = neo.Asked(STRENGTH)
    too = neo.literal(longer, network, x, timestep, context, [one.context[None]], everywhere, **more)
    assert error(too, wanted) > 1e-3
    assert used.picture == (16, 32)
