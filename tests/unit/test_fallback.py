"""Which implementation runs, and that a layer is guided whatever fails. On the CPU, taken for a GPU, with the
kernels' own source in Triton's interpreter and compiled by g++.
"""

import functools
import logging
from types import SimpleNamespace

import pytest
import torch

from nag_core.method import cuda_kernels, fallback, lean
from nag_core.method.cuda_source import source
from nag_core.method.fallback import FUSED, OPERATIONS, Implementation, chain, fused_kernels
from nag_core.method.guidance import Method, guide
from nag_core.method.merge import Part, merge
from nag_core.method.rule import Rule
from tests import cuda_on_cpu
from tests.extras import often
from tests.unit import test_cross

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_a_gpu(monkeypatch):
    """The CPU passes for a GPU, and what was found out about it is forgotten."""
    monkeypatch.setattr(fallback, "plain_is_best", lambda _like: False)
    monkeypatch.setattr(fallback, "has_fused", lambda _device, dtype: dtype is not torch.float64)
    monkeypatch.setattr(fallback, "FUSED", ())
    fallback.forget()
    yield
    fallback.forget()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ here to compile the CUDA kernels for the CPU")
    folder = tmp_path_factory.mktemp("cuda")
    return functools.cache(
        lambda _device, dtype: cuda_on_cpu.kernels(source, dtype, folder, cuda_kernels.NAMES)
    )


@pytest.fixture
def all_of_them(monkeypatch, compiled):
    """Triton, then CUDA, then operations."""
    pytest.importorskip("triton", reason="Triton is not installed (webui4 extra, Linux)")
    monkeypatch.setattr(cuda_kernels, "_kernels", compiled)
    monkeypatch.setattr(fallback, "FUSED", FUSED)


def errors():
    """What compilers and launches raise, by name."""
    made = {
        "RuntimeError": RuntimeError("CUDA driver error: invalid argument"),
        "OutOfMemoryError": torch.cuda.OutOfMemoryError("CUDA out of memory"),
        "ImportError": ImportError("DLL load failed"),
        "AssertionError": AssertionError(),
    }
    try:
        from triton.compiler.errors import CompilationError
        from triton.runtime.errors import OutOfResources, PTXASError
    except ImportError:
        return made
    return made | {
        "OutOfResources": OutOfResources(300000, 232448, "shared memory"),
        "PTXASError": PTXASError("PTXAS error: Internal Triton PTX codegen error"),
        "CompilationError": CompilationError("def kernel(): pass", None, "at 1:0"),
    }


ERRORS = errors()


