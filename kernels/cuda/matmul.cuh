// SPDX-License-Identifier: Apache-2.0
// What the matrix products share: the layout of packed matrices, and which tile of the output a
// block works on.
//
// A packed [k,n] matrix takes kp np elements, kp and np being k and n rounded up to PACK; what is
// added is zero. Columns [c, n) of it, c a multiple of PACK, are the packed [k, n - c] matrix that
// starts c kp elements further, whatever the type.
// - float32: panels of F32_PANEL columns; a panel is dense [kp, F32_PANEL].
// - bfloat16: panels of PACK columns; a panel is kp / PACK blocks of PACK x PACK, and a block is
// the
//   image that a tile has in shared memory: by column, PACK values of k in a row of 128 bytes, the
//   row's eight pieces of 16 bytes permuted by its index (swizzled_piece), so that both ldmatrix
//   and wgmma (128-byte swizzle) read it without bank conflicts.
#ifndef KERNELS_CUDA_MATMUL_CUH
#define KERNELS_CUDA_MATMUL_CUH

#include "kernels/cuda/cuda.cuh"

constexpr int PACK = 64;
constexpr int F32_PANEL = 32;

__host__ __device__ constexpr int div_up(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int round_up(int a, int b) { return div_up(a, b) * b; }

__host__ __device__ constexpr size_t packed_elements(int k, int n)
{
    return static_cast<size_t>(round_up(k, PACK)) * static_cast<size_t>(round_up(n, PACK));
}

// Where piece `piece` (of eight, 16 bytes each) of row `row` stands in its row of 128 bytes.
__host__ __device__ constexpr int swizzled_piece(int row, int piece) { return piece ^ (row & 7); }

// ---- the tiles of a product over batches or segments

struct row_range {
    int begin, end; // rows of A and C, absolute with segments, else within the group
};

__device__ __forceinline__ row_range group_rows(const int *segments, int m, int g)
{
    if (!segments)
        return {0, m};
    return {segments[g], segments[g + 1]};
}

// Tiles are numbered by group; within a group by bands of BAND row tiles; within a band down the
// rows first, so that blocks at work together share rows of A and columns of B in the cache.
constexpr int BAND = 8;

struct tile_schedule {
    const int *first; // [batch+1] in shared memory, with segments: row tiles before group g
    int row_tiles;    // else of each group
    int col_tiles, batch;
};

struct tile_place {
    int g, row_tile, col_tile;
};

// Fills first [batch+1] in shared memory. All threads of the block call it; it ends in a barrier.
__device__ inline void count_row_tiles(int *first, const int *segments, int batch, int rows)
{
    if (threadIdx.x < WARP) {
        const int lane = static_cast<int>(threadIdx.x);
        int before = 0;
        for (int base = 0; base < batch; base += WARP) {
            const int g = base + lane;
            int sum = g < batch ? div_up(segments[g + 1] - segments[g], rows) : 0;
            for (int apart = 1; apart < WARP; apart *= 2) {
                const int other = __shfl_up_sync(ALL_LANES, sum, apart);
                sum += lane >= apart ? other : 0;
            }
            if (g < batch)
                first[g + 1] = before + sum;
            before += __shfl_sync(ALL_LANES, sum, WARP - 1);
        }
        if (lane == 0)
            first[0] = 0;
    }
    __syncthreads();
}

__device__ inline int tile_count(const tile_schedule &s)
{
    return (s.first ? s.first[s.batch] : s.row_tiles * s.batch) * s.col_tiles;
}

__device__ inline tile_place tile_at(const tile_schedule &s, int index)
{
    int g, row_tiles, before;
    if (s.first) {
        const int row = index / s.col_tiles;
        int low = 0, high = s.batch - 1; // the last group that starts at or before it
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (s.first[middle] <= row)
                low = middle;
            else
                high = middle - 1;
        }
        g = low;
        before = s.first[g];
        row_tiles = s.first[g + 1] - before;
    } else {
        row_tiles = s.row_tiles;
        g = index / (row_tiles * s.col_tiles);
        before = g * row_tiles;
    }
    const int in_group = index - before * s.col_tiles;
    const int band = in_group / (BAND * s.col_tiles);
    const int rows = row_tiles - band * BAND < BAND ? row_tiles - band * BAND : BAND;
    const int in_band = in_group - band * BAND * s.col_tiles;
    return {g, band * BAND + in_band % rows, in_band / rows};
}

// ---- host side

template <typename T> bool aligned_rows(const T *p, size_t ld, size_t stride)
{
    const size_t bytes = sizeof(T);
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * bytes % 16 == 0 &&
           stride * bytes % 16 == 0;
}

// Rows of a group; with segments, of one that has its share.
inline int rows_of_a_group(const struct matmul_args *a)
{
    return a->segments ? div_up(a->m, a->batch) : a->m;
}

// Tiles where each group has its share of the rows.
inline int share_tiles(const struct matmul_args *a, int rows, int cols)
{
    return div_up(rows_of_a_group(a), rows) * div_up(a->n, cols) * a->batch;
}

// Tiles at most, however the rows are shared.
inline int most_tiles(const struct matmul_args *a, int rows, int cols)
{
    const int row_tiles = a->segments ? a->m / rows + a->batch : div_up(a->m, rows) * a->batch;
    return row_tiles * div_up(a->n, cols);
}

// The kernels by type; sizes are not 0, but for k, and m with segments (not known).
int matmul_f32(struct device *dev, const struct matmul_args *a);
int matmul_mma(struct device *dev, const struct matmul_args *a);   // rows of A are aligned
int matmul_wgmma(struct device *dev, const struct matmul_args *a); // and on Hopper; m, k are not 0

#endif
