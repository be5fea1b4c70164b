// SPDX-License-Identifier: Apache-2.0
// Heads of grouped-query attention: norm and rotation of queries and keys. A head of a token
// belongs to one warp, a pair (i, i + D/2) of it to one lane.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/element.cuh"
#include <cassert>

constexpr int HEAD_WARPS = 8;
constexpr int HEAD_THREADS = HEAD_WARPS * WARP;
constexpr int HEAD_TOKENS = 16; // whose gradients of the norms' weights one block sums

enum head_kind { HEAD_QUERY, HEAD_KEY, HEAD_VALUE };

// Head h of token t, counted as in a row of x: where it stands there and among queries or kv rows.
struct head_place {
    head_kind kind;
    size_t t, in_x, outside;
};

template <typename ARGS>
static __device__ __forceinline__ head_place place_head(const ARGS &a, size_t row)
{
    const size_t H = static_cast<size_t>(a.H), Hkv = static_cast<size_t>(a.Hkv);
    const size_t D = static_cast<size_t>(a.D), t = row / (H + 2 * Hkv), h = row % (H + 2 * Hkv);
    if (h < H)
        return {HEAD_QUERY, t, row * D, (t * H + h) * D};
    const bool value = h >= H + Hkv;
    const size_t g = h - H - (value ? Hkv : 0);
    return {value ? HEAD_VALUE : HEAD_KEY, t, row * D, (t * Hkv + g) * 2 * D + (value ? D : 0)};
}

// Of a head of D elements, by the warp that it belongs to.
static __device__ __forceinline__ float head_rstd(const float *x, int D, float eps)
{
    float squares = 0.0f;
    for (int i = lane_index(); i < D; i += WARP)
        squares += x[i] * x[i];
    return 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(D) + eps);
}

template <typename Y>
static __global__ void __launch_bounds__(HEAD_THREADS) heads_kernel(struct heads_args a)
{
    const size_t heads = static_cast<size_t>(a.H) + 2 * static_cast<size_t>(a.Hkv);
    const size_t row = static_cast<size_t>(blockIdx.x) * HEAD_WARPS + warp_index();
    if (row >= static_cast<size_t>(a.T) * heads)
        return;
    const head_place at = place_head(a, row);
    const int D = a.D, half = D / 2;
    const float *x = a.x + at.in_x;
    const float *norm = at.kind == HEAD_QUERY ? a.q_norm : a.k_norm;
    Y *y = static_cast<Y *>(at.kind == HEAD_QUERY ? a.q : a.kv) + at.outside;
    if (at.kind == HEAD_VALUE) {
        for (int i = lane_index(); i < D; i += WARP)
            narrow(y + i, x[i]);
        return;
    }
    const float rstd = norm ? head_rstd(x, D, a.eps) : 1.0f;
    const size_t angle = static_cast<size_t>(a.position[at.t]) * half;
    for (int i = lane_index(); i < half; i += WARP) {
        const float c = a.cos[angle + i], s = a.sin[angle + i];
        float u = x[i], v = x[i + half];
        if (norm) {
            u = norm[i] * (u * rstd);
            v = norm[i + half] * (v * rstd);
        }
        narrow(y + i, u * c - v * s);
        narrow(y + i + half, u * s + v * c);
    }
}

extern "C" int cuda_heads(struct device *dev, const struct heads_args *a)
{
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm);
    const size_t rows = static_cast<size_t>(a->T) * static_cast<size_t>(a->H + 2 * a->Hkv);
    return launch(dev, blocks_for(rows, HEAD_WARPS), HEAD_THREADS, 0,
                  a->type == DTYPE_BF16 ? heads_kernel<bf16> : heads_kernel<float>, *a);
}