class Fails:
    """A kernel of Triton, or torch's launcher, that raises wherever it is used."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, _grid):
        return self

    def __call__(self, *_args, **_more):
        raise self.error


def pair(dtype=torch.bfloat16, shape=(1, 5, 96)):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def rule(method=Method.NAG):
    return Rule(4.0, 2.5, 0.5, method, torch.zeros((), dtype=torch.int64))


def distance(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def guided(one, dtype=torch.bfloat16):
    """A layer guided in place, and one from three parts; each beside what it should be."""
    pos, neg = pair(dtype)
    wanted = guide(pos, neg, 4.0, 2.5, 0.5, one.method).out
    in_place = pos.clone()
    one.guide_in_place(in_place, neg)
    heads = [x.unflatten(-1, (3, 32)).transpose(1, 2) for x in (pos, neg, pos + neg)]
    generator = torch.Generator().manual_seed(6)
    image, z_pos, z_neg = (Part(x, torch.randn(1, 3, 5, generator=generator)) for x in heads)
    out = torch.empty_like(pos)
    one.fused(out).merge_and_guide(
        image, z_pos, z_neg, out, (0, 0, 0, 0, 0, 5), one.strength, one.method, one.counter
    )
    merged = (merge(image, other).transpose(1, 2).flatten(2) for other in (z_pos, z_neg))
    return (in_place, wanted), (out, guide(*merged, 4.0, 2.5, 0.5, one.method, dtype).out)


def is_guided(one, dtype=torch.bfloat16):
    return all(distance(found, wanted) < 2 * torch.finfo(dtype).eps for found, wanted in guided(one, dtype))


def names(dtype=torch.bfloat16):
    return [name for name, _ in fallback.Chain(CPU, dtype).working()]


def triton(what):
    return lambda monkeypatch, error: monkeypatch.setattr(
        f"nag_core.method.triton_kernels.{what}", Fails(error)
    )


def cuda(what):
    return lambda monkeypatch, error: monkeypatch.setattr(cuda_kernels, what, Fails(error))


# Where something may fail; "_kernels" is NVRTC's compiler and torch's loader.
SITES = {
    "Triton's compiler or launch, one layer": ("Triton kernels", triton("_guide_kernel")),
    "Triton's compiler or launch, parts": ("Triton kernels", triton("_merge_kernel")),
    "NVRTC or torch's loader": ("CUDA kernels", cuda("_kernels")),
    "torch's launcher": ("CUDA kernels", cuda("_launch")),
}


@pytest.mark.parametrize("error", often(ERRORS, "RuntimeError", "OutOfMemoryError", "OutOfResources"))
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("first", [True, False], ids=["in the probe", "after the probe"])
def test_whatever_fails_the_layer_is_guided_all_the_same(all_of_them, monkeypatch, site, error, first):
    name, fault = SITES[site]
    if name == "CUDA kernels":
        monkeypatch.setattr(fallback, "FUSED", FUSED[1:])
    if not first:
        assert is_guided(rule())
        assert names()[0] == name
    fault(monkeypatch, ERRORS[error])
    one = rule()
    assert is_guided(one)
    assert int(one.counter) > 0
    assert is_guided(rule(Method.NASA))
    kept = error == "OutOfMemoryError" and not first
    assert (names()[0] == name) == kept
    assert (one.path != "") == (not first and not kept), "a failed probe is no failure: nothing was promised"


def test_a_failure_is_said_once_and_named_in_the_report(all_of_them, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "nag")
    is_guided(rule())
    assert rule().path == ""
    SITES["Triton's compiler or launch, one layer"][1](monkeypatch, RuntimeError("no such instruction\nmore"))
    for _ in range(3):
        assert is_guided(rule())
    assert [record.message for record in caplog.records] == [
        "NAG: the Triton kernels failed (RuntimeError: no such instruction); CUDA kernels take over"
    ]
    assert rule().path == "CUDA kernels (the Triton kernels failed)"
    SITES["torch's launcher"][1](monkeypatch, RuntimeError("gone"))
    assert is_guided(rule())
    assert len(caplog.records) == 2
    assert rule().path == "PyTorch operations (the Triton kernels and the CUDA kernels failed)"


def test_the_pass_reports_what_took_over(monkeypatch):
    used = test_cross.session()
    used.rule(CPU)
    before = used.report().attention
    module = SimpleNamespace(guide=lean.guide, merge_and_guide=lean.merge_and_guide)
    monkeypatch.setattr(fallback, "FUSED", (Implementation("Kernels", lambda: module),))
    assert is_guided(rule())
    assert used.report().attention == before
    module.guide = Fails(RuntimeError())
    assert is_guided(rule())
    assert used.report().attention == f"{before}, PyTorch operations (the Kernels failed)"


def test_out_of_memory_says_nothing_of_a_kernel(monkeypatch):
    failing = True

    def guide_or_not(*given, **more):
        if failing:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        return lean.guide(*given, **more)

    module = SimpleNamespace(guide=guide_or_not, merge_and_guide=lean.merge_and_guide)
    monkeypatch.setattr(fallback, "FUSED", (Implementation("Kernels", lambda: module),))
    assert is_guided(rule())
    failing = False
    assert names() == ["Kernels", "PyTorch operations"]


@pytest.mark.parametrize("value", [1.5, float("nan")])
@pytest.mark.parametrize("what", ["guide", "merge_and_guide"])
def test_kernels_that_give_other_numbers_are_not_used(monkeypatch, value, what):
    """A compiler of another version, a device it does not know."""

    def wrong(*given, **more):
        made = getattr(lean, what)(*given, **more)
        (made if what == "guide" else given[3]).mul_(value)
        return made

    module = SimpleNamespace(guide=lean.guide, merge_and_guide=lean.merge_and_guide)
    monkeypatch.setattr(fallback, "FUSED", (Implementation("Kernels", lambda: module),))
    assert names() == ["Kernels", "PyTorch operations"]
    fallback.forget()
    setattr(module, what, wrong)
    assert names() == ["PyTorch operations"]


def test_a_device_that_knows_not_all_operations_takes_the_rule_as_it_is_written(monkeypatch):
    def unknown(*_given, **_more):
        raise NotImplementedError("aten::linalg_vector_norm")

    monkeypatch.setattr(lean, "_norm", unknown)
    pos, neg = pair()
    assert chain(pos) is None
    assert torch.equal(rule().guide(pos, neg), guide(pos, neg, 4.0, 2.5, 0.5).out)


def test_the_probe_leaves_the_jobs_random_numbers_alone():
    torch.manual_seed(1)
    wanted = torch.randn(3)
    torch.manual_seed(1)
    assert chain(pair()[0]) is not None
    assert torch.equal(torch.randn(3), wanted)


def test_sixteen_bits_take_the_operations_and_more_bits_the_rule_as_it_is_written(monkeypatch):
    for dtype, few in ((torch.bfloat16, True), (torch.float16, True), (torch.float32, False)):
        assert (chain(pair(dtype)[0]) is not None) == few
        assert is_guided(rule(), dtype) if few else True
    module = SimpleNamespace(guide=lean.guide, merge_and_guide=lean.merge_and_guide)
    monkeypatch.setattr(fallback, "FUSED", (Implementation("Kernels", lambda: module),))
    assert fused_kernels(pair(torch.float32)[0]) is module
    assert names(torch.float64) == ["PyTorch operations"]
    without = chain(pair()[0], may_fuse=False)
    assert [name for name, _ in without.working()] == [OPERATIONS.name]


def test_a_cpu_and_what_needs_gradients_take_the_rule_as_it_is_written(monkeypatch):
    monkeypatch.undo()
    fallback.forget()
    pos, neg = pair(torch.float32)
    assert chain(pos) is None
    assert fused_kernels(pos) is None
    monkeypatch.setattr(fallback, "has_fused", lambda *_: True)
    leaf = torch.zeros(1, 2, 4, device="meta", dtype=torch.bfloat16)
    assert chain(leaf) is not None
    assert chain(leaf.requires_grad_()) is None
    with torch.no_grad():
        assert chain(leaf) is not None
    one = rule()
    wanted = guide(pos, neg, 4.0, 2.5, 0.5)
    assert torch.equal(one.guide(pos, neg), wanted.out)
    one.guide_in_place(pos, neg)
    assert torch.equal(pos, wanted.out)
    assert int(one.counter) == 2 * int(wanted.clipped) > 0


def test_an_inert_rule_returns_the_positive_itself():
    pos, neg = pair()
    before = pos.clone()
    one = Rule(0.0, 2.5, 0.25, Method.NAG, torch.zeros((), dtype=torch.int64))
    assert one.guide(pos, neg) is pos
    one.guide_in_place(pos, neg)
    assert torch.equal(pos, before)


def test_rows_that_are_not_contiguous_are_written_in_place(all_of_them):
    pos, neg = (x.transpose(0, 1) for x in pair(shape=(5, 2, 96)))
    wanted = guide(pos, neg, 4.0, 2.5, 0.5).out
    rule().guide_in_place(pos, neg)
    assert distance(pos, wanted) < torch.finfo(torch.bfloat16).eps
