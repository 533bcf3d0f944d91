"""Eq. 7-10 against the literal float64 reference, and the sentences of the docstrings."""

import pytest
import torch

from nag_core.method.guidance import Method, extrapolate, guide, l1_norm
from nag_core.settings.parse import METHODS
from tests import reference

SHAPES = [(1, 1, 1), (2, 7, 40), (3, 33, 59), (1, 130, 111), (2, 64, 1280)]
TWO_OUTPUTS = [method for method in Method if not method.needs_lse]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def pair(shape, dtype, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    pos, neg = (torch.randn(shape, generator=generator, dtype=torch.float64) * spread for _ in range(2))
    return pos.to(dtype), neg.to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("phi", "tau", "alpha"), [(4, 2.5, 0.25), (2, 2.5, 0.5), (0.5, 10, 1.0), (20, 1, 0.375)]
)
def test_error_is_at_most_twice_that_of_a_naive_implementation_in_the_same_dtype(
    shape, dtype, phi, tau, alpha
):
    pos, neg = pair(shape, dtype)
    truth, _ = reference.nag(pos, neg, phi, tau, alpha)
    naive = (reference.naive_nag(pos, neg, phi, tau, alpha).double() - truth).abs().max()
    ours = (guide(pos, neg, phi, tau, alpha).out.double() - truth).abs().max()
    # A one-element tensor can come out exact by luck: then one rounding of the result is the floor.
    floor = truth.abs().max() * torch.finfo(dtype).eps / 2
    assert ours <= 2 * max(naive, floor)


def test_float64_agrees_with_the_reference_to_rounding_and_counts_the_same_clipped_tokens():
    pos, neg = pair((3, 50, 64), torch.float64)
    truth, clipped = reference.nag(pos, neg, 1.0, 2.0, 0.5)
    guided = guide(pos, neg, 1.0, 2.0, 0.5)
    assert (guided.out - truth).abs().max() < 1e-14
    assert int(guided.clipped) == clipped
    assert 0 < clipped < 150, "the case must have both kinds of token to mean anything"


def test_phi_zero_returns_the_positive_output_itself():
    pos, neg = pair((2, 5, 8), torch.float32)
    for method in TWO_OUTPUTS:
        assert guide(pos, neg, 0, 2.5, 0.5, method).out is pos


def test_alpha_zero_returns_the_positive_output_itself():
    pos, neg = pair((2, 5, 8), torch.float32)
    assert guide(pos, neg, 4, 2.5, 0.0).out is pos


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_positive_and_negative_change_nothing(dtype):
    pos, _ = pair((2, 9, 40), dtype)
    assert torch.equal(guide(pos, pos.clone(), 4, 2.5, 0.5).out, pos)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", TWO_OUTPUTS)
def test_zero_tokens_and_huge_values_stay_finite(dtype, method):
    limit = torch.finfo(dtype).max
    tiny = torch.finfo(dtype).tiny
    values = torch.tensor([0.0, tiny, -tiny, 1.0, limit / 2, limit, -limit], dtype=dtype)
    cases = torch.cartesian_prod(values, values)
    pos = cases[:, :1].expand(-1, 1280).contiguous()[None]
    neg = cases[:, 1:].expand(-1, 1280).contiguous()[None]
    for phi in (0.25, 4, 20):
        out = guide(pos, neg, phi, 2.5, 0.5, method).out
        assert torch.isfinite(out).all()
        assert out.dtype is dtype


def test_fp16_norm_does_not_overflow_where_a_half_precision_sum_does():
    """ComfyUI-NAG's output goes non-finite from mean |z| = 51 on at 1280 channels."""
    pos, neg = pair((1, 4, 1280), torch.float16, spread=200.0)
    assert torch.isinf(pos.abs().sum(-1, dtype=torch.float16)).any()
    out = guide(pos, neg, 4, 2.5, 0.25).out
    truth, _ = reference.nag(pos, neg, 4, 2.5, 0.25)
    assert (out.double() - truth).abs().max() <= 2e-3 * truth.abs().max()


def test_norm_is_l1_over_the_whole_hidden_dim_not_per_head():
    z = torch.tensor([[[3.0, -4.0, 0.0, 1.0]]])
    assert l1_norm(z).item() == 8.0


def test_tau_bounds_the_growth_of_every_token():
    pos, neg = pair((2, 40, 64), torch.float64)
    out = guide(pos, neg, 20, 2.5, 1.0).out
    growth = l1_norm(out) / l1_norm(pos)
    assert growth.max() <= 2.5 * (1 + 1e-12)


def test_nasa_is_eq_5_and_the_ablations_leave_out_one_step_each():
    pos, neg = pair((2, 9, 32), torch.float64)
    assert torch.allclose(guide(pos, neg, 3, 2.5, 0.5, Method.NASA).out, pos - 3 * neg, rtol=1e-14)
    bare = guide(pos, neg, 3, 2.5, 0.5, Method.NO_NORMALISATION).out
    assert torch.allclose(bare, 0.5 * extrapolate(pos, neg, 3) + 0.5 * pos, rtol=1e-13)
    unrefined = guide(pos, neg, 3, 2.5, 0.5, Method.NO_REFINEMENT).out
    assert torch.allclose(unrefined, reference.nag(pos, neg, 3, 2.5, 1.0)[0], rtol=1e-13)


def test_inputs_are_left_as_they_were():
    pos, neg = pair((2, 9, 32), torch.float32)
    before = pos.clone(), neg.clone()
    guide(pos, neg, 4, 2.5, 0.5)
    assert torch.equal(pos, before[0])
    assert torch.equal(neg, before[1])


def test_non_contiguous_inputs_give_the_same():
    pos, neg = pair((4, 9, 32), torch.float32)
    strided = guide(pos.transpose(0, 1).contiguous().transpose(0, 1), neg, 4, 2.5, 0.5).out
    assert torch.equal(strided, guide(pos, neg, 4, 2.5, 0.5).out)


def test_a_batch_row_does_not_depend_on_the_others():
    pos, neg = pair((3, 9, 32), torch.float32)
    whole = guide(pos, neg, 4, 2.5, 0.5).out
    assert torch.equal(guide(pos[1:2], neg[1:2], 4, 2.5, 0.5).out, whole[1:2])


def test_a_zero_token_is_not_counted_as_clipped():
    zero = torch.zeros(1, 3, 8)
    assert int(guide(zero, zero, 4, 2.5, 0.5).clipped) == 0


def test_large_pictures_are_worked_on_in_parts_with_the_same_result(monkeypatch):
    from nag_core.method import guidance

    pos, neg = pair((2, 33, 64), torch.float16)
    whole = guide(pos, neg, 2, 2.5, 0.5)
    monkeypatch.setattr(guidance, "CPU_CHUNK", 640)
    parts = guide(pos, neg, 2, 2.5, 0.5)
    assert torch.equal(parts.out, whole.out)
    assert int(parts.clipped) == int(whole.clipped)


def test_the_method_tokens_users_type_are_the_methods_there_are():
    assert tuple(method.value for method in Method) == METHODS
