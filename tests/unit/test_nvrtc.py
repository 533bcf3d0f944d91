"""The CUDA kernels compiled for every kind of GPU there is, without one."""

import ctypes
import importlib.util
from pathlib import Path

import pytest
import torch

from nag_core.method import nvrtc
from nag_core.method.cuda_kernels import NAMES
from nag_core.method.cuda_source import STORED, source

# Compute capability: Turing, Ampere, Ada, Hopper, Blackwell of data centres and of desktops.
GPUS = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.fixture(scope="module")
def library():
    """Torch's own, or that of nvidia's package."""
    try:
        return nvrtc.library()
    except OSError:
        spec = importlib.util.find_spec("nvidia")
    found = [
        file
        for root in (spec and spec.submodule_search_locations) or ()
        for file in Path(root).rglob("*nvrtc*.so*")
    ]
    # It looks for this one by its bare name, which torch's own has in its path.
    builtins = [file for file in found if "builtins" in file.name and "alt" not in file.name]
    plain = [file for file in found if file.name.startswith("libnvrtc.so")]
    if not plain:
        pytest.skip("no NVRTC here: a torch for CUDA brings one, and so does the package nvidia-cuda-nvrtc")
    for file in builtins:
        ctypes.CDLL(str(file))
    return ctypes.CDLL(str(plain[0]))


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS, ids=str)
@pytest.mark.parametrize("dtype", list(STORED), ids=str)
def test_the_source_compiles_for(library, gpu, dtype):
    known = nvrtc._architectures(library)
    number = gpu[0] * 10 + gpu[1]
    if number not in known:
        pytest.skip(f"this NVRTC knows {known[0]} to {known[-1]}")
    ptx = nvrtc.translated(library, source(dtype), f"compute_{number}").decode()
    assert f".target sm_{number}" in ptx
    assert all(f".entry {name}(" in ptx for name in NAMES)
    target, code = nvrtc.compiled(library, source(dtype), gpu)
    assert target == f"sm_{number}"
    assert code.startswith(b"\x7fELF")


@pytest.mark.slow
def test_a_gpu_newer_than_the_compiler_gets_what_the_driver_finishes(library):
    target, code = nvrtc.compiled(library, source(torch.bfloat16), (99, 0))
    assert target == f"compute_{nvrtc._architectures(library)[-1]}"
    assert b".entry nag_guide" in code


@pytest.mark.slow
def test_what_is_wrong_with_a_source_is_said_in_the_compilers_words(library):
    with pytest.raises(RuntimeError, match='"nonsense" is undefined'):
        nvrtc.compiled(library, source(torch.float32) + "int x = nonsense;", (8, 0))
    with pytest.raises(RuntimeError, match=r"knows no GPU of compute capability 1\.0"):
        nvrtc.compiled(library, source(torch.float32), (1, 0))


def test_a_torch_without_cuda_has_none(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(OSError, match="this build of torch has no CUDA"):
        nvrtc.library()


@pytest.mark.parametrize(
    ("cuda", "platform", "name"),
    [
        ("11.8", "win32", "nvrtc64_112_0.dll"), ("12.8", "win32", "nvrtc64_120_0.dll"),
        ("13.0", "win32", "nvrtc64_130_0.dll"), ("12.4", "linux", "libnvrtc.so.12"),
        ("13.0", "linux", "libnvrtc.so.13"), ("11.8", "linux", "libnvrtc.so.11.2"),
    ],
)  # fmt: skip
def test_the_library_is_the_one_in_torchs_folder(monkeypatch, cuda, platform, name):
    """By the names it has in torch's wheels."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(nvrtc.sys, "platform", platform)
    monkeypatch.setattr(nvrtc.ctypes, "CDLL", lambda asked: asked)
    assert nvrtc.library() == name


@pytest.mark.parametrize(
    ("gpu", "target"), [((8, 6), "sm_86"), ((8, 9), "compute_86"), ((9, 9), "compute_90"), ((7, 5), None)]
)
def test_a_gpu_that_the_compiler_does_not_know_gets_the_next_older_ones_code(monkeypatch, gpu, target):
    """PTX of a newer architecture would not load."""
    monkeypatch.setattr(nvrtc, "_architectures", lambda _: [80, 86, 90])
    monkeypatch.setattr(nvrtc, "translated", lambda _, source, target: f"{source} for {target}".encode())
    if target is None:
        with pytest.raises(RuntimeError, match=r"knows no GPU of compute capability 7\.5"):
            nvrtc.compiled(None, "code", gpu)
    else:
        assert nvrtc.compiled(None, "code", gpu) == (target, f"code for {target}".encode())
