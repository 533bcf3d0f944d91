"""What stands in for guidance.py where that is faster: the fused kernels and the few operations, against the
float64 reference. On a GPU where there is one (marker gpu); else Triton's in its interpreter and CUDA's
compiled for the CPU, the same source either way.
"""

import functools
from itertools import product
from typing import NamedTuple

import pytest
import torch

from nag_core.method import cuda_kernels, fallback, lean, lse_kernels, merge, nvrtc, sign_flip
from nag_core.method.cuda_source import source
from nag_core.method.guidance import Method, guide
from nag_core.method.merge import Part
from tests import cuda_on_cpu, reference
from tests.extras import often

# What needs the two outputs alone.
PLAIN = [Method.NAG, Method.NASA, Method.NO_NORMALISATION, Method.NO_REFINEMENT]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (rows, tokens, channels): odd on purpose, and a power of two.
SHAPES = [(2, 5, 100), (1, 3, 320), (3, 1, 59), (1, 2, 1280), (1, 4, 1)]
DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="the stand-ins are for machines without GPU"
        ),
    ),
]


@pytest.fixture(scope="session")
def on_cpu(tmp_path_factory):
    """`cuda_kernels._kernels` for the CPU."""
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ here to compile the CUDA kernels for the CPU")
    folder = tmp_path_factory.mktemp("cuda")
    return functools.cache(
        lambda _device, dtype: cuda_on_cpu.kernels(source, dtype, folder, cuda_kernels.NAMES)
    )


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=["Triton", "CUDA", "operations"])
def fused(request, device, monkeypatch):
    if request.param == "operations":
        return lean
    if request.param == "Triton":
        reason = "Triton is not installed (webui4 extra, Linux)"
        return pytest.importorskip("nag_core.method.triton_kernels", reason=reason)
    if device == "cpu":
        monkeypatch.setattr(cuda_kernels, "_kernels", request.getfixturevalue("on_cpu"))
        return cuda_kernels
    try:
        nvrtc.library()
        from torch.cuda._utils import _cuda_load_module  # noqa: F401
    except (OSError, ImportError) as error:
        pytest.skip(f"this torch brings no NVRTC or no loader: {error}")
    return cuda_kernels


def pair(shape, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2)]


def counter(device):
    return torch.zeros((), dtype=torch.int64, device=device)


def distance(found, wanted):
    size = wanted.double().abs().amax().clamp_min(1e-300)
    return float(((found.double() - wanted.double()) / size).norm() / (wanted.double() / size).norm())


def ulps(fused, device, dtype):
    """How far off two ways of computing may be, in eps. A GPU's fp32 division is off by two; in fp32 the
    operations are there only for a kernel that has failed, and torch's norm on the CPU is not exact.
    """
    return 16 if fused is lean and dtype is torch.float32 else 4 if device == "cuda" else 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strength", [(4.0, 2.5, 0.25), (11.0, 1.0, 1.0), (0.3, 9.0, 0.6)], ids=str)
def test_at_most_twice_as_far_off_as_the_naive_formula(fused, device, dtype, shape, strength):
    pos, neg = pair(shape, dtype, device)
    count = counter(device)
    found = fused.guide(pos, neg, strength, Method.NAG, count)
    wanted, clipped = reference.nag(pos.cpu(), neg.cpu(), *strength)
    naive = distance(reference.naive_nag(pos, neg, *strength).cpu(), wanted)
    # Of the largest value: the floor where the naive one is lucky.
    rounding = torch.finfo(dtype).eps * (ulps(fused, device, dtype) if dtype is torch.float32 else 0.5)
    assert distance(found.cpu(), wanted) <= max(2 * naive, rounding)
    assert int(count) == clipped


@pytest.mark.parametrize("method", PLAIN, ids=lambda method: method.value)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_agrees_with_the_rule(fused, device, dtype, method):
    pos, neg = pair((2, 5, 100), dtype, device)
    count = counter(device)
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), method, count)
    twin = guide(pos, neg, 4.0, 2.5, 0.25, method)
    assert distance(found, twin.out) <= torch.finfo(dtype).eps * ulps(fused, device, dtype)
    assert int(count) == int(twin.clipped)


