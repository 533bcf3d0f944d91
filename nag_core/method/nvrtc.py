"""CUDA source compiled by the NVRTC that comes with torch: no toolkit, no header, nothing set in the
environment.

By ctypes, as `torch.cuda._compile_kernel` does it; that one asks for CUDA_HOME.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import torch


def library() -> ctypes.CDLL:
    """The NVRTC of torch's own CUDA release, which torch has on its library path. OSError without one."""
    if not torch.version.cuda:
        raise OSError("this build of torch has no CUDA")
    major, minor = torch.version.cuda.split(".")[:2]
    # CUDA 11 kept the name of 11.2 for all that came behind it.
    minor = "2" if major == "11" else "0"
    if sys.platform == "win32":
        return ctypes.CDLL(f"nvrtc64_{major}{minor}_0.dll")
    return ctypes.CDLL(f"libnvrtc.so.{major}.{minor}" if major == "11" else f"libnvrtc.so.{major}")


def compiled(nvrtc: ctypes.CDLL, source: str, capability: tuple[int, int]) -> tuple[str, bytes]:
    """What it makes of `source` for a GPU of that compute capability, and for which target.

    The GPU's own code ("sm_89"); PTX ("compute_90"), which the driver finishes, where the GPU is newer than
    the NVRTC. RuntimeError with the compiler's own words where the source is wrong.
    """
    number = capability[0] * 10 + capability[1]
    known = _architectures(nvrtc)
    if number in known:
        return f"sm_{number}", translated(nvrtc, source, f"sm_{number}")
    older = [one for one in known if one < number]
    if not older:
        raise RuntimeError(f"this NVRTC knows no GPU of compute capability {capability[0]}.{capability[1]}")
    return f"compute_{older[-1]}", translated(nvrtc, source, f"compute_{older[-1]}")


def translated(nvrtc: ctypes.CDLL, source: str, target: str) -> bytes:
    """`source` for one target: "sm_89" gives a GPU's own code, "compute_89" PTX."""
    program = ctypes.c_void_p()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"nag.cu", 0, None, None))
    try:
        option = (ctypes.c_char_p * 1)(f"--gpu-architecture={target}".encode())
        if nvrtc.nvrtcCompileProgram(program, 1, option):
            log = _read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(f"NVRTC: {log}")
        return _read(nvrtc, program, "CUBIN" if target.startswith("sm_") else "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def loaded(code: bytes, names: Sequence[str]) -> dict[str, Any]:
    """The kernels of `code` on the current device, by name; each is called with grid, block and args."""
    from torch.cuda._utils import _cuda_load_module

    return _cuda_load_module(code, list(names))


def _architectures(nvrtc: ctypes.CDLL) -> list[int]:
    count = ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    found = (ctypes.c_int * count.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(found))
    return sorted(found)


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, text))
    return text.raw


def _check(nvrtc: ctypes.CDLL, result: int) -> None:
    if result:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(result).decode()}")
