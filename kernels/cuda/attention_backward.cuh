// SPDX-License-Identifier: Apache-2.0
// What the backward passes of attention share, whatever the element type: delta = dout . out of
// every row, which both of their kernels need.
#ifndef KERNELS_CUDA_ATTENTION_BACKWARD_CUH
#define KERNELS_CUDA_ATTENTION_BACKWARD_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"

namespace attention
{

// The pass on bfloat16 (attention_grad_bf16.cu).
int attend_grad_bfloat16(struct device *dev, const struct attention_grad_args *a);

struct grad_plan {
    attention_grad_args a;
    float *delta; // [T,H]
};

__device__ __forceinline__ tile_rows queries_of_tile(const attention_grad_seq &seq, int tile,
                                                     int size, const struct attention_shape &shape,
                                                     int part)
{
    return rows_of_tile(attention_seq{seq.query, seq.len, seq.pos, 0}, tile, size, shape, part);
}

// The first position whose key is a sequence's own.
__device__ __forceinline__ int first_own(const attention_grad_seq &seq)
{
    return seq.pos / ATTENTION_BLOCK * ATTENTION_BLOCK;
}

// Where the keys of a sequence are: rows of kv. Blocks are of one sequence each.
struct key_rows {
    int own, prefix; // rows of the keys of positions own_from and 0
    int own_from, keys;

    __device__ __forceinline__ int row(int key) const
    {
        return key < own_from ? prefix + key : own + key - own_from;
    }
};

__device__ __forceinline__ key_rows keys_of_seq(const attention_grad_args &a,
                                                const attention_grad_seq &seq)
{
    return {seq.key, seq.prefix < 0 ? 0 : a.seqs[seq.prefix].key, first_own(seq),
            seq.pos + seq.len};
}

// A tile of the own keys of a sequence, and a walk over the rows that see some of it: the
// sequence's own from `first` on, then all of those that continue it and see it whole.
struct key_tile {
    attention_grad_seq seq; // whose rows are walked over
    int n, index;           // it, and the one whose keys they are
    int key, row, rows;     // position of the first key, row of seq and rows that it has
    int count, at;          // keys, and row of kv of the first

    __device__ __forceinline__ bool there() const { return row < rows; }

    // The next `step` rows.
    __device__ __forceinline__ void advance(const attention_grad_args &a, int step)
    {
        row += step;
        while (row >= rows && n + 1 < a.num_seqs && a.seqs[n + 1].prefix == index &&
               key < first_own(a.seqs[n + 1])) {
            seq = a.seqs[++n];
            row = 0;
            rows = seq.len * heads_of(a.shape);
        }
    }
};

// Tile `wanted` of `size` keys. The walk begins with a multiple of `step` rows, and has come to
// rows unless there are none.
__device__ inline bool find_keys(const attention_grad_args &a, int size, int step, int wanted,
                                 key_tile *t)
{
    const auto own = [](const attention_grad_seq &s) { return s.pos % ATTENTION_BLOCK + s.len; };
    int tile;
    if (!find_tile(a.seqs, a.num_seqs, own, 1, size, wanted, &t->index, &tile))
        return false;
    t->n = t->index;
    t->seq = a.seqs[t->index];
    const int heads = heads_of(a.shape), left = own(t->seq) - tile * size;
    t->key = first_own(t->seq) + tile * size;
    t->count = left < size ? left : size;
    t->at = t->seq.key + tile * size;
    t->rows = t->seq.len * heads;
    t->row = t->key > t->seq.pos ? (t->key - t->seq.pos) * heads / step * step : 0;
    t->advance(a, 0);
    return true;
}

constexpr int DELTA_THREADS = 256;

// A warp a row.
template <typename T>
__global__ void __launch_bounds__(DELTA_THREADS) row_deltas(const grad_plan plan)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP, R = plan.a.shape.Dv;
    const size_t row = static_cast<size_t>(blockIdx.x) * (DELTA_THREADS / WARP) +
                       static_cast<size_t>(threadIdx.x) / WARP;
    if (row >= static_cast<size_t>(plan.a.T) * static_cast<size_t>(plan.a.shape.H))
        return;
    const T *const out = static_cast<const T *>(plan.a.out) + row * static_cast<size_t>(R);
    const T *const dout = static_cast<const T *>(plan.a.dout) + row * static_cast<size_t>(R);
    float sum = 0.0f;
    for (int c = 4 * lane; c < R; c += 4 * WARP) {
        const four x = load_four(out + c, R - c), dx = load_four(dout + c, R - c);
        for (int j = 0; j < 4; j++)
            sum = fmaf(x.x[j], dx.x[j], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0)
        plan.delta[row] = sum;
}

// Puts the deltas on the stream. more: floats of scratch memory after them, at *rest, 16-byte
// aligned.
template <typename T>
int plan_backward(struct device *dev, const struct attention_grad_args *a, struct grad_plan *plan,
                  size_t more = 0, float **rest = nullptr)
{
    const size_t rows = static_cast<size_t>(a->T) * static_cast<size_t>(a->shape.H);
    const size_t deltas = (rows + 3) / 4 * 4;
    *plan = {*a, nullptr};
    const int rc = scratch(dev, SCRATCH_OUTER, &plan->delta, deltas + more);
    if (rest)
        *rest = plan->delta + deltas;
    return rc ? rc
              : launch(dev, dim3(blocks_for(rows, DELTA_THREADS / WARP)), dim3(DELTA_THREADS), 0,
                       row_deltas<T>, *plan);
}

} // namespace attention

#endif
