// SPDX-License-Identifier: Apache-2.0
// Operations on single tokens: embedding, cache rows, RoPE, SwiGLU, addition, conversion.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/sort.cuh"
#include <cassert>

constexpr int TOKEN_THREADS = 256;
constexpr int EMBED_GRAD_THREADS = 128;
constexpr int DIGIT_BITS = 8;

// ---- embedding

template <typename X, typename Y> static __global__ void embed_kernel(struct embed_args a)
{
    const size_t t = grid_row(), C = static_cast<size_t>(a.C);
    const int c = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || c >= a.C)
        return;
    const X *row = static_cast<const X *>(a.table) + static_cast<size_t>(a.ids[t]) * C;
    store_four(static_cast<Y *>(a.out) + t * C + c, a.C - c, load_four(row + c, a.C - c));
}

template <typename X> static int launch_embed(struct device *dev, const struct embed_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->C));
    return launch(dev, g.grid, g.block, 0,
                  a->out_type == DTYPE_BF16 ? embed_kernel<X, bf16> : embed_kernel<X, float>, *a);
}

extern "C" int cuda_embed(struct device *dev, const struct embed_args *a)
{
    return a->table_type == DTYPE_BF16 ? launch_embed<bf16>(dev, a) : launch_embed<float>(dev, a);
}

template <typename T> static __global__ void kv_store_kernel(struct kv_store_args a)
{
    const size_t t = grid_row(), D = static_cast<size_t>(a.D);
    const int d = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || d >= a.D)
        return;
    store_four(static_cast<T *>(a.pages) + a.place[t] * D + d, a.D - d,
               load_four(static_cast<const T *>(a.rows) + t * D + d, a.D - d));
}

extern "C" int cuda_kv_store(struct device *dev, const struct kv_store_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->D));
    return launch(dev, g.grid, g.block, 0,
                  a->type == DTYPE_BF16 ? kv_store_kernel<bf16> : kv_store_kernel<float>, *a);
}

// order: the tokens by id, those of one id ascending. The block of a token that is the first with
// its id adds all of them to a part of the table's row.
static __global__ void __launch_bounds__(EMBED_GRAD_THREADS)
    embed_grad_kernel(struct embed_grad_args a, const int *order)
{
    const int first = static_cast<int>(blockIdx.x), id = a.ids[order[first]];
    if (first > 0 && a.ids[order[first - 1]] == id)
        return;
    const int c = 4 * static_cast<int>(blockIdx.y * EMBED_GRAD_THREADS + threadIdx.x);
    const int lane = lane_index();
    const size_t C = static_cast<size_t>(a.C);
    float *row = a.dtable + static_cast<size_t>(id) * C + c;
    four sum = load_four(row, a.C - c);
    for (int i = first, same = WARP; same == WARP; i += WARP) {
        const int token = i + lane < a.T ? order[i + lane] : -1;
        const unsigned int mine = __ballot_sync(ALL_LANES, token >= 0 && a.ids[token] == id);
        same = __popc(mine);
#pragma unroll 4
        for (int j = 0; j < same; j++) {
            const size_t t = static_cast<size_t>(__shfl_sync(ALL_LANES, token, j));
            const four d = load_four(a.dout + t * C + c, a.C - c);
            for (int k = 0; k < 4; k++)
                sum.x[k] += d.x[k];
        }
    }
    store_four(row, a.C - c, sum);
}

// Sorts [0, T) by ids, digit by digit. scratch: two orders and what a pass needs.
static int order_by_id(struct device *dev, const int *ids, int T, int *scratch, int **order)
{
    struct bucket_sort pass = {};
    pass.keys = ids;
    pass.n = T;
    pass.buckets = 1 << DIGIT_BITS;
    pass.mask = pass.buckets - 1;
    int rc = 0;
    for (int digit = 0; rc == 0 && digit * DIGIT_BITS < 32; digit++) {
        pass.shift = digit * DIGIT_BITS;
        pass.sorted = scratch + static_cast<size_t>(digit % 2) * T;
        rc = bucket_sort_run(dev, &pass, scratch + static_cast<size_t>(2) * T);
        pass.order = pass.sorted;
    }
    *order = pass.sorted;
    return rc;
}

