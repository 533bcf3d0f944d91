"""NAG on Forge Neo's own networks (`backend.nn`), from a checkout (`--webui-dir`), in its environment."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.hosts.patcher.cross import patch_cross_call
from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.hosts.patcher.neo import Neo
from nag_core.hosts.patcher.unet import Step, patch_attn2
from nag_core.method.negative import Entry, weighted_negative
from nag_core.method.region import Region
from nag_core.method.rows import Batch
from nag_core.passes.plan import Progress
from nag_core.settings.schedule import parse_curve
from tests.contract import neo_models as neo
from tests.sessions import replan
from tests.unit.test_joint import STRENGTH, error, session

EACH = pytest.mark.parametrize("family", neo.KINDS)
JOINT = pytest.mark.parametrize("family", [name for name, kind in neo.KINDS.items() if not kind.cross])
DTYPE, LIMIT = torch.float32, 1e-5  # the kernels that Neo rotates with know no float64


@pytest.fixture(scope="module", autouse=True)
def backend(request):
    folder = request.config.getoption("--webui-dir")
    if folder is None or not Path(folder, "backend", "nn", "wan.py").is_file():
        pytest.skip("no --webui-dir: a Forge Neo checkout, in whose environment pytest runs")
    before = list(sys.path), list(sys.argv), set(sys.modules)
    sys.path[:0] = [folder, str(Path(folder, "modules_forge", "packages"))]
    sys.argv = ["webui", "--cpu", "--use-pytorch-cross-attention"]
    with torch.inference_mode():
        yield importlib.import_module("backend")
    sys.path[:], sys.argv = before[:2]
    for name in set(sys.modules) - before[2]:
        if name.split(".")[0] in ("backend", "modules", "modules_forge"):
            del sys.modules[name]


def entry(kind, tokens, seed):
    return Entry(neo.normal(tokens, kind.context, seed=seed))


def call(kind, network, tensors, entries, marks, used=None, run=None):
    """One wrapped model call, as the host's sampling function makes it."""
    x, timestep, context, more = tensors
    host, used = Neo(), used or session()
    joint, crossing = host.joint_model(network), host.cross_model(network)
    assert (joint is None) is kind.cross
    assert (crossing is None) is (kind.hooked or not kind.cross)
    batch = Batch(tuple(entries))
    if kind.hooked:
        replan(used, attention=host.attention)
        options = patch_attn2({}, cross_attention_layers(network), Step(used, batch, "w"))
    elif kind.cross:
        options = patch_cross_call({}, crossing, Step(used, batch, "w"))
    else:
        options = patch_model_call({}, joint, used, batch)

    def apply_model(x, timestep, c_crossattn, transformer_options, **c):
        own = c_crossattn[:, 0] if c_crossattn.dim() == 4 else c_crossattn
        return (run or neo.run)(kind, network, x, timestep, own, transformer_options=transformer_options, **c)

    hooked = options.get("transformer_options", {})
    given = context[:, None] if kind.module == "krea" else context
    c = {"c_crossattn": given, "transformer_options": {"cond_or_uncond": marks, **hooked}, **more}
    arguments = {"input": x, "timestep": timestep, "c": c, "cond_or_uncond": marks}
    if kind.hooked:
        return apply_model(x, timestep, **c)
    return options["model_function_wrapper"](apply_model, arguments)


def row(tensors, i):
    x, timestep, context, more = tensors
    one = slice(i, i + 1)
    return x[one], timestep[one], context[one], {key: value[one] for key, value in more.items()}


def expected(kind, network, tensors, negatives, strength=STRENGTH, blocks=None, where=None):
    """Row by row; None among the negatives: the plain model."""
    rows = []
    for i, negative in enumerate(negatives):
        x, timestep, context, more = row(tensors, i)
        if negative is None:
            rows.append(neo.run(kind, network, x, timestep, context, **more))
        else:
            parts = negative.parts or ((negative.tokens, 1.0),)
            texts = negative.context[None].split([tokens for tokens, _ in parts], dim=1)
            asked = neo.Asked(strength, tuple(weight for _, weight in parts), blocks, where)
            rows.append(neo.literal(kind, network, x, timestep, context, texts, asked, **more))
    return torch.cat(rows)


def hooks(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def functions():
    names = [name for name in sys.modules if name.startswith("backend.nn.")]
    return {name: vars(sys.modules[name]).get("attention_function") for name in names}


@EACH
@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (40, 13)], ids=str)
def test_a_batch_of_two_equals_the_two_branch_reference(family, lengths):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 2, lengths[0])
    entries = [entry(kind, lengths[1], 5), entry(kind, lengths[1], 6)]
    used = session()
    found = call(kind, network, tensors, entries, [0], used)
    wanted = expected(kind, network, tensors, entries)
    plain = expected(kind, network, tensors, [None, None])
    assert used.problems == []
    assert error(found, wanted) <= LIMIT
    assert error(plain, wanted) > 1e-3
    assert len(used.layers) in (2, 3, 5, 7)


@EACH
def test_at_cfg_7_uncond_rows_are_the_hosts_own_and_negatives_of_unequal_length_are_each_images(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 4, 6)
    entries = [entry(kind, 9, 5), entry(kind, 4, 6)]
    used = session()
    found = call(kind, network, tensors, entries, [1, 0], used)
    wanted = expected(kind, network, tensors, [None, None, *entries])
    assert used.problems == []
    assert error(found[:2], wanted[:2]) <= 2e-6
    assert error(found[2:], wanted[2:]) <= LIMIT


# Several negatives


