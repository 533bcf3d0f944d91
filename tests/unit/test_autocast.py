"""What is computed in fp32 on purpose stays so under autocast, which A1111 draws in and library users may.

Autocast takes other operations down on a GPU than on a CPU; those that the method uses are on both lists.
"""

import pytest
import torch

from nag_core.hosts.a1111.host import A1111
from nag_core.method import guidance, heat, lean, sign_flip
from nag_core.method.guidance import Method
from nag_core.method.lse import log_sum_exp, together
from nag_core.method.merge import Part, merge
from tests.unit.test_a1111 import hypernetworks  # noqa: F401 - the modules that the adapter looks into

STRENGTH = (4.0, 2.5, 0.5)
HALF = [torch.bfloat16, torch.float16]
BY_OUTPUTS = [method for method in Method if not method.needs_lse]


def drawn(*shape, dtype, seed, size=2.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)


def parts(dtype, *shape):
    """Two parts with heads apart, or concatenated by a shape of three."""
    lse = [drawn(1, 4, 9, dtype=torch.float32, seed=seed) for seed in (3, 4)]
    return [Part(drawn(*shape, dtype=dtype, seed=seed), one) for seed, one in enumerate(lse)]


def by_operations(pos, neg, method):
    counter = torch.zeros((), dtype=torch.int64)
    return lean.guide(pos, neg, STRENGTH, method, counter), counter


def merged_and_guided(dtype, method):
    own, pos, neg = *parts(dtype, 1, 4, 9, 8), parts(dtype, 1, 4, 9, 8)[0]
    out, counter = torch.zeros(1, 9, 32, dtype=dtype), torch.zeros((), dtype=torch.int64)
    spans = (0, 2, 2, 4, 0, 9)
    lean.merge_and_guide(own, pos, neg, out, spans, STRENGTH, method, counter)
    return out, counter


def operations(dtype):
    """Everything that a method computes, by name; each gives a tensor or a tuple of them."""
    q, k = drawn(1, 4, 9, 64, dtype=dtype, seed=5), drawn(1, 4, 77, 64, dtype=dtype, seed=6)
    pos, neg = (drawn(1, 9, 32, dtype=dtype, seed=seed, size=3.0) for seed in (7, 8))
    both, heads = parts(dtype, 1, 9, 32), parts(dtype, 1, 4, 9, 8)
    found = {
        "log-sum-exp": lambda: log_sum_exp(q, k),
        "several together": lambda: tuple(together(both, [0.25, 0.75])),
        "their mean": lambda: guidance.average([pos, neg], [0.25, 0.75]),
        "merge": lambda: merge(*heads),
        "L1 norm": lambda: guidance.l1_norm(pos * 1000),
        "heat": lambda: heat.relative_change(pos, neg),
        "VSF": lambda: sign_flip.flip(*both, 2.0, 0.5),
        "VSF in few operations": lambda: lean.flip(*both, STRENGTH),
    }
    for method in Method:
        found[f"{method.value}, merged"] = lambda method=method: merged_and_guided(dtype, method)
    for method in BY_OUTPUTS:
        found[method.value] = lambda method=method: tuple(guidance.guide(pos, neg, *STRENGTH, method))
        found[f"{method.value} in few operations"] = lambda method=method: by_operations(pos, neg, method)
    return found


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", operations(torch.float32))
def test_every_computation_is_to_the_bit_what_it_is_without_autocast(name, dtype):
    """Log-sum-exps came in 16 bits, and Orthogonal's share of z+ was a product of 16 bits."""
    wanted = operations(dtype)[name]()
    with torch.autocast("cpu", dtype=dtype):
        found = operations(dtype)[name]()
    pairs = [(found, wanted)] if isinstance(wanted, torch.Tensor) else zip(found, wanted, strict=True)
    for one, other in pairs:
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_log_sum_exp_is_that_of_the_exact_logits(dtype):
    q, k = drawn(1, 4, 9, 64, dtype=dtype, seed=5), drawn(1, 4, 77, 64, dtype=dtype, seed=6)
    wanted = (q.double() @ k.double().transpose(-1, -2) / 8).logsumexp(-1)
    with torch.autocast("cpu", dtype=dtype):
        found = log_sum_exp(q, k)
    assert found.dtype is torch.float32
    assert float((found - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("upcast", [True, False])
def test_a1111s_setting_to_attend_in_fp32_holds_for_the_negative(dtype, upcast, monkeypatch):
    """Autocast took what was made fp32 down again, in which it must be for models that overflow in fp16."""
    import modules.shared

    monkeypatch.setattr(modules.shared.opts, "upcast_attn", upcast)
    q, k, v = (drawn(2, count, 64, dtype=dtype, seed=seed) for seed, count in enumerate((9, 77, 77)))
    seen, plain = [], torch.nn.functional.scaled_dot_product_attention

    def attention(*given):
        seen.append(plain(*given))
        return seen[-1]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with torch.autocast("cpu", dtype=dtype):
        found = A1111().attention(q, k, v, {"n_heads": 4})
    assert seen[0].dtype is (torch.float32 if upcast else dtype)
    assert found.dtype is dtype
    heads = (x.double().unflatten(-1, (4, -1)).transpose(1, 2) for x in (q, k, v))
    exact = plain(*heads).transpose(1, 2).flatten(2)
    # Nothing but the result is rounded.
    rounded = float((exact.to(dtype).double() - exact).norm())
    assert (float((found.double() - exact).norm()) < 1.01 * rounded) is upcast


def test_a_device_without_autocast_needs_none():
    """Meta tensors stand for those of a backend that torch's autocast does not know."""
    q = torch.empty(1, 4, 9, 64, device="meta")
    assert log_sum_exp(q, q).dtype is torch.float32
