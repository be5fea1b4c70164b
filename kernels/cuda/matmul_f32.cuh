// SPDX-License-Identifier: Apache-2.0
// The float32 tile product: exact fused multiply-adds, a warp's tile is 32 x 64, a thread's 8 x 8.
//
// The order of a sum over `depth` terms, for every kernel of float32 products: the terms are cut
// into chunks of F32_CHUNK; a chunk's sum is one chain of fused multiply-adds from zero, its terms
// ascending (filled up with zeros to a multiple of F32_DEPTH); the chunks' sums are then added one
// after the other, ascending, to what the output starts from.
#ifndef KERNELS_CUDA_MATMUL_F32_CUH
#define KERNELS_CUDA_MATMUL_F32_CUH

#include "kernels/cuda/matmul.cuh"

constexpr int F32_DEPTH = 16; // terms of a stage of the pipeline
constexpr int F32_CHUNK = 64;
constexpr int F32_STAGES = 4;

// A tile of WARPS_M x WARPS_N warps. Its stage in shared memory: A as [F32_DEPTH, pitch_a], B as
// [F32_DEPTH, cols].
template <int WARPS_M, int WARPS_N> struct f32_tile {
    static constexpr int warps_n = WARPS_N;
    static constexpr int rows = 32 * WARPS_M, cols = 64 * WARPS_N;
    static constexpr int threads = WARP * WARPS_M * WARPS_N;
    static constexpr int pitch_a = rows + 4; // keeps 16-byte rows, spreads a column over the banks
    static constexpr int stage = F32_DEPTH * (pitch_a + cols);
    static constexpr size_t shared_bytes = sizeof(float) * stage * F32_STAGES;
};

// A thread's elements: rows row + {0..3} and row + 16 + {0..3}, columns col + {0..3} and
// col + 32 + {0..3} of the tile.
template <class Tile> __device__ __forceinline__ int thread_row()
{
    const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
    return warp / Tile::warps_n * 32 + thread % WARP / 8 * 4;
}

template <class Tile> __device__ __forceinline__ int thread_col()
{
    const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
    return warp % Tile::warps_n * 64 + thread % 8 * 4;
}

__device__ __forceinline__ int element_row(int i) { return i % 4 + i / 4 * 16; }
__device__ __forceinline__ int element_col(int j) { return j % 4 + j / 4 * 32; }

__device__ __forceinline__ void load_8(float (&x)[8], const float *low, const float *high)
{
    const float4 a = *reinterpret_cast<const float4 *>(low);
    const float4 b = *reinterpret_cast<const float4 *>(high);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

template <class Tile>
__device__ __forceinline__ void f32_stage(const float *stage, float (&sum)[8][8])
{
    const float *a = stage + thread_row<Tile>();
    const float *b = stage + F32_DEPTH * Tile::pitch_a + thread_col<Tile>();
#pragma unroll
    for (int l = 0; l < F32_DEPTH; l++, a += Tile::pitch_a, b += Tile::cols) {
        float x[8], y[8];
        load_8(x, a, a + 16);
        load_8(y, b, b + 32);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
}

// total += the product of a tile over `depth` terms. load(stage, l) begins the copies of terms
// [l, l + F32_DEPTH) to a stage.
template <class Tile, class Load>
__device__ __forceinline__ void f32_product(float *shared, int depth, const Load &load,
                                            float (&total)[8][8])
{
    const int stages = div_up(depth, F32_DEPTH);
    for (int s = 0; s < F32_STAGES - 1; s++) {
        if (s < stages)
            load(shared + s * Tile::stage, s * F32_DEPTH);
        cp_async_commit();
    }
    for (int s = 0; s < stages;) {
        const int left = stages - s, per_chunk = F32_CHUNK / F32_DEPTH;
        const int end = s + (left < per_chunk ? left : per_chunk);
        float sum[8][8] = {};
        for (; s < end; s++) {
            cp_async_wait<F32_STAGES - 2>();
            __syncthreads();
            const int next = s + F32_STAGES - 1;
            if (next < stages)
                load(shared + next % F32_STAGES * Tile::stage, next * F32_DEPTH);
            cp_async_commit();
            f32_stage<Tile>(shared + s % F32_STAGES * Tile::stage, sum);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                total[i][j] += sum[i][j];
    }
    cp_async_wait<0>();
    __syncthreads();
}

// Moves a thread's elements from or to C; rows and cols are what the output has below and right of
// the tile's corner c.
template <class Tile>
__device__ __forceinline__ void f32_load(const float *c, size_t ldc, int rows, int cols,
                                         float (&x)[8][8])
{
    const int row = thread_row<Tile>(), col = thread_col<Tile>();
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int r = row + element_row(i), s = col + element_col(j);
            x[i][j] = r < rows && s < cols ? c[static_cast<size_t>(r) * ldc + s] : 0.0f;
        }
}

// aligned: rows of C are aligned to 16 bytes.
template <class Tile>
__device__ __forceinline__ void f32_store(float *c, size_t ldc, int rows, int cols, bool aligned,
                                          const float (&x)[8][8])
{
    const int row = thread_row<Tile>(), col = thread_col<Tile>();
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            const int r = row + element_row(i), s = col + element_col(j);
            float *to = c + static_cast<size_t>(r) * ldc + s;
            if (r >= rows)
                continue;
            if (aligned && s + 4 <= cols) {
                *reinterpret_cast<float4 *>(to) =
                    make_float4(x[i][j], x[i][j + 1], x[i][j + 2], x[i][j + 3]);
                continue;
            }
#pragma unroll
            for (int v = 0; v < 4; v++)
                if (s + v < cols)
                    to[v] = x[i][j + v];
        }
}

#endif
