// SPDX-License-Identifier: Apache-2.0
// The bfloat16 tile product by warp-level matrix instructions (mma.sync m16n8k16), for GPUs without
// wgmma. The order of a sum over `depth` terms, for every tile shape: one chain of m16n8k16 from
// zero, the terms ascending, filled up with zeros to a multiple of MMA_DEPTH; what the output
// starts from is added last.
//
// In shared memory an operand of a stage is rows of 128 bytes, their pieces permuted
// (swizzled_piece): of MMA_DEPTH terms, a row per row (or column) of the tile; or, where the terms
// are the slow dimension (gradients), strips of MMA_DEPTH rows, a row per term, of 64 columns.
#ifndef KERNELS_CUDA_MATMUL_MMA_CUH
#define KERNELS_CUDA_MATMUL_MMA_CUH

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/matmul.cuh"

constexpr int MMA_DEPTH = 64;
constexpr int MMA_PIECE = 8; // elements of 16 bytes
constexpr int MMA_STRIP = MMA_DEPTH * 64;

static_assert(MMA_DEPTH == PACK, "a stage of B is a slice of packed blocks");

// A tile of WARPS_M x WARPS_N warps, each of ROW_TILES x 16 rows and COL_TILES x 8 columns.
template <int WARPS_M, int WARPS_N, int ROW_TILES, int COL_TILES, int STAGES> struct mma_tile {
    static constexpr int warps_n = WARPS_N, row_tiles = ROW_TILES, col_tiles = COL_TILES;
    static constexpr int rows = WARPS_M * ROW_TILES * 16, cols = WARPS_N * COL_TILES * 8;
    static constexpr int threads = WARP * WARPS_M * WARPS_N, stages = STAGES;
    static constexpr int stage = MMA_DEPTH * (rows + cols); // elements
    static constexpr size_t shared_bytes = sizeof(bf16) * stage * STAGES;
    static_assert(COL_TILES % 2 == 0, "columns are loaded 16 at a time");
};

// The first row and column of the thread's warp.
template <class Tile> __device__ __forceinline__ int warp_row()
{
    return static_cast<int>(threadIdx.x) / WARP / Tile::warps_n * Tile::row_tiles * 16;
}

template <class Tile> __device__ __forceinline__ int warp_col()
{
    return static_cast<int>(threadIdx.x) / WARP % Tile::warps_n * Tile::col_tiles * 8;
}

__device__ __forceinline__ const bf16 *mma_piece(const bf16 *rows, int row, int piece)
{
    return rows + row * 64 + swizzled_piece(row, piece) * MMA_PIECE;
}

// Fragments at terms [l, l + 16). Of A: rows [row, row + 16). Of B: columns [col, col + 16), two
// fragments.
struct mma_rows {
    static __device__ __forceinline__ void a(uint32_t (&x)[4], const bf16 *stage, int row, int l)
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        ldmatrix_x4(x, mma_piece(stage, row + lane % 16, l / MMA_PIECE + lane / 16));
    }
    static __device__ __forceinline__ void b(uint32_t (&x)[4], const bf16 *stage, int col, int l)
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        ldmatrix_x4(x,
                    mma_piece(stage, col + lane / 16 * 8 + lane % 8, l / MMA_PIECE + lane / 8 % 2));
    }
};

struct mma_strips {
    static __device__ __forceinline__ void a(uint32_t (&x)[4], const bf16 *stage, int row, int l)
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        ldmatrix_x4_trans(x, mma_piece(stage + row / 64 * MMA_STRIP, l + lane / 16 * 8 + lane % 8,
                                       row % 64 / MMA_PIECE + lane / 8 % 2));
    }
    static __device__ __forceinline__ void b(uint32_t (&x)[4], const bf16 *stage, int col, int l)
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        ldmatrix_x4_trans(x, mma_piece(stage + col / 64 * MMA_STRIP, l + lane % 16,
                                       col % 64 / MMA_PIECE + lane / 16));
    }
};

template <class Tile> using mma_sums = float[Tile::row_tiles][Tile::col_tiles][4];

template <class Tile, class Fragments>
__device__ __forceinline__ void mma_stage(const bf16 *stage, mma_sums<Tile> &sum)
{
    const int row = warp_row<Tile>(), col = warp_col<Tile>();
#pragma unroll
    for (int l = 0; l < MMA_DEPTH; l += 16) {
        uint32_t a[Tile::row_tiles][4], b[Tile::col_tiles][2];
#pragma unroll
        for (int i = 0; i < Tile::row_tiles; i++)
            Fragments::a(a[i], stage, row + i * 16, l);
#pragma unroll
        for (int j = 0; j < Tile::col_tiles; j += 2) {
            uint32_t two[4];
            Fragments::b(two, stage + MMA_DEPTH * Tile::rows, col + j * 8, l);
            b[j][0] = two[0], b[j][1] = two[1];
            b[j + 1][0] = two[2], b[j + 1][1] = two[3];
        }
#pragma unroll
        for (int i = 0; i < Tile::row_tiles; i++)
#pragma unroll
            for (int j = 0; j < Tile::col_tiles; j++)
                mma_m16n8k16_bf16(sum[i][j], a[i], b[j]);
    }
}

// sum = the product over `depth` terms. load(stage, l) begins the copies of terms
// [l, l + MMA_DEPTH) to a stage.
template <class Tile, class Fragments, class Load>
__device__ __forceinline__ void mma_product(bf16 *shared, int depth, const Load &load,
                                            mma_sums<Tile> &sum)
{
    const int stages = div_up(depth, MMA_DEPTH);
    for (int s = 0; s < Tile::stages - 1; s++) {
        if (s < stages)
            load(shared + s * Tile::stage, s * MMA_DEPTH);
        cp_async_commit();
    }
    for (int s = 0; s < stages; s++) {
        cp_async_wait<Tile::stages - 2>();
        __syncthreads();
        const int next = s + Tile::stages - 1;
        if (next < stages)
            load(shared + next % Tile::stages * Tile::stage, next * MMA_DEPTH);
        cp_async_commit();
        mma_stage<Tile, Fragments>(shared + s % Tile::stages * Tile::stage, sum);
    }
    cp_async_wait<0>();
    __syncthreads();
}

// Calls put(row, col, x, y) for each pair of neighbours, (row, col) = x and (row, col + 1) = y,
// that the thread holds.
template <class Tile, class Put>
__device__ __forceinline__ void mma_each_pair(const mma_sums<Tile> &sum, const Put &put)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = warp_row<Tile>() + lane / 4, col = warp_col<Tile>() + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Tile::row_tiles; i++)
#pragma unroll
        for (int j = 0; j < Tile::col_tiles; j++) {
            put(row + i * 16, col + j * 8, sum[i][j][0], sum[i][j][1]);
            put(row + i * 16 + 8, col + j * 8, sum[i][j][2], sum[i][j][3]);
        }
}

#endif