def several(kind, lengths, weights, dtype=DTYPE):
    """One entry of texts of these lengths, as a job's weighted negatives make it."""
    texts = [[(9, neo.normal(n, kind.context, seed=5 + i).to(dtype))] for i, n in enumerate(lengths)]
    return weighted_negative(texts, [[f"text {n}"] for n in lengths], weights, 1).at(0)[0]


def wide(x):
    return {key: wide(one) for key, one in x.items()} if isinstance(x, dict) else x.double()


@EACH
@pytest.mark.parametrize("lengths", [(6, 9, 4), (7, 40, 7), (40, 13, 34)], ids=str)
def test_two_weighted_negatives_of_different_lengths_equal_a_branch_each(family, lengths):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 4, lengths[0])
    entries = [several(kind, lengths[1:], (2.0, 0.5))] * 2
    used = session()
    found = call(kind, network, tensors, entries, [1, 0], used)
    wanted = expected(kind, network, tensors, [None, None, *entries])
    assert used.problems == []
    assert error(found[:2], wanted[:2]) <= LIMIT
    assert error(found[2:], wanted[2:]) <= LIMIT
    swapped = several(kind, lengths[1:], (0.5, 2.0))
    assert error(expected(kind, network, tensors, [None, None, swapped, swapped])[2:], wanted[2:]) > 1e-3


@EACH
def test_in_float64_two_weighted_negatives_equal_a_branch_each(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind, torch.float64), [wide(one) for one in neo.inputs(kind, 1, 7)]
    try:
        neo.run(kind, network, *tensors[:3], **tensors[3])
    except Exception as refused:  # the rotation that most of them share, which is compiled
        pytest.skip(f"Neo's own network does not run in float64: {str(refused)[:80]}")
    made = several(kind, (40, 7), (2.0, 0.5), torch.float64)
    used = session()
    found = call(kind, network, tensors, [made], [0], used)
    assert used.problems == []
    assert error(found, expected(kind, network, tensors, [made])) <= 1e-10


@EACH
def test_two_negatives_of_the_same_text_are_one(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 2, 7)
    once = call(kind, network, tensors, [entry(kind, 9, 5)] * 2, [0])
    one = [(9, neo.normal(9, kind.context, seed=5))]
    made = weighted_negative([one, one], [["a"], ["a"]], (2.0, 1.0), 1).at(0)[0]
    assert error(call(kind, network, tensors, [made, made], [0]), once) <= 2e-6


@JOINT
@pytest.mark.parametrize("control", ["mask", "blocks", "curve", "all of them"])
def test_mask_blocks_and_curve_act_on_several_negatives(family, control):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 2, 7)
    entries = [several(kind, (40, 9), (2.0, 0.5))] * 2
    used, asked = session(), {}
    if control in ("mask", "all of them"):
        replan(used, region=Region(torch.tensor([[1.0, 0.0]])))
        asked["where"] = _left_half(kind)
    if control in ("blocks", "all of them"):
        names = [name for name, _ in Neo().joint_model(network).named_blocks()]
        used.blocks, asked["blocks"] = frozenset(names[:1] + names[2:]), {0, *range(2, len(names))}
    if control in ("curve", "all of them"):
        replan(used, curve=parse_curve("0:1, 1:3"), progress=lambda: Progress(2, 4))
        asked["strength"] = (2.0, *STRENGTH[1:])
    used.begin_call()
    found = call(kind, network, tensors, entries, [0], used)
    assert used.problems == []
    assert error(found, expected(kind, network, tensors, entries, **asked)) <= LIMIT
    assert error(expected(kind, network, tensors, entries), found) > 1e-3


def _left_half(kind):
    """Of each image token, 1 in the left half of the picture and 0 elsewhere."""
    side = 4 if kind.image != 64 else 8
    where = torch.zeros(kind.image)
    where[: side * side].view(side, side)[:, : side // 2] = 1
    return where


@EACH
def test_an_image_without_a_negative_is_drawn_as_without_nag(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 2, 6)
    found = call(kind, network, tensors, [None, entry(kind, 9, 5)], [0])
    wanted = expected(kind, network, tensors, [None, entry(kind, 9, 5)])
    assert error(found[:1], wanted[:1]) <= 2e-6
    assert error(found[1:], wanted[1:]) <= LIMIT


@EACH
def test_a_second_call_uses_what_the_first_made_and_gives_the_same(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    used, one = session(), entry(kind, 5, 5)
    first = call(kind, network, tensors, [one], [0], used)
    assert torch.equal(call(kind, network, tensors, [one], [0], used), first)


@EACH
def test_nothing_stays_behind_after_a_call_or_an_error(family):
    kind = neo.KINDS[family]
    network, tensors = neo.build(kind), neo.inputs(kind, 1, 7)
    plain, before = expected(kind, network, tensors, [None]), functions()
    call(kind, network, tensors, [entry(kind, 5, 5)], [0])
    assert (hooks(network), functions()) == (0, before)
    assert torch.equal(expected(kind, network, tensors, [None]), plain)

    with pytest.raises(ZeroDivisionError):
        call(kind, network, tensors, [entry(kind, 5, 5)], [0], run=_breaking(network))
    assert (hooks(network), functions()) == (0, before)
    assert torch.equal(expected(kind, network, tensors, [None]), plain)


def _breaking(network):
    """An error in the middle of the last block's attention, as an interrupt or the host's own fault."""
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-4]

    def run(*args, **more):
        handle = linear.register_forward_hook(lambda *_: 1 / 0)
        try:
            return neo.run(*args, **more)
        finally:
            handle.remove()

    return run


def test_the_checkout_is_recognised_as_neo(backend):
    from nag_core.hosts import which

    host = which.detect()
    assert isinstance(host, Neo)
    assert host.attention_name == "attention_pytorch"
