"""CUDA kernels run on the CPU: the same source, compiled by g++, with a fibre for every thread of a block.

A stand-in for what torch's loader gives. It passes arguments as cuLaunchKernel takes them, and blocks run one
after the other; `__syncthreads` goes on to the next fibre. It shows that the numbers and the addresses are
right, and nothing of a GPU's speed, memory model or warps.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import torch

COMPILER = shutil.which("g++")

_BEFORE = r"""
#include <ucontext.h>
#include <cmath>
#include <cstring>
#include <cstddef>
#include <utility>
#include <vector>
#define __global__
#define __device__ static
#define __shared__ static
#define __launch_bounds__(...)
struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx;
static ucontext_t scheduler;
static std::vector<ucontext_t> fibres;
static std::vector<char> done;
static void __syncthreads() { swapcontext(&fibres[threadIdx.x], &scheduler); }
static float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static void atomicAdd(unsigned long long* to, unsigned long long x) { *to += x; }
"""

# In place of the two instructions.
_FLOAT16 = r"""
typedef unsigned short T;
#define LARGEST 65504.0f
static float wide(T x) { _Float16 y; std::memcpy(&y, &x, 2); return (float)y; }
static T narrow(float x) { _Float16 y = (_Float16)x; T z; std::memcpy(&z, &y, 2); return z; }
"""

_AFTER = r"""
static void (*body)(void**);
static void** given;
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** args, std::index_sequence<I...>)
{
    kernel(*static_cast<A*>(args[I])...);
}
template <class... A>
static void call(void (*kernel)(A...), void** args) { call(kernel, args, std::index_sequence_for<A...>{}); }
static void guide_body(void** args) { call(nag_guide, args); }
static void merge_body(void** args) { call(nag_merge_and_guide, args); }
static void fibre() { body(given); done[threadIdx.x] = 1; }

static void run(void (*kernel)(void**), unsigned columns, unsigned rows, unsigned threads, void** args)
{
    const size_t stack = 1 << 16;
    std::vector<char> stacks(threads * stack);
    body = kernel, given = args;
    fibres.resize(threads), done.resize(threads);
    for (unsigned block = 0; block < columns * rows; block++) {
        blockIdx = {block % columns, block / columns, 0};
        for (unsigned t = 0; t < threads; t++) {
            getcontext(&fibres[t]);
            fibres[t].uc_stack.ss_sp = &stacks[t * stack];
            fibres[t].uc_stack.ss_size = stack;
            fibres[t].uc_link = &scheduler;
            done[t] = 0;
            makecontext(&fibres[t], fibre, 0);
        }
        for (unsigned left = threads; left;) {
            left = 0;
            for (unsigned t = 0; t < threads; t++) {
                if (done[t]) continue;
                threadIdx.x = t;
                swapcontext(&scheduler, &fibres[t]);
                left += !done[t];
            }
        }
    }
}
extern "C" void launch_nag_guide(unsigned x, unsigned y, unsigned t, void** args)
{
    run(guide_body, x, y, t, args);
}
extern "C" void launch_nag_merge_and_guide(unsigned x, unsigned y, unsigned t, void** args)
{
    run(merge_body, x, y, t, args);
}
"""


def kernels(source, dtype, folder, names):
    """`source(dtype, stored)` compiled into `folder`; callables as torch's loader makes them, by name."""
    text = _BEFORE + source(dtype, _FLOAT16 if dtype is torch.float16 else "") + _AFTER
    name = str(dtype).removeprefix("torch.")
    path, made = folder / f"{name}.cpp", folder / f"{name}.so"
    path.write_text(text)
    # As a GPU: no excess precision, and what is undefined is reported instead of being built upon.
    flags = ["-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unused-function"]
    subprocess.run([COMPILER, *flags, str(path), "-o", str(made)], check=True)
    library = ctypes.CDLL(str(made))
    return {name: _kernel(getattr(library, f"launch_{name}")) for name in names}


def _kernel(launch):
    def run(grid, block, args):
        kept = [
            ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else ctypes.c_int(x) for x in args
        ]
        pointers = (ctypes.c_void_p * len(kept))(
            *(ctypes.cast(ctypes.byref(x), ctypes.c_void_p) for x in kept)
        )
        launch(grid[0], grid[1], block[0], pointers)

    return run
