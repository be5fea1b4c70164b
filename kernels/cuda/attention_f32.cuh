// SPDX-License-Identifier: Apache-2.0
// Float32 building blocks of attention and its backward: tiles of 16 rows in shared memory, whose
// products are inner ones over the width of a row (scores) or sums of weighted rows (outputs and
// gradients).
#ifndef KERNELS_CUDA_ATTENTION_F32_CUH
#define KERNELS_CUDA_ATTENTION_F32_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"

namespace attention
{

constexpr int TILE = 16;     // rows of a tile
constexpr int THREADS = 288; // 2 threads for each 4 columns of the widest row
constexpr int WARPS = THREADS / WARP;
constexpr int WEIGHT_LD = TILE + 4; // floats between the weights of one row and the next

// Floats between rows of `width` in shared memory: whole vectors of 4, an odd number of them, so
// that 8 rows at one column lie in different banks.
__host__ __device__ inline int shared_ld(int width) { return 4 * ((width + 3) / 4 | 1); }

// Starts copying the first `valid` of `rows` rows, `width` floats wide, to shared memory, `ld`
// apart; the rest of the rows, and of the last vector of each, becomes zero.
template <typename Source>
__device__ inline void load_rows(float *to, int ld, const Source &from, int rows, int valid,
                                 int width)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bool whole = width % 4 == 0 && from.aligned();
    for (int r = static_cast<int>(threadIdx.x) / WARP; r < rows; r += WARPS) {
        const float *row = r < valid ? from.row(r) : from.data;
        if (whole) {
            for (int c = 4 * lane; c < width; c += 4 * WARP)
                cp_async_16_zero(to + r * ld + c, row + c, r < valid ? 16 : 0);
        } else {
            for (int c = lane; c < round_up(width, 4); c += WARP)
                cp_async_4_zero(to + r * ld + c, c < width ? row + c : row,
                                r < valid && c < width ? 4 : 0);
        }
    }
}

// Rows of one part of keys, row 0 at `row`: the keys, and the values that are not among them.
__device__ inline void load_key_rows(const struct attention_shape &s, float *to, int ld,
                                     const float *row, int part, int rows, int valid)
{
    const size_t stride = static_cast<size_t>(attention_row(&s));
    const float *const key = row + part_of(s, part);
    load_rows(to, ld, strided_source<float>{key, stride}, rows, valid, s.Dk);
    if (s.value_at > 0)
        load_rows(to + value_column(s, 4), ld, strided_source<float>{key + s.value_at, stride},
                  rows, valid, s.Dv);
}

// out[warp][16][8 NT]: this warp's share of the inner products of 16 rows of x and 8 NT rows of y,
// over every WARPS-th vector of the width. The sum over warps, ascending, is the product.
template <int NT>
__device__ inline void partial_products(const float *x, int ldx, const float *y, int ldy, int width,
                                        float *out)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int row = lane % 4, key = lane / 4; // rows row + 4 i, keys key + 8 j
    float sum[4][NT] = {};
    for (int c = 4 * warp; c < width; c += 4 * WARPS) {
        float4 a[4], b[NT];
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = *reinterpret_cast<const float4 *>(x + (row + 4 * i) * ldx + c);
#pragma unroll
        for (int j = 0; j < NT; j++)
            b[j] = *reinterpret_cast<const float4 *>(y + (key + 8 * j) * ldy + c);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < NT; j++) {
                sum[i][j] = fmaf(a[i].x, b[j].x, sum[i][j]);
                sum[i][j] = fmaf(a[i].y, b[j].y, sum[i][j]);
                sum[i][j] = fmaf(a[i].z, b[j].z, sum[i][j]);
                sum[i][j] = fmaf(a[i].w, b[j].w, sum[i][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < NT; j++)
            out[(warp * TILE + row + 4 * i) * 8 * NT + key + 8 * j] = sum[i][j];
    }
}

template <int NT>
__device__ __forceinline__ float whole_product(const float *part, int row, int key)
{
    float sum = 0.0f;
    for (int w = 0; w < WARPS; w++)
        sum += part[(w * TILE + row) * 8 * NT + key];
    return sum;
}

// The 4 columns and N of the 16 rows of a sum of weighted rows that a thread has. Threads past the
// width have none.
template <int N> struct column_sums {
    int column, row;
    bool any;
    float4 sum[N];

    __device__ __forceinline__ void place(int width)
    {
        const int groups = (width + 3) / 4, thread = static_cast<int>(threadIdx.x);
        column = thread % groups * 4;
        row = thread / groups * N;
        any = row < TILE;
        clear();
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }

    __device__ __forceinline__ void scale(int i, float by)
    {
        sum[i].x *= by;
        sum[i].y *= by;
        sum[i].z *= by;
        sum[i].w *= by;
    }

    // sum += weights^T x: one row x [width] with its weights, one for each of the 16 rows.
    __device__ __forceinline__ void add(const float *x, const float *weights)
    {
        const float4 v = *reinterpret_cast<const float4 *>(x + column);
        float w[N];
        if constexpr (N % 4 == 0) {
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                const float4 four = *reinterpret_cast<const float4 *>(weights + row + i);
                w[i] = four.x;
                w[i + 1] = four.y;
                w[i + 2] = four.z;
                w[i + 3] = four.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; i++)
                w[i] = weights[row + i];
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum[i].x = fmaf(w[i], v.x, sum[i].x);
            sum[i].y = fmaf(w[i], v.y, sum[i].y);
            sum[i].z = fmaf(w[i], v.z, sum[i].z);
            sum[i].w = fmaf(w[i], v.w, sum[i].w);
        }
    }

    // The thread's columns of a row of `width` in global memory: from, and to it.
    __device__ __forceinline__ float4 load(const float *from, int width) const
    {
        const four v = load_four(from + column, width - column);
        return make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
    }

    __device__ __forceinline__ void store(float *to, int i, int width) const
    {
        store_four(to + column, width - column, {{sum[i].x, sum[i].y, sum[i].z, sum[i].w}});
    }
};

// Rows of a thread such that the threads of a block cover 16 rows of `width`.
inline int rows_per_thread(int width)
{
    int n = TILE / 2;
    while (n > 1 && (width + 3) / 4 * (TILE / (n / 2)) <= THREADS)
        n /= 2;
    return n;
}

} // namespace attention

#endif