@pytest.mark.parametrize("method", PLAIN, ids=lambda method: method.value)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_which_one_runs_changes_a_picture_by_rounding_only(fused, device, dtype, method):
    """Under 1 % of the numbers come out as the neighbour of what guidance.py gives, the others as that."""
    pos, neg = pair((1, 8, 640), dtype, device, seed=1)
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), method, counter(device))
    rule = guide(pos, neg, 4.0, 2.5, 0.25, method).out
    apart = (found.view(torch.int16).int() - rule.view(torch.int16).int()).abs()
    assert apart[found.sign() == rule.sign()].max() <= 1
    # Triton's interpreter cuts bits off where the compiled kernel rounds.
    if not (device == "cpu" and dtype is torch.bfloat16 and "triton" in fused.__name__):
        assert (found != rule).double().mean() < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_limits_and_denormals_stay_finite(fused, device, dtype):
    limits = torch.finfo(dtype)
    special = torch.tensor([0.0, limits.max, -limits.max, limits.tiny / 4, -limits.tiny / 4], dtype=dtype)
    pos = special[:, None].expand(5, 40).contiguous()[None].to(device)
    for neg in (pos, -pos, torch.zeros_like(pos)):
        for method in PLAIN:
            found = fused.guide(pos, neg, (20.0, 10.0, 1.0), method, counter(device))
            assert torch.isfinite(found).all()
            assert (found[:, 0] == 0).all(), "a zero token stays zero"


@pytest.mark.parametrize("width", [1280, 5120])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_near_the_dtypes_limit_are_guided_as_well_as_others(fused, device, dtype, width):
    """At phi 20, where (1 + phi) z+ and the sum over the row are far beyond it."""
    pos, neg = pair((1, 4, width), dtype, "cpu")
    limit = torch.finfo(dtype).max
    pos, neg = ((x.double() / x.double().abs().amax() * limit * 0.9).to(dtype) for x in (pos, neg))
    neg[:, 1] = pos[:, 1] / 2 + neg[:, 1] / 50  # not clipped
    count = counter(device)
    wanted, clipped = reference.nag(pos, neg, 20.0, 10.0, 1.0)
    found = fused.guide(pos.to(device), neg.to(device), (20.0, 10.0, 1.0), Method.NAG, count)
    assert distance(found.cpu(), wanted.clamp(-limit, limit)) <= 4 * torch.finfo(dtype).eps
    assert int(count) == clipped


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_equal_positive_and_negative_change_nothing(fused, device, dtype):
    pos, _ = pair((2, 9, 320), dtype, device)
    for strength in ((4.0, 2.5, 0.5), (11.0, 1.0, 0.3), (20.0, 10.0, 1.0)):
        assert torch.equal(fused.guide(pos, pos.clone(), strength, Method.NAG, counter(device)), pos)


