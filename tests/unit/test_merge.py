"""Attention in parts: the merge against undivided attention, and the choice of the kernel."""

from types import SimpleNamespace

import pytest
import torch

from nag_core.method import lse_kernels, merge
from nag_core.method.lse_kernels import Kernel
from nag_core.method.merge import Part

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def tensors(dtype, keys=50, scale=1.0, width=16):
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, 3, 21, width, generator=generator, dtype=torch.float64) * scale
    k, v = (torch.randn(2, 3, keys, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def softmax_attention(q, k, v):
    """The definition, in the tensors' own dtype."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def in_parts(q, k, v, at):
    kernel = lse_kernels.lse_kernel(q)
    return merge.merge(
        *(kernel.run(q, k[:, :, keys], v[:, :, keys]) for keys in (slice(at), slice(at, None)))
    )


@pytest.mark.parametrize("at", [1, 7, 49])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_parts_are_the_whole(dtype, at):
    q, k, v = tensors(dtype)
    exact = softmax_attention(q.double(), k.double(), v.double())
    naive = (softmax_attention(q, k, v).double() - exact).norm() / exact.norm()
    assert (in_parts(q, k, v, at).double() - exact).norm() / exact.norm() <= max(2 * naive, 1e-14)


def test_parts_of_very_unequal_weight_stay_finite_and_exact():
    """Logits of several hundred: the smaller part's share underflows to nothing, never to NaN."""
    q, k, v = tensors(torch.float32, scale=200.0)
    exact = softmax_attention(q.double(), k.double(), v.double())
    found = in_parts(q, k, v, 20)
    assert torch.isfinite(found).all()
    assert (found.double() - exact).norm() / exact.norm() < 1e-4


def test_a_mean_of_opposite_largest_values_does_not_overflow():
    limit = torch.finfo(torch.float32).max
    out, lse = torch.full((1, 1, 1, 4), limit), torch.zeros(1, 1, 1)
    assert (merge.merge(Part(out, lse), Part(-out, lse)) == 0).all()


def test_a_kernel_is_tried_once_per_device_dtype_and_width(monkeypatch):
    runs, flash = [], lse_kernels.FLASH_CPU.run

    def counted(q, k, v):
        runs.append(q.shape)
        return flash(q, k, v)

    monkeypatch.setattr(lse_kernels, "FLASH_CPU", Kernel("counted", counted))
    lse_kernels._probed.cache_clear()
    try:
        assert lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 24)).name == "counted"
        assert lse_kernels.lse_kernel(torch.zeros(2, 4, 9, 24)).name == "counted"
        assert len(runs) == 2  # one probe, two parts
    finally:
        lse_kernels._probed.cache_clear()


@pytest.mark.parametrize("how", ["missing", "wrong base", "other shape"])
def test_a_kernel_that_fails_its_probe_is_not_used(monkeypatch, how):
    """Signatures and conventions of these private ops moved between torch versions."""

    def broken(q, k, v):
        if how == "missing":
            return torch.ops.aten._no_such_attention(q, k, v)
        out, lse = lse_kernels.FLASH_CPU.run(q, k, v)
        return Part(out, lse * 1.4426950408889634 if how == "wrong base" else lse[..., :-1])

    with monkeypatch.context() as patched:
        patched.setattr(lse_kernels, "_candidates", lambda q, k, v: [Kernel("broken", broken)])
        lse_kernels._probed.cache_clear()
        assert lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 16)) is None
    lse_kernels._probed.cache_clear()


def test_out_of_memory_in_the_probe_is_no_verdict_on_the_kernel(monkeypatch):
    def out_of_memory(q, k, v):
        raise torch.cuda.OutOfMemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(lse_kernels, "_candidates", lambda q, k, v: [Kernel("full", out_of_memory)])
        lse_kernels._probed.cache_clear()
        with pytest.raises(torch.cuda.OutOfMemoryError):
            lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 16))
    assert lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 16)) is not None


def test_the_probe_leaves_the_jobs_random_numbers_alone():
    lse_kernels._probed.cache_clear()
    torch.manual_seed(1)
    wanted = torch.randn(3)
    torch.manual_seed(1)
    lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 16))
    assert torch.equal(torch.randn(3), wanted)


@pytest.mark.parametrize(
    ("choice", "first"), [(1, lse_kernels.FLASH), (2, lse_kernels.EFFICIENT), (3, lse_kernels.CUDNN)]
)
def test_on_a_gpu_the_kernel_that_torch_itself_would_take_is_tried_first(monkeypatch, choice, first):
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda q, k, v: choice)
    tensors = [SimpleNamespace(device=torch.device("cuda")) for _ in range(3)]
    candidates = lse_kernels._candidates(*tensors)
    assert candidates[0] is first
    assert {kernel.name for kernel in candidates} == {"flash", "memory-efficient", "cuDNN"}


def test_devices_without_such_a_kernel_and_odd_dtypes_take_the_fallback():
    assert lse_kernels._candidates(*(torch.zeros(1, 1, 2, 8, device="meta") for _ in range(3))) == []
    assert lse_kernels.lse_kernel(torch.zeros(1, 1, 5, 16, dtype=torch.int8)) is None
