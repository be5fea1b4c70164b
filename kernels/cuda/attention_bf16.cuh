// SPDX-License-Identifier: Apache-2.0
// Building blocks of attention and its backward on tensor cores: tiles of bfloat16 rows in shared
// memory, products of them along the width (scores), and sums of weighted rows (outputs and
// gradients). 8 warps. A row of any result depends on that row of the left operand alone, and its
// sums have the same order whatever the height of the tile.
#ifndef KERNELS_CUDA_ATTENTION_BF16_CUH
#define KERNELS_CUDA_ATTENTION_BF16_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"

namespace attention
{

constexpr int MMA_WARPS = 8;
constexpr int MMA_THREADS = MMA_WARPS * WARP;
constexpr int VECTOR = 8; // elements of 16 bytes
constexpr int KEYS = ATTENTION_BLOCK;

// Elements of a row in shared memory: whole lines of 128 bytes.
__host__ __device__ inline int padded(int width) { return round_up(width, 64); }

// Rows of `vectors` vectors, a multiple of 8. Vector v of row r stands at v ^ (r % 8): the same
// vector of 8 rows lies in 8 different banks.
struct tile_view {
    bf16 *data;
    int vectors;

    __device__ __forceinline__ bf16 *at(int row, int vector) const
    {
        return data + (row * vectors + (vector ^ (row & 7))) * VECTOR;
    }
    __device__ __forceinline__ bf16 *element(int row, int column) const
    {
        return at(row, column / VECTOR) + column % VECTOR;
    }
};

// Starts copying the first `valid` of `rows` rows, `width` elements wide, to the first
// padded(width) columns; the rest of the rows and of these columns becomes zero. What cp.async
// cannot copy is there after a barrier.
template <typename Source>
__device__ inline void load_tile(const tile_view &to, const Source &from, int rows, int valid,
                                 int width)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bool whole = width % VECTOR == 0 && from.aligned();
    for (int r = static_cast<int>(threadIdx.x) / WARP; r < rows; r += MMA_WARPS) {
        const bf16 *const row = r < valid ? from.row(r) : from.data;
        for (int v = lane; v < padded(width) / VECTOR; v += WARP) {
            const int left = r < valid ? width - v * VECTOR : 0;
            if (whole) {
                cp_async_16_zero(to.at(r, v), left > 0 ? row + v * VECTOR : row, left > 0 ? 16 : 0);
                continue;
            }
            for (int j = 0; j < VECTOR; j++)
                to.at(r, v)[j] = j < left ? row[v * VECTOR + j] : __float2bfloat16_rn(0.0f);
        }
    }
}

// A tile of keys: rows of key_columns(shape, 64), the values of which begin at a whole line.
__device__ __forceinline__ tile_view values_of(const tile_view &kv, const struct attention_shape &s)
{
    return {kv.data + value_column(s, 64), kv.vectors};
}

// Rows of one part of keys, row 0 at `row`.
__device__ inline void load_key_tile(const struct attention_shape &s, const tile_view &to,
                                     const bf16 *row, int part, int rows, int valid)
{
    const size_t stride = static_cast<size_t>(attention_row(&s));
    const bf16 *const key = row + part_of(s, part);
    load_tile(to, strided_source<bf16>{key, stride}, rows, valid, s.Dk);
    if (s.value_at > 0)
        load_tile(values_of(to, s), strided_source<bf16>{key + s.value_at, stride}, rows, valid,
                  s.Dv);
}

// What a thread holds of MT x NT matrices [16,8]: see mma_m16n8k16_bf16.
template <int MT, int NT> struct fragments {
    float v[MT][NT][4];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    v[m][n][e] = 0.0f;
    }
};

// d = x y^T over `vectors` vectors of both (a multiple of 4): rows [row, row + 16 MT) of x and
// [column, column + 8 NT) of y.
template <int MT, int NT>
__device__ __forceinline__ void multiply_rows(fragments<MT, NT> *d, const tile_view &x, int row,
                                              const tile_view &y, int column, int vectors)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    d->clear();
    // A single chain of products waits for its operands, unless some steps' are fetched ahead.
#pragma unroll(MT *NT >= 4 ? 1 : 3)
    for (int v = 0; v < vectors; v += 4) {
        uint32_t a[MT][2][4], b[NT][4];
#pragma unroll
        for (int n = 0; n < NT; n++)
            ldmatrix_x4(b[n], y.at(column + 8 * n + lane % 8, v + lane / 8));
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                ldmatrix_x4(a[m][k], x.at(row + 16 * m + lane % 16, v + 2 * k + lane / 16));
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const uint32_t pair[2] = {b[n][2 * k], b[n][2 * k + 1]};
                    mma_m16n8k16_bf16(d->v[m][n], a[m][k], pair);
                }
    }
}