def test_a_nan_of_the_host_stays_one(fused, device):
    """The host checks its result for NaN; nothing must hide one behind a limit."""
    pos, neg = pair((1, 3, 40), torch.float16, device)
    pos[0, 1, 7] = float("nan")
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), Method.NAG, counter(device))
    assert found[0, 1, 7].isnan()
    assert torch.isfinite(found[0, [0, 2]]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_result_may_be_written_over_the_positive(fused, device, dtype):
    pos, neg = pair((2, 5, 100), dtype, device)
    before, wanted = pos.clone(), guide(pos, neg, 4.0, 2.5, 0.25).out
    fused.guide(pos[1:], neg[1:], (4.0, 2.5, 0.25), Method.NAG, counter(device), out=pos[1:])
    assert distance(pos[1:], wanted[1:]) <= 4 * torch.finfo(dtype).eps
    assert torch.equal(pos[:1], before[:1]), "rows beside it are not touched"


def test_rows_that_are_not_contiguous(fused, device):
    pos, neg = (x.transpose(0, 1) for x in pair((5, 2, 100), torch.float32, device))
    found = fused.guide(pos, neg, (4.0, 2.5, 0.25), Method.NAG, counter(device))
    assert distance(found, guide(pos, neg, 4.0, 2.5, 0.25).out) <= 1e-6


class Layout(NamedTuple):
    """[neg | pos | image], or [image | pos | neg]: the negative's slot has 7 places, the prompt 9."""

    image_first: bool
    total: int = 36

    @property
    def image(self):
        return slice(0, 20) if self.image_first else slice(16, 36)

    @property
    def pos(self):
        return slice(20, 29) if self.image_first else slice(7, 16)

    @property
    def own(self):
        return slice(0, 29) if self.image_first else slice(7, 36)

    def neg(self, tokens):
        return slice(29, 29 + tokens) if self.image_first else slice(0, tokens)

    def spans(self, tokens):
        return tuple(x for one in (self.pos, self.neg(tokens), self.own) for x in (one.start, one.stop))


def parts(layout, tokens, heads, width, dtype, device, batch=2):
    """The three partial attentions of a joint sequence, with outputs laid out as kernels return them, in the
    middle of memory that holds NaN.
    """
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(batch, layout.total, heads, width).to(dtype).transpose(1, 2) for _ in range(3))
    taken = (slice(None), layout.image), (layout.own, layout.pos), (slice(None), layout.neg(tokens))
    found = [
        lse_kernels._flash_cpu(q[:, :, queries], k[:, :, keys], v[:, :, keys]) for queries, keys in taken
    ]
    return [Part(amid(part.out, device), amid(part.lse, device)) for part in found]


def amid(x, device):
    """A copy of `x` with NaN before and behind it."""
    around = torch.full((x.numel() + 2000,), float("nan"), dtype=x.dtype, device=device)
    copy = torch.as_strided(around, x.shape, x.stride(), 1000)
    copy.copy_(x)
    return copy


def apart(to_image, to_pos, to_neg, layout, neg, strength, out):
    """The same by `merge.merge` and `guidance.guide`; how many tokens tau clipped."""

    out[:, layout.pos] = merged(to_image, to_pos, layout.pos, layout.own.start)
    out[:, neg] = merged(to_image, to_neg, neg)
    z_pos = merged(to_image, to_pos, layout.image, layout.own.start)
    z_neg = merged(to_image, to_neg, layout.image)
    guided = guide(z_pos, z_neg, *strength, dtype=out.dtype)
    out[:, layout.image] = guided.out
    return int(guided.clipped)


def merged(to_image, other, at, first=0):
    """The tokens `at` over the image's keys and those of `other`, which begins at token `first`."""
    there = slice(at.start - first, at.stop - first)
    found = merge.merge(
        *(Part(*(x[:, :, one] for x in part)) for part, one in ((to_image, at), (other, there)))
    )
    return found.transpose(1, 2).flatten(2)


LAYOUTS = pytest.mark.parametrize("layout", [Layout(False), Layout(True)], ids=["first", "last"])


@LAYOUTS
@pytest.mark.parametrize(
    ("heads", "width", "dtype"),
    often(
        [
            *product([3], [24], DTYPES),
            (2, 64, torch.bfloat16),
            (1, 5, torch.float32),
            (5, 3, torch.float32),
            (38, 64, torch.float32),
        ],
        (3, 24, torch.bfloat16),
        (5, 3, torch.float32),
    ),
    ids=str,
)
def test_merge_and_guide_agree_with_both_apart(fused, device, dtype, heads, width, layout):
    """Five of the seven places of the negative's slot are used."""
    taken = parts(layout, 5, heads, width, dtype, device)
    pos, neg, spans = layout.pos, layout.neg(5), layout.spans(5)
    around = torch.full((2, layout.total + 2, heads * width), 7.0, dtype=dtype, device=device)
    found, twin = around[:, 1:-1], torch.zeros(2, layout.total, heads * width, dtype=dtype, device=device)
    clipped, count = apart(*taken, layout, neg, (4.0, 2.5, 0.5), twin), counter(device)
    fused.merge_and_guide(*taken, found, spans, (4.0, 2.5, 0.5), Method.NAG, count)
    for part in (pos, neg, layout.image):
        bound = 2 * torch.finfo(dtype).eps * ulps(fused, device, dtype)
        assert distance(found[:, part], twin[:, part]) <= bound
    assert int(count) == clipped > 0
    assert (around[:, 0] == 7).all(), "what is beside it is not touched"
    assert (around[:, -1] == 7).all()


