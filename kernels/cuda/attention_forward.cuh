// SPDX-License-Identifier: Apache-2.0
// How a forward pass of attention is cut into blocks of threads, and how the results of the splits
// of the keys become one. The same for every element type.
#ifndef KERNELS_CUDA_ATTENTION_FORWARD_CUH
#define KERNELS_CUDA_ATTENTION_FORWARD_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"

namespace attention
{

// The pass on bfloat16 (attention_bf16.cu).
int attend_bfloat16(struct device *dev, const struct attention_args *a);

struct forward_plan {
    attention_args a;
    int tiles;            // at most
    int splits;           // blocks of a tile, one a split of the keys; 1: one block walks over all
    int ld;               // floats of a row of the sums: R in whole vectors
    float *sums;          // [rows,splits,ld] when splits > 1
    softmax_state *state; // [rows,splits] when splits > 1
};

// More scratch memory than this is not spent on splits.
constexpr size_t SPLIT_BYTES_MAX = static_cast<size_t>(512) << 20;
// Tiles a multiprocessor that make splits needless. Many small tiles are often sequences of very
// different lengths, and a split of one costs little; a split of a large tile leaves much to merge.
inline size_t tiles_enough(int size) { return size >= 64 ? 2 : 8; }

// Chooses between the two ways and gets the scratch memory; `size`: rows of a tile.
inline int plan_forward(struct device *dev, const struct attention_args *a, int size,
                        struct forward_plan *plan)
{
    const size_t tiles = tiles_at_most(a->T, a->num_seqs, heads_of(a->shape), size);
    const size_t parts = static_cast<size_t>(a->shape.kv_heads);
    const size_t rows = static_cast<size_t>(a->T) * static_cast<size_t>(a->shape.H);
    const int splits = splits_of(a->max_keys), ld = round_up(a->shape.Dv, 4);
    const size_t states = rows * static_cast<size_t>(splits);
    const size_t state_bytes = (states * sizeof(softmax_state) + 15) / 16 * 16;
    const size_t bytes = state_bytes + states * static_cast<size_t>(ld) * sizeof(float);
    *plan = {*a, static_cast<int>(tiles), 1, ld, nullptr, nullptr};
    if (splits == 1 || bytes > SPLIT_BYTES_MAX ||
        tiles * parts >= tiles_enough(size) * static_cast<size_t>(dev->cuda->num_sms))
        return 0;
    unsigned char *memory = nullptr;
    const int rc = scratch(dev, SCRATCH_OUTER, &memory, bytes);
    plan->splits = splits;
    plan->state = reinterpret_cast<softmax_state *>(memory);
    plan->sums = reinterpret_cast<float *>(memory + state_bytes);
    return rc;
}

// The keys [begin, end) that a block walks over; false when there are none.
__device__ __forceinline__ bool keys_of_block(const forward_plan &plan, const tile_rows &t,
                                              int *begin, int *end)
{
    *begin = static_cast<int>(blockIdx.y) * SPLIT_KEYS;
    *end = plan.splits > 1 && *begin + SPLIT_KEYS < t.keys ? *begin + SPLIT_KEYS : t.keys;
    return *begin < *end;
}

__device__ __forceinline__ float4 merge_four(merge_factors f, float4 total, float4 split)
{
    return make_float4(merge_values(f, total.x, split.x), merge_values(f, total.y, split.y),
                       merge_values(f, total.z, split.z), merge_values(f, total.w, split.w));
}

// Leaves 4 columns of a split's sums, and with the first of them its state, for combine_splits.
__device__ __forceinline__ void store_partial(const forward_plan &plan, const tile_rows &t, int row,
                                              int column, int split, float4 sum,
                                              softmax_state state)
{
    const size_t at =
        t.rows.at(t.first + row) * static_cast<size_t>(plan.splits) + static_cast<size_t>(split);
    *reinterpret_cast<float4 *>(plan.sums + at * static_cast<size_t>(plan.ld) + column) = sum;
    if (column == 0)
        plan.state[at] = state;
}

// At the end of a split, when all threads have used the states: into the totals.
__device__ __forceinline__ void merge_row_states(const tile_rows &t, const softmax_state *split,
                                                 softmax_state *total, int index)
{
    const int row = static_cast<int>(threadIdx.x);
    if (row >= t.count)
        return;
    if (index == 0)
        total[row] = split[row];
    else
        merge_states(&total[row], split[row]);
}

constexpr int COMBINE_TILE = 16, COMBINE_THREADS = 128;

// Merges the splits of one row in order. grid: (tiles, COMBINE_TILE, parts).
template <typename T>
__global__ void __launch_bounds__(COMBINE_THREADS) combine_rows(const forward_plan plan)
{
    const attention_args &a = plan.a;
    attention_seq seq;
    int tile;
    const bool found = find_queries(a.seqs, a.num_seqs, heads_of(a.shape), COMBINE_TILE,
                                    last_first(), &seq, &tile);
    wait_for_last();
    if (!found)
        return;
    const int part = static_cast<int>(blockIdx.z);
    const tile_rows t = rows_of_tile(seq, tile, COMBINE_TILE, a.shape, part);
    const int row = static_cast<int>(blockIdx.y);
    if (row >= t.count)
        return;
    const size_t at = t.rows.at(t.first + row);
    const softmax_state *state = plan.state + at * static_cast<size_t>(plan.splits);
    const float *sums = plan.sums + at * static_cast<size_t>(plan.splits * plan.ld);
    const int splits = splits_of(keys_of_row(t, row, t.rows.heads));
    T *out = static_cast<T *>(a.out) + at * static_cast<size_t>(a.shape.Dv);
    for (int c = 4 * static_cast<int>(threadIdx.x); c < a.shape.Dv; c += 4 * COMBINE_THREADS) {
        softmax_state total = state[0];
        float4 sum = *reinterpret_cast<const float4 *>(sums + c);
#pragma unroll 8 // loads that are under way together
        for (int s = 1; s < splits; s++) {
            const float4 x = *reinterpret_cast<const float4 *>(
                sums + static_cast<size_t>(s) * static_cast<size_t>(plan.ld) + c);
            sum = merge_four(merge_states(&total, state[s]), sum, x);
        }
        const float inverse = 1.0f / total.sum;
        const four v = {{sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse}};
        store_four(out + c, a.shape.Dv - c, v);
        if (c == 0 && a.lse)
            a.lse[at] = log_sum(total);
    }
}

template <typename T> int combine_splits(struct device *dev, const struct forward_plan &plan)
{
    if (plan.splits == 1)
        return 0;
    const struct attention_shape &s = plan.a.shape;
    const size_t tiles = tiles_at_most(plan.a.T, plan.a.num_seqs, heads_of(s), COMBINE_TILE);
    const dim3 grid(static_cast<unsigned int>(tiles), COMBINE_TILE,
                    static_cast<unsigned int>(s.kv_heads));
    return launch_early(dev, grid, dim3(COMBINE_THREADS), 0, combine_rows<T>, plan);
}

} // namespace attention

#endif