// The right operands of 16 rows of x from `row` on: vectors [first, first + 2) or, when NT is 1,
// the first alone. What is at `end` or after it is not used.
template <int NT>
__device__ __forceinline__ void load_right(uint32_t (*b)[2], const tile_view &x, int row, int first,
                                           int end)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    if constexpr (NT == 1) {
        ldmatrix_x2_trans(b[0], x.at(row + lane % 16, first));
    } else {
        uint32_t two[4];
        const int v = first + lane / 16;
        ldmatrix_x4_trans(two, x.at(row + lane % 16, v < end ? v : end - 1));
        b[0][0] = two[0], b[0][1] = two[1], b[1][0] = two[2], b[1][1] = two[3];
    }
}

// d += weights x over `depth` rows of x (a multiple of 16), all 16 MT rows of weights
// [16 MT,depth]: the columns of the vectors [first, end) of x, of which there are NT at most.
template <int MT, int NT>
__device__ __forceinline__ void add_weighted(fragments<MT, NT> *d, const tile_view &weights,
                                             const tile_view &x, int depth, int first, int end)
{
    // Where registers allow it, all right operands of a step are fetched before they are used.
    constexpr int GROUP = MT == 1 ? NT + NT % 2 : 2;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll 1
    for (int k = 0; k < depth; k += 16) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            ldmatrix_x4(a[m], weights.at(16 * m + lane % 16, k / VECTOR + lane / 16));
#pragma unroll
        for (int g = 0; g < NT; g += GROUP) {
            uint32_t b[GROUP][2];
#pragma unroll
            for (int j = 0; j < GROUP && g + j + 1 < NT; j += 2)
                if (first + g + j < end)
                    load_right<2>(b + j, x, k, first + g + j, end);
            if (NT % 2 == 1 && g + GROUP > NT && first + NT - 1 < end)
                load_right<1>(b + GROUP - 2, x, k, first + NT - 1, end);
#pragma unroll
            for (int j = 0; j < GROUP && g + j < NT; j++) {
                if (first + g + j >= end)
                    break;
#pragma unroll
                for (int m = 0; m < MT; m++)
                    mma_m16n8k16_bf16(d->v[m][g + j], a[m], b[j]);
            }
        }
    }
}

// The vectors of a result's columns that a warp has.
struct vector_range {
    int first, end;

    // Of warp `warp` of `warps` that share a row of `width`; none when it is not one of them.
    __device__ __forceinline__ void place(int width, int warp, int warps)
    {
        const int vectors = (width + VECTOR - 1) / VECTOR;
        const int per_warp = (vectors + warps - 1) / warps;
        first = warp < 0 ? vectors : warp * per_warp;
        end = first + per_warp < vectors ? first + per_warp : vectors;
    }
    __device__ __forceinline__ void place(int width)
    {
        place(width, static_cast<int>(threadIdx.x) / WARP, MMA_WARPS);
    }
    // Columns of a row of `width` that are before the end.
    __device__ __forceinline__ int columns(int width) const
    {
        return end * VECTOR < width ? end * VECTOR : width;
    }
};

// Element e of a fragment: row and column in its matrix.
__device__ __forceinline__ int fragment_row(int e)
{
    return static_cast<int>(threadIdx.x) % WARP / 4 + e / 2 * 8;
}
__device__ __forceinline__ int fragment_column(int e)
{
    return static_cast<int>(threadIdx.x) % 4 * 2 + e % 2;
}

// Two neighbouring elements of a row of `width`, from `column` on.
template <typename T>
__device__ __forceinline__ void store_pair(T *row, int column, int width, float x, float y)
{
    if (column < width)
        narrow(row + column, x);
    if (column + 1 < width)
        narrow(row + column + 1, y);
}

template <>
__device__ __forceinline__ void store_pair<bf16>(bf16 *row, int column, int width, float x, float y)
{
    if (column + 1 < width && reinterpret_cast<uintptr_t>(row) % 4 == 0) {
        *reinterpret_cast<uint32_t *>(row + column) = bf16_pair(x, y);
        return;
    }
    if (column < width)
        narrow(row + column, x);
    if (column + 1 < width)
        narrow(row + column + 1, y);
}

} // namespace attention

#endif