@LAYOUTS
@pytest.mark.parametrize("method", often(PLAIN, Method.NASA), ids=lambda method: method.value)
def test_every_method_from_parts_is_the_one_on_their_merge(fused, device, method, layout):
    taken = parts(layout, 7, 2, 16, torch.float32, device)
    found = torch.zeros(2, layout.total, 32, device=device)
    fused.merge_and_guide(*taken, found, layout.spans(7), (4.0, 2.5, 0.5), method, counter(device))
    z_pos = merged(taken[0], taken[1], layout.image, layout.own.start)
    z_neg = merged(taken[0], taken[2], layout.image)
    assert distance(found[:, layout.image], guide(z_pos, z_neg, 4.0, 2.5, 0.5, method).out) <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_passes_its_own_probe(fused, device, dtype):
    assert fallback.agrees(fused, torch.device(device), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_operations_on_pieces_are_those_on_the_whole(device, dtype, monkeypatch):
    pos, neg = pair((3, 7, 64), dtype, device)
    whole, count = lean.guide(pos, neg, (2.0, 2.5, 0.5), Method.NAG, counter(device)), counter(device)
    layout = Layout(True)
    taken = parts(layout, 7, 3, 24, dtype, device)
    merged_whole, merged_pieces = (torch.zeros(2, 36, 72, dtype=dtype, device=device) for _ in range(2))
    given = ((4.0, 2.5, 0.5), Method.NAG, counter(device))
    lean.merge_and_guide(*taken, merged_whole, layout.spans(7), *given)
    worked_on, finish = [], lean._finish
    monkeypatch.setattr(
        lean, "_finish", lambda work, *rest: worked_on.append(work.numel()) or finish(work, *rest)
    )
    for size in (64 * 7 * 2, 64 * 5, 1):
        monkeypatch.setattr(lean, "CHUNK", size)
        found = lean.guide(pos, neg, (2.0, 2.5, 0.5), Method.NAG, count.zero_())
        lean.merge_and_guide(*taken, merged_pieces.zero_(), layout.spans(7), *given)
        for one, other in ((found, whole), (merged_pieces, merged_whole)):
            assert distance(one, other) <= torch.finfo(dtype).eps
        assert max(worked_on) <= max(size, 2 * 3 * 24), "or one token of every row"
        worked_on.clear()


# The two rules with kernels of their own.

STRENGTH = (3.5, 0.7, 0.5)  # of VSF scale and offset


@pytest.fixture(params=["Triton", "operations"])
def own(request, device):
    if request.param == "operations":
        return lean
    return pytest.importorskip("nag_core.method.triton_kernels", reason="Triton is not installed")


def flipped_parts(dtype, device, heads=3, width=20, tokens=9):
    """z+ and z- over disjoint keys as an attention in this dtype gives them, their reference and the naive
    formula's error.
    """
    generator = torch.Generator().manual_seed(5)
    shapes = (tokens, width), (14, width), (14, width)
    q, k, v = (torch.randn(2, heads, *one, generator=generator).to(dtype) for one in shapes)
    made, there = [], slice(9, None)
    for at in (slice(9), there):
        logits = q @ k[:, :, at].transpose(-1, -2) / width**0.5
        out = (logits.softmax(-1) @ v[:, :, at]).transpose(1, 2).flatten(2)
        made.append(Part(amid(out, device), amid(logits.float().logsumexp(-1), device)))
    truth = reference.vsf(q, k, v, [(there, 1.0)], *STRENGTH[:2])
    return made, truth, distance(reference.naive_vsf(q, k, v, there, *STRENGTH[:2]), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vsf_is_at_most_twice_as_far_off_as_the_naive_formula(own, device, dtype):
    made, truth, naive = flipped_parts(dtype, device)
    found = own.flip(*made, STRENGTH)
    assert found.dtype is dtype
    assert distance(found.cpu(), truth) <= 2 * naive
    own.flip(*made, STRENGTH, made[0].out)
    assert torch.equal(made[0].out, found), "written over z+"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vsf_of_limits_and_weights_far_apart_stays_finite(own, device, dtype):
    limit = torch.finfo(dtype).max
    values = torch.tensor([0.0, 1.0, limit, -limit], dtype=dtype)
    z_pos, z_neg = (
        one[None, :, None].expand(-1, -1, 8).contiguous().to(device)
        for one in torch.cartesian_prod(values, values).unbind(-1)
    )
    lse = torch.zeros(1, 2, 16, device=device)
    for gap in (-1e4, 0.0, 1e4):
        assert torch.isfinite(own.flip(Part(z_pos, lse + gap), Part(z_neg, lse), (20.0, 0.1, 0.0))).all()
    assert torch.equal(own.flip(Part(z_pos, lse), Part(z_neg, lse), (20.0, 1e4, 0.0)), z_pos)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_orthogonal_is_at_most_twice_as_far_off_as_the_naive_formula(own, device, dtype, shape):
    pos, neg = pair(shape, dtype, device)
    found = own.guide(pos, neg, (4.0, 2.5, 0.5), Method.ORTHOGONAL, counter(device))
    truth = reference.orthogonal(pos.cpu(), neg.cpu(), 4.0)
    along = (neg * pos).sum(-1, keepdim=True) / (pos * pos).sum(-1, keepdim=True) * pos
    naive = distance((pos - 4.0 * (neg - along)).cpu(), truth)
    rounding = torch.finfo(dtype).eps * (ulps(own, device, dtype) if dtype is torch.float32 else 0.5)
    assert distance(found.cpu(), truth) <= max(2 * naive, rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_orthogonal_of_zeros_limits_and_denormals_stays_finite(own, device, dtype):
    limits = torch.finfo(dtype)
    special = torch.tensor([0.0, limits.max, -limits.max, limits.tiny / 4, 1.0], dtype=dtype)
    pos, neg = (x[None, :, None].expand(-1, -1, 40).contiguous().to(device)
                for x in torch.cartesian_prod(special, special).unbind(-1))  # fmt: skip
    assert torch.isfinite(own.guide(pos, neg, (20.0, 2.5, 0.5), Method.ORTHOGONAL, counter(device))).all()


@LAYOUTS
@pytest.mark.parametrize("dtype", often(DTYPES, torch.bfloat16), ids=str)
@pytest.mark.parametrize("method", fallback.APART, ids=lambda method: method.value)
def test_both_from_parts_are_the_rule_on_their_merge(own, device, dtype, method, layout):
    taken = parts(layout, 5, 3, 24, dtype, device)
    found = torch.zeros(2, layout.total, 72, dtype=dtype, device=device)
    own.merge_and_guide(*taken, found, layout.spans(5), STRENGTH, method, counter(device))
    z_pos = merged(taken[0], taken[1], layout.image, layout.own.start)
    z_neg = merged(taken[0], taken[2], layout.image)
    if method is Method.VSF:
        own_lse = taken[1].lse[:, :, layout.image.start - layout.own.start :][:, :, :20]
        lse = torch.logaddexp(taken[0].lse[:, :, layout.image], own_lse)
        alone = taken[2].out[:, :, layout.image].transpose(1, 2).flatten(2)
        neg = Part(alone, taken[2].lse[:, :, layout.image])
        wanted = sign_flip.flip(Part(z_pos, lse), neg, *STRENGTH[:2], dtype)
    else:
        wanted = guide(z_pos, z_neg, *STRENGTH, method, dtype).out
    bound = 2 * torch.finfo(dtype).eps * ulps(own, device, dtype)
    assert distance(found[:, layout.image], wanted) <= bound
    for part, one, first in ((layout.pos, 1, layout.own.start), (layout.neg(5), 2, 0)):
        assert distance(found[:, part], merged(taken[0], taken[one], part, first).to(dtype)) <= bound


@pytest.mark.parametrize("method", fallback.APART, ids=lambda method: method.value)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_pass_their_own_probe_and_cuda_leaves_them_to_the_operations(own, device, dtype, method):
    assert fallback.agrees(own, torch.device(device), dtype, method)
    with pytest.raises(NotImplementedError, match=method.value):
        cuda_kernels._rule(STRENGTH, method)
