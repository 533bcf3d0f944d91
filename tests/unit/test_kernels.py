"""The fused kernels against the float64 reference and their twin. On a GPU where there is one (marker gpu);
else in Triton's interpreter, which runs the same source on the CPU.
"""

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch

from nag_core.method import merge
from nag_core.method.focus import EVERYWHERE
from nag_core.method.guidance import Method, guide
from nag_core.method.joint import _Guided
from nag_core.method.layout import Layout
from nag_core.method.merge import Part
from nag_core.method.negative import Entry
from nag_core.method.rows import Group
from nag_core.method.rule import Rule, _probed, fused_kernels
from tests import reference

fused = pytest.importorskip(
    "nag_core.method.triton_kernels", reason="Triton is not installed (webui4 extra, Linux)"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (rows, tokens, channels): odd on purpose, and a power of two.
SHAPES = [(2, 5, 100), (1, 3, 320), (3, 1, 59), (1, 2, 1280), (1, 4, 1)]
DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="the interpreter is for machines without GPU"
        ),
    ),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def pair(shape, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2)]


def counter(device):
    return torch.zeros((), dtype=torch.int64, device=device)


def distance(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-300))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strength", [(4.0, 2.5, 0.25), (11.0, 1.0, 1.0), (0.3, 9.0, 0.6)], ids=str)
def test_at_most_twice_as_far_off_as_the_naive_formula(device, dtype, shape, strength):
    pos, neg = pair(shape, dtype, device)
    count = counter(device)
    found = fused.guide(pos, neg, strength, Method.NAG, count)
    wanted, clipped = reference.nag(pos.cpu(), neg.cpu(), *strength)
    naive = distance(reference.naive_nag(pos, neg, *strength).cpu(), wanted)
    # Of the largest value: the floor where the naive one is lucky. A GPU's fp32 division is off by two.
    rounding = torch.finfo(dtype).eps * (4 if device == "cuda" and dtype is torch.float32 else 0.5)
    assert distance(found.cpu(), wanted) <= max(2 * naive, rounding)
    assert int(count) == clipped


@pytest.mark.parametrize("method", list(Method), ids=lambda method: method.value)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_agrees_with_the_twin(device, dtype, method):
    pos, neg = pair((2, 5, 100), dtype, device)
    count = counter(device)
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), method, count)
    twin = guide(pos, neg, 4.0, 2.5, 0.25, method)
    assert distance(found, twin.out) <= torch.finfo(dtype).eps * (4 if device == "cuda" else 1)
    assert int(count) == int(twin.clipped)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_limits_and_denormals_stay_finite(device, dtype):
    limits = torch.finfo(dtype)
    special = torch.tensor([0.0, limits.max, -limits.max, limits.tiny / 4, -limits.tiny / 4], dtype=dtype)
    pos = special[:, None].expand(5, 40).contiguous()[None].to(device)
    for neg in (pos, -pos, torch.zeros_like(pos)):
        for method in Method:
            found = fused.guide(pos, neg, (20.0, 10.0, 1.0), method, counter(device))
            assert torch.isfinite(found).all()
            assert (found[:, 0] == 0).all(), "a zero token stays zero"


def test_a_nan_of_the_host_stays_one(device):
    """The host checks its result for NaN; the kernel must not hide one behind a limit."""
    pos, neg = pair((1, 3, 40), torch.float16, device)
    pos[0, 1, 7] = float("nan")
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), Method.NAG, counter(device))
    assert found[0, 1].isnan().all()
    assert torch.isfinite(found[0, [0, 2]]).all()


def test_the_result_may_be_written_over_the_positive(device):
    pos, neg = pair((2, 5, 100), torch.float32, device)
    wanted = guide(pos, neg, 4.0, 2.5, 0.25).out
    fused.guide(pos[1:], neg[1:], (4.0, 2.5, 0.25), Method.NAG, counter(device), out=pos[1:])
    assert distance(pos[1:], wanted[1:]) <= 1e-6
    assert distance(pos[:1], wanted[:1]) > 1e-2, "rows beside it are not touched"


