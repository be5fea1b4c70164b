// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv:1910.07467, eq. 4), with the residual addition before it. A row belongs to one
// warp when it is short and to a whole block otherwise.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/element.cuh"
#include <cassert>

constexpr int NORM_THREADS = 256;
constexpr int NORM_WARPS = NORM_THREADS / WARP;
constexpr int NORM_WARP_MAX = 1024; // the longest row of one warp
constexpr int NORM_TOKENS = 32;     // whose dw one block sums

static int padded(int C) { return 4 * fours(C); }

static __device__ __forceinline__ float four_dot(const four &x, const four &y)
{
    return x.x[0] * y.x[0] + x.x[1] * y.x[1] + x.x[2] * y.x[2] + x.x[3] * y.x[3];
}

// x + add, stored to sum, or x alone.
static __device__ __forceinline__ four residual(const struct rmsnorm_args &a, size_t t, int c)
{
    const int C = a.C;
    four x = load_four(a.x + t * a.ldx + c, C - c);
    if (!a.add)
        return x;
    const size_t at = t * static_cast<size_t>(C) + c;
    const four add = load_four(a.add + at, C - c);
    for (int i = 0; i < 4; i++)
        x.x[i] += add.x[i];
    store_four(a.sum + at, C - c, x);
    return x;
}

// Dynamic shared memory: the rows of the block, padded.
template <int WARPS, typename Y>
static __global__ void __launch_bounds__(NORM_THREADS) rmsnorm_kernel(struct rmsnorm_args a)
{
    constexpr int rows = NORM_WARPS / WARPS, lanes = WARPS * WARP;
    __shared__ float sums[NORM_WARPS];
    const int C = a.C, row = static_cast<int>(threadIdx.x) / lanes;
    const int first = 4 * (static_cast<int>(threadIdx.x) % lanes);
    const size_t t = static_cast<size_t>(blockIdx.x) * rows + row;
    const bool live = t < static_cast<size_t>(a.T);
    float *staged = dynamic_shared<float>() + static_cast<size_t>(row) * 4 * fours(C);
    float squares = 0.0f;
    for (int c = first; live && c < C; c += 4 * lanes) {
        const four x = residual(a, t, c);
        store_vector(staged + c, x);
        squares += four_dot(x, x);
    }
    squares = group_sum<WARPS>(squares, sums);
    if (!live)
        return;
    const float rstd = 1.0f / sqrtf(squares / static_cast<float>(C) + a.eps);
    for (int c = first; c < C; c += 4 * lanes) {
        four x = load_vector(staged + c);
        const four w = load_four(a.w + c, C - c);
        for (int i = 0; i < 4; i++)
            x.x[i] = w.x[i] * x.x[i] * rstd;
        store_four(static_cast<Y *>(a.y) + t * a.ldy + c, C - c, x);
    }
    if (a.rstd && first == 0)
        a.rstd[t] = rstd;
}

template <typename Y> static int launch_rmsnorm(struct device *dev, const struct rmsnorm_args *a)
{
    const size_t T = static_cast<size_t>(a->T), row = padded(a->C) * sizeof(float);
    if (a->C <= NORM_WARP_MAX)
        return launch(dev, blocks_for(T, NORM_WARPS), NORM_THREADS, NORM_WARPS * row,
                      rmsnorm_kernel<1, Y>, *a);
    return launch(dev, a->T, NORM_THREADS, row, rmsnorm_kernel<NORM_WARPS, Y>, *a);
}

extern "C" int cuda_rmsnorm(struct device *dev, const struct rmsnorm_args *a)
{
    assert(!a->add == !a->sum);
    return a->y_type == DTYPE_BF16 ? launch_rmsnorm<bf16>(dev, a) : launch_rmsnorm<float>(dev, a);
}