// With g the gradient before the rotation and n = x rstd: dx = rstd (w g - n mean(w g n)); g n is
// added to dw (of the warp, shared). DY: of dy.
template <typename DY, typename DX>
static __device__ __forceinline__ void head_back(const struct heads_grad_args &a,
                                                 const head_place &at, const DY *dy, DX *dx,
                                                 const float *norm, float *dw)
{
    const int D = a.D, half = D / 2;
    const float *x = norm ? a.x + at.in_x : nullptr;
    const size_t angle = static_cast<size_t>(a.position[at.t]) * half;
    const float rstd = norm ? head_rstd(x, D, a.eps) : 1.0f;
    float mean = 0.0f;
    for (int i = lane_index(); norm && i < half; i += WARP) {
        const float c = a.cos[angle + i], s = a.sin[angle + i];
        const float du = widen(dy[i]), dv = widen(dy[i + half]);
        const float gu = (du * c + dv * s) * (x[i] * rstd);
        const float gv = (dv * c - du * s) * (x[i + half] * rstd);
        dw[i] += gu;
        dw[i + half] += gv;
        mean += norm[i] * gu + norm[i + half] * gv;
    }
    if (norm)
        mean = warp_sum(mean) / static_cast<float>(D);
    for (int i = lane_index(); i < half; i += WARP) {
        const float c = a.cos[angle + i], s = a.sin[angle + i];
        const float du = widen(dy[i]), dv = widen(dy[i + half]);
        float u = du * c + dv * s, v = dv * c - du * s;
        if (norm) {
            u = rstd * (norm[i] * u - x[i] * rstd * mean);
            v = rstd * (norm[i + half] * v - x[i + half] * rstd * mean);
        }
        narrow(dx + i, u);
        narrow(dx + i + half, v);
    }
}

// A block takes HEAD_TOKENS tokens; partial [2][blocks,D] gets their share of the gradients of the
// two norms' weights. Dynamic shared memory, with norms: [HEAD_WARPS,2,D] sums of each warp.
template <typename X>
static __global__ void __launch_bounds__(HEAD_THREADS)
    heads_grad_kernel(struct heads_grad_args a, float *partial)
{
    const int D = a.D;
    const size_t heads = static_cast<size_t>(a.H) + 2 * static_cast<size_t>(a.Hkv);
    const size_t first = static_cast<size_t>(blockIdx.x) * HEAD_TOKENS * heads;
    const size_t all = static_cast<size_t>(a.T) * heads;
    float *sums = dynamic_shared<float>();
    for (int i = static_cast<int>(threadIdx.x); a.q_norm && i < HEAD_WARPS * 2 * D;
         i += HEAD_THREADS)
        sums[i] = 0.0f;
    __syncthreads();
    float *dw = sums + warp_index() * 2 * D;
    for (size_t row = first + warp_index(); row < all && row < first + HEAD_TOKENS * heads;
         row += HEAD_WARPS) {
        const head_place at = place_head(a, row);
        X *dx = static_cast<X *>(a.dx) + at.in_x;
        if (at.kind == HEAD_QUERY)
            head_back(a, at, static_cast<const X *>(a.dq) + at.outside, dx, a.q_norm, dw);
        else if (at.kind == HEAD_KEY)
            head_back(a, at, a.dkv + at.outside, dx, a.k_norm, dw + D);
        else
            for (int i = lane_index(); i < D; i += WARP)
                narrow(dx + i, a.dkv[at.outside + i]);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); a.q_norm && i < 2 * D; i += HEAD_THREADS) {
        float total = sums[i];
        for (int w = 1; w < HEAD_WARPS; w++)
            total += sums[w * 2 * D + i];
        const size_t block = blockIdx.x + static_cast<size_t>(i < D ? 0 : gridDim.x);
        partial[block * D + (i < D ? i : i - D)] = total;
    }
}

extern "C" int cuda_heads_grad(struct device *dev, const struct heads_grad_args *a)
{
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm && (!a->q_norm || a->x));
    const unsigned int blocks = blocks_for(static_cast<size_t>(a->T), HEAD_TOKENS);
    const size_t D = static_cast<size_t>(a->D), shared = HEAD_WARPS * 2 * D * sizeof(float);
    float *partial = nullptr;
    int rc = a->q_norm ? scratch(dev, SCRATCH_INNER, &partial, 2 * blocks * D) : 0;
    if (rc == 0)
        rc = launch(dev, blocks, HEAD_THREADS, a->q_norm ? shared : 0,
                    a->type == DTYPE_BF16 ? heads_grad_kernel<bf16> : heads_grad_kernel<float>, *a,
                    partial);
    if (rc != 0 || blocks == 0 || !a->q_norm)
        return rc;
    rc = column_sum(dev, partial, static_cast<int>(blocks), a->D, a->dq_norm);
    return rc ? rc
              : column_sum(dev, partial + blocks * D, static_cast<int>(blocks), a->D, a->dk_norm);
}