def test_rows_that_are_not_contiguous(device):
    pos, neg = (x.transpose(0, 1) for x in pair((5, 2, 100), torch.float32, device))
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), Method.NAG, counter(device))
    assert distance(found, guide(pos, neg, 4.0, 2.5, 0.25).out) <= 1e-6


def parts(layout, tokens, heads, width, dtype, device, batch=2):
    """The three partial attentions of a joint sequence, with outputs laid out as kernels return them."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(batch, layout.total, heads, width).to(dtype).transpose(1, 2) for _ in range(3))
    own, neg = layout.unguided_part, layout.neg_part(tokens)
    taken = ((slice(None), layout.image_part), (own, layout.pos_part), (slice(None), neg))
    found = [merge._flash_cpu(q[:, :, queries], k[:, :, keys], v[:, :, keys]) for queries, keys in taken]
    return [Part(part.out.to(device), part.lse.to(device)) for part in found]


@pytest.mark.parametrize(
    "layout", [Layout(7, 9, 20), Layout(7, 9, 20, image_first=True)], ids=["first", "last"]
)
@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    [*product([3], [24], DTYPES), (2, 64, torch.bfloat16), (1, 5, torch.float32)],
    ids=str,
)
def test_merge_and_guide_agree_with_the_twin(device, dtype, heads, width, layout):
    """Five of the seven places of the negative's slot are used."""
    to_image, to_pos, to_neg = parts(layout, 5, heads, width, dtype, device)
    own, pos, neg = layout.unguided_part, layout.pos_part, layout.neg_part(5)
    spans = (pos.start, pos.stop, neg.start, neg.stop, own.start, own.stop)
    found, twin = (torch.zeros(2, layout.total, heads * width, dtype=dtype, device=device) for _ in range(2))
    rule = Rule(4.0, 2.5, 0.5, Method.NAG, counter(device))
    group = Group(slice(None), (Entry(torch.zeros(5, 1)),) * 2)
    rule = replace(rule, may_fuse=False)
    _Guided(None, None, None, twin, layout, group, rule, EVERYWHERE).merge(to_image, to_pos, [to_neg])
    count = counter(device)
    fused.merge_and_guide(to_image, to_pos, to_neg, found, spans, (4.0, 2.5, 0.5), Method.NAG, count)
    for part in (pos, neg, layout.image_part):
        assert distance(found[:, part], twin[:, part]) <= 2 * torch.finfo(dtype).eps
    assert int(count) == int(rule.counter) > 0


def test_the_choice_falls_on_the_twin_where_there_is_no_gpu_and_counts_alike(device):
    pos, neg = pair((2, 5, 100), torch.float32, device)
    assert (fused_kernels(pos) is None) == (device == "cpu")
    rule = Rule(4.0, 2.5, 0.25, Method.NAG, counter(device))
    wanted = guide(pos, neg, 4.0, 2.5, 0.25)
    assert distance(rule.guide(pos, neg), wanted.out) <= 1e-6
    rule.guide_in_place(pos, neg)
    assert distance(pos, wanted.out) <= 1e-6
    assert int(rule.counter) == 2 * int(wanted.clipped) > 0


def test_triton_that_gives_other_numbers_is_not_used(device, monkeypatch):
    """A compiler of another version, a device it does not know."""
    own = fused.guide, fused.merge_and_guide

    def wrong(value, pos, neg, strength, method, counter):
        return own[0](pos, neg, strength, method, counter) * value

    def wrong_parts(value, image, pos, neg, out, *rest):
        own[1](image, pos, neg, out, *rest)
        out.mul_(value)

    for value in (1.5, float("nan")):
        for name, fake in (("guide", wrong), ("merge_and_guide", wrong_parts)):
            with monkeypatch.context() as patched:
                patched.setattr(fused, name, partial(fake, value))
                _probed.cache_clear()
                assert _probed(torch.device(device), torch.float32) is None
    _probed.cache_clear()
    assert _probed(torch.device(device), torch.float32) is fused


def test_an_inert_rule_returns_the_positive_itself(device):
    pos, neg = pair((2, 5, 100), torch.float32, device)
    before = pos.clone()
    rule = Rule(0.0, 2.5, 0.25, Method.NAG, counter(device))
    assert rule.guide(pos, neg) is pos
    rule.guide_in_place(pos, neg)
    assert torch.equal(pos, before)
