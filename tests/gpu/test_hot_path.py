"""What only a GPU can show: no wait for the device in a guided step, and the fused path's numbers."""

from contextlib import contextmanager

import pytest
import torch

from nag_core.method import fallback
from nag_core.method.fallback import FUSED, fused_kernels
from nag_core.method.lse_kernels import lse_kernel
from tests import joint_models as models
from tests import joint_reference as literal
from tests.unit import test_cross, test_joint

pytestmark = pytest.mark.gpu
DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(params=["Triton", "CUDA", "operations"])
def implementation(request, monkeypatch):
    """The best that there is from this one on."""
    first = ["Triton", "CUDA", "operations"].index(request.param)
    monkeypatch.setattr(fallback, "FUSED", FUSED[first:])
    fallback.forget()
    yield request.param
    fallback.forget()


@contextmanager
def no_waiting():
    """Any synchronisation of host and device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(tensors, dtype):
    return [x.to("cuda", dtype) for x in tensors]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cross_attention_step_never_waits_for_the_device(dtype, implementation):
    module = test_cross.Attention(dtype).cuda()
    tensors = on_gpu(test_cross.tensors(4), dtype)
    used, entries = test_cross.session(), [test_cross.entry(), test_cross.entry(seed=2)]
    # Rows 2 and 3; the first step may wait: it probes the kernels and brings the negative over.
    test_cross.run(*tensors, entries, [1, 0], module=module, used=used)
    with no_waiting():
        test_cross.run(*tensors, entries, [1, 0], module=module, used=used)
    assert used.problems == []
    assert used.report().clipped_share is not None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [models.FluxLike, models.Sd3Like])
def test_a_joint_step_never_waits_and_is_at_most_twice_as_far_off_as_a_naive_run(kind, dtype, implementation):
    rule = literal.flux if kind is models.FluxLike else literal.sd3
    exact, network = models.build(kind, dtype).double(), models.build(kind, dtype).cuda()
    tensors = test_joint.inputs(2, 7, dtype)
    entries = [test_joint.entry(5, 5, dtype), test_joint.entry(5, 6, dtype)]
    used = test_joint.session()
    assert lse_kernel(torch.zeros(1, 2, 9, models.HEAD, device="cuda", dtype=dtype)) is not None

    def run():
        return test_joint.call(network, on_gpu(tensors, dtype), entries, [0], used)

    run()
    inputs = on_gpu(tensors, dtype)
    with no_waiting():
        found = test_joint.call(network, inputs, entries, [0], used)
    wide = [x.double() for x in tensors]
    wanted = test_joint.expected(rule, exact, wide, [type(one)(one.context.double()) for one in entries])
    naive = test_joint.expected(rule, models.build(kind, dtype), tensors, entries)
    assert test_joint.error(found.cpu(), wanted) <= 2 * test_joint.error(naive, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES], ids=str)
def test_the_fused_kernels_are_in_use(dtype):
    assert fused_kernels(torch.zeros(1, device="cuda", dtype=dtype)) is not None
