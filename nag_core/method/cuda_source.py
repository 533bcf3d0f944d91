"""The fused kernels in CUDA C++, as text for NVRTC: the same two as in triton_kernels.py.

No header is included: there may be none where the wheel of torch is all there is. bf16 is made from its bits,
fp16 by the one instruction. A block works on one token, in fp32, on values scaled as in guidance.py; it reads
the token twice, for the sums and for the result, the second time out of the cache.
"""

from __future__ import annotations

import torch

THREADS = 256
MOST_HEADS = 256

# By dtype: how an element is stored, and its largest value.
STORED = {
    torch.float32: """
typedef float T;
#define LARGEST 3.402823466e38f
__device__ float wide(T x) { return x; }
__device__ T narrow(float x) { return x; }
""",
    torch.bfloat16: """
typedef unsigned short T;
#define LARGEST 3.3895313892515355e38f
__device__ float wide(T x) { return __uint_as_float((unsigned)x << 16); }
__device__ T narrow(float x)
{
    unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (T)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}
""",
    torch.float16: """
typedef unsigned short T;
#define LARGEST 65504.0f
__device__ float wide(T x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ T narrow(float x)
{
    T y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
""",
}

_RULE = """
#define HEADROOM 5.9604644775390625e-8f  // 2^-24
#define TINY 1.17549435e-38f
typedef long long Offset;

struct Rule { float phi, tau, alpha; bool extrapolates, normalises, refines; };

// Numbers come as the bits of a float: what a launcher makes of a Python float differs.
__device__ Rule rule(int phi, int tau, int alpha, int equations)
{
    Rule r = {__int_as_float(phi), __int_as_float(tau), __int_as_float(alpha),
              (equations & 1) != 0, (equations & 2) != 0, (equations & 4) != 0};
    return r;
}

// Eq. 7, or eq. 5.
__device__ float extended(Rule r, float zp, float zn)
{
    return r.extrapolates ? zp + r.phi * (zp - zn) : zp - r.phi * zn;
}

// Held at the limit before the headroom is taken back. Comparisons keep a NaN, which the host's own check
// then sees.
__device__ T held(float x)
{
    const float limit = LARGEST * HEADROOM;
    x = x > limit ? limit : x < -limit ? -limit : x;
    return narrow(x / HEADROOM);
}

// Eq. 10, from the nearer end: alpha 1 gives `guided` itself.
__device__ float refined(Rule r, float zp, float guided)
{
    if (!r.refines) return guided;
    return r.alpha < 0.5f ? zp + r.alpha * (guided - zp) : guided - (1.0f - r.alpha) * (guided - zp);
}

// Eq. 8-9: min(R, tau) / R of the block's token, from each thread's share of its two L1 norms.
__device__ float capped(Rule r, float of_pos, float of_guided, unsigned long long* counter)
{
    __shared__ float pos[THREADS], guided[THREADS];
    const int thread = threadIdx.x;
    pos[thread] = of_pos;
    guided[thread] = of_guided;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            pos[thread] += pos[thread + half];
            guided[thread] += guided[thread + half];
        }
    }
    __syncthreads();
    const float limit = r.tau * pos[0], norm = guided[0];
    if (thread == 0 && norm > limit) atomicAdd(counter, 1ull);
    const float cap = limit / (norm < TINY ? TINY : norm);
    return cap > 1.0f ? 1.0f : cap;
}
"""

_GUIDE = """
extern "C" __global__ void __launch_bounds__(THREADS, 4) nag_guide(
    const T* pos, const T* neg, T* out, unsigned long long* counter, int width,
    int pos_stride, int neg_stride, int out_stride, int phi, int tau, int alpha, int equations)
{
    const Rule r = rule(phi, tau, alpha, equations);
    const Offset token = blockIdx.x;
    pos += token * pos_stride;
    neg += token * neg_stride;
    out += token * out_stride;
    float cap = 1.0f;
    if (r.normalises) {
        float of_pos = 0.0f, of_guided = 0.0f;
        for (int c = threadIdx.x; c < width; c += THREADS) {
            const float zp = wide(pos[c]) * HEADROOM, zn = wide(neg[c]) * HEADROOM;
            of_pos += fabsf(zp);
            of_guided += fabsf(extended(r, zp, zn));
        }
        cap = capped(r, of_pos, of_guided, counter);
    }
    for (int c = threadIdx.x; c < width; c += THREADS) {
        const float zp = wide(pos[c]) * HEADROOM, zn = wide(neg[c]) * HEADROOM;
        out[c] = held(refined(r, zp, extended(r, zp, zn) * cap));
    }
}
"""

