// SPDX-License-Identifier: Apache-2.0
// Attention by wgmma: what the two warpgroups of products do with the sums of a split of the keys.
#ifndef KERNELS_CUDA_ATTENTION_WIDE_CUH
#define KERNELS_CUDA_ATTENTION_WIDE_CUH

#include "kernels/cuda/attention_wgmma.cuh"

namespace attention
{

constexpr int WIDE_CONSUMERS = 2 * WARPGROUP, WIDE_THREADS = WIDE_CONSUMERS + WARPGROUP;

struct wide_plan : forward_plan {
    int *left; // [rows] of the first row of a tile: splits that are in scratch memory, else 0
};

#if HOPPER_CODE

// Barriers: of the two warpgroups, and of either.
constexpr int BOTH_SUMS = 1, BOTH_LEFT = 2, BOTH_KNOW = 3, OWN_SCORES = 4;

// What a thread knows of its two rows, 8 apart, of the 16 of its warp: keys they see, and of the
// split so far the largest score (before the scale) and the sum of its own keys' weights.
struct thread_rows {
    int first; // the upper one
    int keys[2];
    float max[2], sum[2];
    bool any; // of the warp's rows

    __device__ __forceinline__ void start(const tile_rows &t, int H)
    {
        first = static_cast<int>(threadIdx.x) % WARPGROUP / WARP * 16;
        any = first < t.count;
        first += fragment_row(0);
        for (int h = 0; h < 2; h++)
            keys[h] = keys_of_row(t, first + 8 * h, H);
    }
    __device__ __forceinline__ void start_split()
    {
        for (int h = 0; h < 2; h++)
            max[h] = -INFINITY, sum[h] = 0.0f;
    }
};

constexpr int HALF_SUMS = WIDE_R / 4; // registers of a thread: [64,256] over a warpgroup

// Sums [64,256] of a warpgroup: element 4 j + 2 h + e as in wide_scores.
using wide_sums = float[HALF_SUMS];

// A split that is an item of its own: to scratch memory.
__device__ inline void leave_split(const wide_plan &plan, const tile_rows &t,
                                   const thread_rows &rows, const softmax_state (&state)[2],
                                   const wide_sums &c, int w, int split)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows.first + 8 * h;
        if (row >= t.count)
            continue;
        const size_t at = (t.base + static_cast<size_t>(row)) * static_cast<size_t>(plan.splits) +
                          static_cast<size_t>(split);
        float *const sums = plan.sums + at * WIDE_R + w * (WIDE_R / 2) + fragment_column(0);
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j++)
            *reinterpret_cast<float2 *>(sums + 8 * j) =
                make_float2(c[4 * j + 2 * h], c[4 * j + 2 * h + 1]);
        if (w == 0 && fragment_column(0) == 0)
            plan.state[at] = state[h];
    }
}

// A split of an item that has them all: into the total, which each thread keeps in its own part of
// the block's scratch memory.
__device__ inline void take_split(const wide_plan &plan, const softmax_state (&state)[2],
                                  softmax_state (&total)[2], wide_sums &c, int split, bool last)
{
    float4 *const totals = reinterpret_cast<float4 *>(plan.sums) +
                           static_cast<size_t>(blockIdx.x) * (HALF_SUMS / 4 * WIDE_CONSUMERS) +
                           threadIdx.x;
    if (split == 0) {
        total[0] = state[0], total[1] = state[1];
    } else {
        const merge_factors f[2] = {merge_states(&total[0], state[0]),
                                    merge_states(&total[1], state[1])};
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j++) {
            const float4 x = totals[j * WIDE_CONSUMERS];
            c[4 * j] = merge_values(f[0], x.x, c[4 * j]);
            c[4 * j + 1] = merge_values(f[0], x.y, c[4 * j + 1]);
            c[4 * j + 2] = merge_values(f[1], x.z, c[4 * j + 2]);
            c[4 * j + 3] = merge_values(f[1], x.w, c[4 * j + 3]);
        }
    }
    if (last)
        return;
#pragma unroll
    for (int j = 0; j < HALF_SUMS / 4; j++)
        totals[j * WIDE_CONSUMERS] =
            make_float4(c[4 * j], c[4 * j + 1], c[4 * j + 2], c[4 * j + 3]);
}

// Merging: threads of a row, four columns each; rows at a time, and rows of a thread.
constexpr int MERGE_THREADS = WIDE_R / 4, MERGE_TOGETHER = WIDE_CONSUMERS / MERGE_THREADS;
constexpr int MERGE_ROWS = 8;

// What a split left of a row: its state, and the sums of the thread's columns.
struct left_split {
    softmax_state state;
    float4 sum;