extern "C" int cuda_embed_grad(struct device *dev, const struct embed_grad_args *a)
{
    struct bucket_sort pass = {};
    pass.n = a->T;
    pass.buckets = 1 << DIGIT_BITS;
    const size_t T = static_cast<size_t>(a->T);
    int *buffer = nullptr, *order = nullptr;
    int rc = scratch(dev, SCRATCH_INNER, &buffer, 2 * T + bucket_sort_scratch(&pass));
    if (rc == 0)
        rc = order_by_id(dev, a->ids, a->T, buffer, &order);
    if (rc == 0)
        rc = launch(dev, dim3(a->T, blocks_for(fours(a->C), EMBED_GRAD_THREADS)),
                    EMBED_GRAD_THREADS, 0, embed_grad_kernel, *a, order);
    return rc;
}

// ---- RoPE

template <typename X, typename Y> static __global__ void rope_kernel(struct rope_args a)
{
    const size_t row = grid_row(), heads = static_cast<size_t>(a.heads);
    const int half = a.D / 2, i = grid_item();
    if (row >= static_cast<size_t>(a.T) * heads || i >= half)
        return;
    const size_t t = row / heads, h = row % heads;
    const int at = a.halves ? i : 2 * i, apart = a.halves ? half : 1;
    const size_t angle = static_cast<size_t>(a.position[t]) * half + i;
    const float cosine = a.cos[angle], sine = a.inverse ? -a.sin[angle] : a.sin[angle];
    const X *x = static_cast<const X *>(a.x) + t * a.ldx + h * a.stride_x + at;
    Y *y = static_cast<Y *>(a.y) + t * a.ldy + h * a.stride_y + at;
    const float u = widen(x[0]), v = widen(x[apart]);
    narrow(y, u * cosine - v * sine);
    narrow(y + apart, u * sine + v * cosine);
}

template <typename X> static int launch_rope(struct device *dev, const struct rope_args *a)
{
    const size_t rows = static_cast<size_t>(a->T) * static_cast<size_t>(a->heads);
    const row_grid g = row_grid_for(rows, a->D / 2);
    return launch(dev, g.grid, g.block, 0,
                  a->y_type == DTYPE_BF16 ? rope_kernel<X, bf16> : rope_kernel<X, float>, *a);
}

extern "C" int cuda_rope(struct device *dev, const struct rope_args *a)
{
    assert(a->D % 2 == 0);
    return a->x_type == DTYPE_BF16 ? launch_rope<bf16>(dev, a) : launch_rope<float>(dev, a);
}

// ---- SwiGLU

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename X, typename Y> static __global__ void swiglu_kernel(struct swiglu_args a)
{
    const size_t t = grid_row(), F = static_cast<size_t>(a.F);
    const int f = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || f >= a.F)
        return;
    const X *row = static_cast<const X *>(a.gate_up) + 2 * t * F + f;
    const four gate = load_four(row, a.F - f), up = load_four(row + F, a.F - f);
    four h;
    for (int i = 0; i < 4; i++)
        h.x[i] = gate.x[i] * sigmoid(gate.x[i]) * up.x[i];
    store_four(static_cast<Y *>(a.h) + t * F + f, a.F - f, h);
}

template <typename X> static int launch_swiglu(struct device *dev, const struct swiglu_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->F));
    return launch(dev, g.grid, g.block, 0,
                  a->h_type == DTYPE_BF16 ? swiglu_kernel<X, bf16> : swiglu_kernel<X, float>, *a);
}

extern "C" int cuda_swiglu(struct device *dev, const struct swiglu_args *a)
{
    return a->gate_up_type == DTYPE_BF16 ? launch_swiglu<bf16>(dev, a)
                                         : launch_swiglu<float>(dev, a);
}