// With n = x rstd: dx = rstd (w dy - n mean(w dy n)). Adds the row's part of dw, dy n, to dw (not
// padded, shared).
template <int WARPS>
static __device__ __forceinline__ void norm_grad_row(const struct rmsnorm_grad_args &a, size_t t,
                                                     float *dw, float *sums)
{
    constexpr int lanes = WARPS * WARP;
    const int C = a.C, first = 4 * (static_cast<int>(threadIdx.x) % lanes);
    const bool live = t < static_cast<size_t>(a.T);
    const float *x = a.x + t * a.ldx, *dy = a.dy + t * a.lddy;
    float *dx = a.dx + t * a.lddx;
    const float rstd = live ? a.rstd[t] : 0.0f;
    float dot = 0.0f;
    for (int c = first; live && c < C; c += 4 * lanes) {
        const four n = load_four(x + c, C - c), w = load_four(a.w + c, C - c);
        const four d = load_four(dy + c, C - c);
        four total = load_vector(dw + c);
        for (int i = 0; i < 4; i++) {
            const float product = d.x[i] * (n.x[i] * rstd);
            total.x[i] += product;
            dot += w.x[i] * product;
        }
        store_vector(dw + c, total);
    }
    const float mean = group_sum<WARPS>(dot, sums) / static_cast<float>(C);
    for (int c = first; live && c < C; c += 4 * lanes) {
        const four n = load_four(x + c, C - c), w = load_four(a.w + c, C - c);
        const four d = load_four(dy + c, C - c);
        four out = {};
        if (a.accumulate)
            out = load_four(dx + c, C - c);
        for (int i = 0; i < 4; i++)
            out.x[i] += rstd * (w.x[i] * d.x[i] - n.x[i] * rstd * mean);
        store_four(dx + c, C - c, out);
    }
}

// A block takes NORM_TOKENS tokens; partial[block] [C] is their share of dw. Dynamic shared memory:
// a padded row of sums for each row that the block treats at a time.
template <int WARPS>
static __global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_grad_kernel(struct rmsnorm_grad_args a, float *partial)
{
    constexpr int rows = NORM_WARPS / WARPS;
    __shared__ float sums[NORM_WARPS];
    const int C = a.C, pitch = 4 * fours(C), row = static_cast<int>(threadIdx.x) / (WARPS * WARP);
    float *dw = dynamic_shared<float>();
    for (int i = static_cast<int>(threadIdx.x); i < rows * pitch; i += NORM_THREADS)
        dw[i] = 0.0f;
    for (int i = row; i < NORM_TOKENS; i += rows) {
        __syncthreads();
        const size_t t = static_cast<size_t>(blockIdx.x) * NORM_TOKENS + i;
        norm_grad_row<WARPS>(a, t, dw + static_cast<size_t>(row) * pitch, sums);
    }
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < C; c += NORM_THREADS) {
        float total = dw[c];
        for (int r = 1; r < rows; r++)
            total += dw[static_cast<size_t>(r) * pitch + c];
        partial[static_cast<size_t>(blockIdx.x) * C + c] = total;
    }
}

extern "C" int cuda_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a)
{
    const unsigned int blocks = blocks_for(static_cast<size_t>(a->T), NORM_TOKENS);
    const size_t row = padded(a->C) * sizeof(float);
    float *partial = nullptr;
    int rc = scratch(dev, SCRATCH_INNER, &partial, static_cast<size_t>(blocks) * a->C);
    if (rc != 0 || blocks == 0)
        return rc;
    if (a->C <= NORM_WARP_MAX)
        rc = launch(dev, blocks, NORM_THREADS, NORM_WARPS * row, rmsnorm_grad_kernel<1>, *a,
                    partial);
    else
        rc = launch(dev, blocks, NORM_THREADS, row, rmsnorm_grad_kernel<NORM_WARPS>, *a, partial);
    if (rc == 0)
        rc = column_sum(dev, partial, static_cast<int>(blocks), a->C, a->dw);
    return rc;
}
