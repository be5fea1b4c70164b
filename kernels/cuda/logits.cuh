// SPDX-License-Identifier: Apache-2.0
// Statistics of a row of logits: log-probability and entropy of softmax(z), z = logits / tau
// (MATH.md). The one order of the sums over the vocabulary: chunks of LOGIT_CHUNK columns counted
// from column 0; in a chunk, lane q of four sums columns 8j + 2q and 8j + 2q + 1, j ascending (the
// columns that it holds of a product of mma.m16n8), and the four lanes are added in pairs; a warp
// adds the chunks, lane l every chunk l + 32 i, i ascending, and then its lanes in pairs. Whoever
// has the logits, in registers or in memory, goes through chunk_stats_of and merge_stats.
#ifndef KERNELS_CUDA_LOGITS_CUH
#define KERNELS_CUDA_LOGITS_CUH

#include "kernels/cuda/block.cuh"
#include <cfloat>
#include <cmath>

constexpr int LOGIT_CHUNK = 64;
constexpr int LOGIT_HELD = LOGIT_CHUNK / 4; // logits of a chunk that one lane of four holds

__host__ __device__ __forceinline__ int logit_chunks(int V)
{
    return (V + LOGIT_CHUNK - 1) / LOGIT_CHUNK;
}

__device__ __forceinline__ float inverse_tau(float tau) { return tau == 0.0f ? 1.0f : 1.0f / tau; }

__device__ __forceinline__ float scaled_logit(float logit, float inverse)
{
    return __fmul_rn(logit, inverse);
}

// e^d
__device__ __forceinline__ float exp_of(float d)
{
    return exp2f(__fmul_rn(d, 1.44269504f)); // log2 e
}

// d, of which e^d is a factor, bounded below where that is 0.
__device__ __forceinline__ float bounded(float d) { return fmaxf(d, -1000.0f); }

struct chunk_stats {
    float max, total, weighted; // of z; sum of e^(z - max), and of that times (z - max)
};

struct row_stats {
    float max, log_total, entropy;
};

__device__ __forceinline__ float quad_sum(float x)
{
    x = __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Of a chunk whose columns four neighbouring lanes hold, -infinity past the vocabulary; the same in
// the four. Leaves e^(z - max) in z.
__device__ __forceinline__ chunk_stats chunk_stats_of(float (&z)[LOGIT_HELD])
{
    chunk_stats s = {-FLT_MAX, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < LOGIT_HELD; i++)
        s.max = fmaxf(s.max, z[i]);
    s.max = fmaxf(s.max, __shfl_xor_sync(ALL_LANES, s.max, 1));
    s.max = fmaxf(s.max, __shfl_xor_sync(ALL_LANES, s.max, 2));
#pragma unroll
    for (int i = 0; i < LOGIT_HELD; i++) {
        const float d = __fadd_rn(z[i], -s.max);
        z[i] = exp_of(d);
        s.total = __fadd_rn(s.total, z[i]);
        s.weighted = __fmaf_rn(z[i], bounded(d), s.weighted);
    }
    s.total = quad_sum(s.total);
    s.weighted = quad_sum(s.weighted);
    return s;
}

// The chunks of a row, one array of each statistic.
struct chunk_arrays {
    float *max, *total, *weighted; // [chunks]
};

__device__ __forceinline__ void put_chunk(const chunk_arrays &to, size_t at, const chunk_stats &s)
{
    to.max[at] = s.max;
    to.total[at] = s.total;
    to.weighted[at] = s.weighted;
}

// entropy = log S - sum e^(z - m) (z - m) / S, S = sum e^(z - m). One warp; the same in all lanes.
__device__ __forceinline__ row_stats merge_stats(const chunk_arrays &from, int chunks)
{
    row_stats s = {-FLT_MAX, 0.0f, 0.0f};
    float total = 0.0f, weighted = 0.0f;
    for (int i = lane_index(); i < chunks; i += WARP)
        s.max = fmaxf(s.max, from.max[i]);
    s.max = warp_max(s.max);
    for (int i = lane_index(); i < chunks; i += WARP) {
        const float d = bounded(__fadd_rn(from.max[i], -s.max)), scale = exp_of(d);
        const float shifted = __fmaf_rn(from.total[i], d, from.weighted[i]);
        total = __fmaf_rn(from.total[i], scale, total);
        weighted = __fmaf_rn(shifted, scale, weighted);
    }
    total = warp_sum(total);
    weighted = warp_sum(weighted);
    s.log_total = logf(total);
    s.entropy = __fadd_rn(s.log_total, -__fdiv_rn(weighted, total));
    return s;
}

__device__ __forceinline__ float log_probability(const row_stats &s, float z)
{
    return __fadd_rn(__fadd_rn(z, -s.max), -s.log_total);
}

// ---- a row in memory, treated by a block

constexpr int LOGIT_THREADS = 512;
constexpr int LOGIT_WARPS = LOGIT_THREADS / WARP;

// Bytes of shared memory that block_row_stats needs.
inline size_t row_stats_bytes(int V)
{
    return 3 * sizeof(float) * static_cast<size_t>(logit_chunks(V));
}

// Statistics of logits [V] times `inverse`; the same in all threads. chunk_floats: shared memory,
// which may be used for something else once this returns.
static __device__ __forceinline__ row_stats block_row_stats(const float *logits, int V,
                                                            float inverse, float *chunk_floats)
{
    __shared__ row_stats result;
    const int chunks = logit_chunks(V), q = lane_index() % 4;
    const chunk_arrays arrays = {chunk_floats, chunk_floats + chunks, chunk_floats + 2 * chunks};
    const bool pairs = reinterpret_cast<uintptr_t>(logits) % sizeof(float2) == 0;
    constexpr int each = WARP / 4; // chunks of a warp at a time
    for (int first = warp_index() * each; first < chunks; first += LOGIT_WARPS * each) {
        const int chunk = first + lane_index() / 4;
        float z[LOGIT_HELD];
#pragma unroll
        for (int j = 0; j < LOGIT_HELD / 2; j++) {
            const int v = chunk * LOGIT_CHUNK + 8 * j + 2 * q;
            float2 x = make_float2(-INFINITY, -INFINITY);
            if (pairs && v + 1 < V)
                x = *reinterpret_cast<const float2 *>(logits + v);
            else if (v < V)
                x = make_float2(logits[v], v + 1 < V ? logits[v + 1] : -INFINITY);
            z[2 * j] = v < V ? scaled_logit(x.x, inverse) : -INFINITY;
            z[2 * j + 1] = v + 1 < V ? scaled_logit(x.y, inverse) : -INFINITY;
        }
        const chunk_stats s = chunk_stats_of(z);
        if (q == 0 && chunk < chunks)
            put_chunk(arrays, static_cast<size_t>(chunk), s);
    }
    __syncthreads();
    if (warp_index() == 0) {
        const row_stats s = merge_stats(arrays, chunks);
        if (lane_index() == 0)
            result = s;
    }
    __syncthreads();
    return result;
}

#endif