_MERGE = """
// A token's attention over one set of keys: channel d of head h is at out[h * head + d * channel].
struct Part { const T* out; const float* lse; Offset head, channel, lse_head; };

__device__ Part part(const T* out, const float* lse, Offset batch, Offset token,
                     int s0, int s1, int s2, int s3, int l0, int l1, int l2)
{
    Part p = {out + batch * s0 + token * s2, lse + batch * l0 + token * l2, s1, s3, l1};
    return p;
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ float merged(Part image, Part other, float share, int head, int channel)
{
    const float z = wide(image.out[head * image.head + channel * image.channel]) * HEADROOM;
    if (share == 0.0f) return z;
    const float o = wide(other.out[head * other.head + channel * other.channel]) * HEADROOM;
    return z * (1.0f - share) + o * share;
}

extern "C" __global__ void __launch_bounds__(THREADS, 4) nag_merge_and_guide(
    const T* image_out, const float* image_lse, const T* pos_out, const float* pos_lse,
    const T* neg_out, const float* neg_lse, T* out, unsigned long long* counter,
    int a0, int a1, int a2, int a3, int b0, int b1, int b2,
    int c0, int c1, int c2, int c3, int d0, int d1, int d2,
    int e0, int e1, int e2, int e3, int f0, int f1, int f2, int o0, int o1, int heads, int width,
    int pos_first, int pos_last, int neg_first, int neg_last, int own_first, int own_last,
    int phi, int tau, int alpha, int equations)
{
    __shared__ float pos_share[MOST_HEADS], neg_share[MOST_HEADS];
    const Rule r = rule(phi, tau, alpha, equations);
    const int token = blockIdx.x, batch = blockIdx.y;
    const bool is_pos = token >= pos_first && token < pos_last;
    const bool is_neg = token >= neg_first && token < neg_last;
    const bool own = token >= own_first && token < own_last;
    const bool is_image = own && !is_pos;
    const Part image = part(image_out, image_lse, batch, token, a0, a1, a2, a3, b0, b1, b2);
    const Part pos = part(pos_out, pos_lse, batch, token - own_first, c0, c1, c2, c3, d0, d1, d2);
    const Part neg = part(neg_out, neg_lse, batch, token, e0, e1, e2, e3, f0, f1, f2);
    // A head's weights once; where a part is not there, or has none, it is not read.
    for (int h = threadIdx.x; h < heads; h += THREADS) {
        const float lz = image.lse[h * image.lse_head];
        pos_share[h] = own ? sigmoid(pos.lse[h * pos.lse_head] - lz) : 0.0f;
        neg_share[h] = is_pos ? 0.0f : sigmoid(neg.lse[h * neg.lse_head] - lz);
    }
    __syncthreads();
    // A warp takes a head, a lane its channels.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float cap = 1.0f;
    if (is_image && r.normalises) {
        float of_pos = 0.0f, of_guided = 0.0f;
        for (int h = warp; h < heads; h += THREADS / 32)
            for (int d = lane; d < width; d += 32) {
                const float zp = merged(image, pos, pos_share[h], h, d);
                of_pos += fabsf(zp);
                of_guided += fabsf(extended(r, zp, merged(image, neg, neg_share[h], h, d)));
            }
        cap = capped(r, of_pos, of_guided, counter);
    }
    out += (Offset)batch * o0 + (Offset)token * o1;
    for (int h = warp; h < heads; h += THREADS / 32)
        for (int d = lane; d < width; d += 32) {
            const float zp = is_neg ? 0.0f : merged(image, pos, pos_share[h], h, d);
            const float zn = is_pos ? 0.0f : merged(image, neg, neg_share[h], h, d);
            const float z = is_image ? refined(r, zp, extended(r, zp, zn) * cap) : is_neg ? zn : zp;
            out[h * width + d] = held(z);
        }
}
"""


def source(dtype: torch.dtype, stored: str = "") -> str:
    """Both kernels for tensors of `dtype`. stored: how an element is stored, in place of `STORED`."""
    sizes = f"#define THREADS {THREADS}\n#define MOST_HEADS {MOST_HEADS}\n"
    return sizes + (stored or STORED[dtype]) + _RULE + _GUIDE + _MERGE