// d SiLU(x)/dx = sigmoid(x) (1 + x (1 - sigmoid(x)))
template <typename X, typename Y>
static __global__ void swiglu_grad_kernel(struct swiglu_grad_args a)
{
    const size_t t = grid_row(), F = static_cast<size_t>(a.F);
    const int f = 4 * grid_item();
    if (t >= static_cast<size_t>(a.T) || f >= a.F)
        return;
    const X *row = static_cast<const X *>(a.gate_up) + 2 * t * F + f;
    const four gate = load_four(row, a.F - f), up = load_four(row + F, a.F - f);
    const four dh = load_four(a.dh + t * F + f, a.F - f);
    four dgate, dup;
    for (int i = 0; i < 4; i++) {
        const float s = sigmoid(gate.x[i]);
        dgate.x[i] = dh.x[i] * up.x[i] * s * (1.0f + gate.x[i] * (1.0f - s));
        dup.x[i] = dh.x[i] * gate.x[i] * s;
    }
    Y *out = static_cast<Y *>(a.dgate_up) + 2 * t * F + f;
    store_four(out, a.F - f, dgate);
    store_four(out + F, a.F - f, dup);
}

template <typename X>
static int launch_swiglu_grad(struct device *dev, const struct swiglu_grad_args *a)
{
    const row_grid g = row_grid_for(a->T, fours(a->F));
    return launch(dev, g.grid, g.block, 0,
                  a->dgate_up_type == DTYPE_BF16 ? swiglu_grad_kernel<X, bf16>
                                                 : swiglu_grad_kernel<X, float>,
                  *a);
}

extern "C" int cuda_swiglu_grad(struct device *dev, const struct swiglu_grad_args *a)
{
    return a->gate_up_type == DTYPE_BF16 ? launch_swiglu_grad<bf16>(dev, a)
                                         : launch_swiglu_grad<float>(dev, a);
}

// ---- addition

static __global__ void __launch_bounds__(TOKEN_THREADS) add_kernel(struct add_args a)
{
    const size_t at = 4 * (static_cast<size_t>(blockIdx.x) * TOKEN_THREADS + threadIdx.x);
    if (at >= a.n)
        return;
    const int here = a.n - at < 4 ? static_cast<int>(a.n - at) : 4;
    const four x = load_four(a.x + at, here);
    four y = load_four(a.y + at, here);
    for (int i = 0; i < 4; i++)
        y.x[i] += x.x[i];
    store_four(a.y + at, here, y);
}

extern "C" int cuda_add(struct device *dev, const struct add_args *a)
{
    return launch(dev, blocks_for(a->n, 4 * TOKEN_THREADS), TOKEN_THREADS, 0, add_kernel, *a);
}

// ---- conversion

template <typename X, typename Y>
static __global__ void __launch_bounds__(TOKEN_THREADS) convert_kernel(struct convert_args a)
{
    const size_t at = 4 * (static_cast<size_t>(blockIdx.x) * TOKEN_THREADS + threadIdx.x);
    if (at >= a.n)
        return;
    const int left = a.n - at < 4 ? static_cast<int>(a.n - at) : 4;
    store_four(static_cast<Y *>(a.y) + at, left, load_four(static_cast<const X *>(a.x) + at, left));
}

extern "C" int cuda_convert(struct device *dev, const struct convert_args *a)
{
    const auto kernel =
        a->x_type == DTYPE_BF16
            ? (a->y_type == DTYPE_BF16 ? convert_kernel<bf16, bf16> : convert_kernel<bf16, float>)
            : (a->y_type == DTYPE_BF16 ? convert_kernel<float, bf16>
                                       : convert_kernel<float, float>);
    return launch(dev, blocks_for(a->n, 4 * TOKEN_THREADS), TOKEN_THREADS, 0, kernel, *a);
}