    __device__ __forceinline__ void load(const wide_plan &plan, size_t row, int split)
    {
        const int column = static_cast<int>(threadIdx.x) % MERGE_THREADS * 4;
        const size_t at = row * static_cast<size_t>(plan.splits) + static_cast<size_t>(split);
        state = plan.state[at];
        sum = *reinterpret_cast<const float4 *>(plan.sums + at * WIDE_R + column);
    }
};

// Merges the splits of a thread's rows from `first` on in order, and stores the outputs.
__device__ inline void merge_rows(const wide_plan &plan, const tile_rows &t, int first)
{
    const attention_args &a = plan.a;
    const int column = static_cast<int>(threadIdx.x) % MERGE_THREADS * 4;
    const int splits = splits_of(t.keys);
    left_split total[MERGE_ROWS];
    size_t row[MERGE_ROWS]; // one past the last is the last once more
#pragma unroll
    for (int i = 0; i < MERGE_ROWS; i++) {
        const int r = first + i * MERGE_TOGETHER;
        row[i] = t.base + static_cast<size_t>(r < t.count ? r : t.count - 1);
        total[i].load(plan, row[i], 0);
    }
#pragma unroll 1
    for (int split = 1; split < splits; split++) {
        left_split x[MERGE_ROWS];
#pragma unroll
        for (int i = 0; i < MERGE_ROWS; i++)
            x[i].load(plan, row[i], split);
#pragma unroll
        for (int i = 0; i < MERGE_ROWS; i++)
            total[i].sum =
                merge_four(merge_states(&total[i].state, x[i].state), total[i].sum, x[i].sum);
    }
#pragma unroll
    for (int i = 0; i < MERGE_ROWS; i++) {
        const float4 sum = total[i].sum;
        const float inverse = 1.0f / total[i].state.sum;
        const four v = {{sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse}};
        if (first + i * MERGE_TOGETHER >= t.count)
            return;
        store_four(static_cast<bf16 *>(a.out) + row[i] * WIDE_R + column, 4, v);
        if (column == 0 && a.lse)
            a.lse[row[i]] = total[i].state.max + logf(total[i].state.sum);
    }
}

// The block that leaves the last of a tile's splits merges them.
__device__ inline void merge_tile(const wide_plan &plan, const tile_rows &t, int *shared)
{
    __threadfence();
    named_barrier(BOTH_LEFT, WIDE_CONSUMERS);
    if (threadIdx.x == 0) {
        int *const left = plan.left + t.base;
        *shared = atomicAdd(left, 1) + 1 == splits_of(t.keys);
        if (*shared)
            *left = 0;
        __threadfence();
    }
    named_barrier(BOTH_KNOW, WIDE_CONSUMERS);
    if (!*shared)
        return;
    __threadfence();
    for (int row = static_cast<int>(threadIdx.x) / MERGE_THREADS; row < t.count;
         row += MERGE_ROWS * MERGE_TOGETHER)
        merge_rows(plan, t, row);
}

__device__ __forceinline__ void store_pairs(bf16 *to, bool vector, const uint32_t (&pair)[4])
{
    if (vector) {
        *reinterpret_cast<uint4 *>(to) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = __ushort_as_bfloat16(static_cast<unsigned short>(pair[i / 2] >> 16 * (i % 2)));
}

// Outputs of a thread's two rows; four neighbouring lanes exchange theirs, so that lane q has eight
// columns together. All lanes of the warp call it.
__device__ inline void store_outputs(const attention_args &a, const tile_rows &t,
                                     const thread_rows &rows, const softmax_state (&total)[2],
                                     const wide_sums &c, int w)
{
    bf16 *const out = static_cast<bf16 *>(a.out) + t.base * WIDE_R + w * (WIDE_R / 2);
    const bool vectors = reinterpret_cast<uintptr_t>(out) % 16 == 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows.first + 8 * h;
        const float inverse = 1.0f / total[h].sum;
        bf16 *const to = out + row * WIDE_R;
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j += 4) {
            uint32_t pair[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                pair[i] = bf16_pair(c[4 * (j + i) + 2 * h] * inverse,
                                    c[4 * (j + i) + 2 * h + 1] * inverse);
            quad_transpose(pair);
            if (row < t.count)
                store_pairs(to + 8 * (j + static_cast<int>(threadIdx.x) % 4), vectors, pair);
        }
        if (a.lse && row < t.count && w == 0 && threadIdx.x % 4 == 0)
            a.lse[t.base + static_cast<size_t>(row)] = total[h].max + logf(total[h].sum);
    }
}

#endif // HOPPER_CODE

} // namespace attention

#endif
