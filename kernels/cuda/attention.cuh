// SPDX-License-Identifier: Apache-2.0
// What the variants of attention and of its backward share: how sequences are cut into tiles, how
// partial results over splits of the keys are merged, and the sizes that the kernels support.
//
// A row is one head of one query. Each part of the keys is on its own, with the heads that it
// serves: row i of a sequence is head i % heads of query i / heads. A tile is a few rows of one
// sequence and part, which read the same keys. In shared memory a row of keys is the key and,
// unless that begins with it, the value, each in whole vectors.
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.cuh"

namespace attention
{

// Keys of a split, counted from position 0. The softmax of a row restarts at every split, and the
// splits are merged in order: so a split may be the work of another block of threads (decode) or
// of the same (long prefills and training) and the bits are the same.
constexpr int SPLIT_KEYS = 8 * ATTENTION_BLOCK;

// The widest value and the widest row of keys that the kernels hold in registers.
constexpr int DV_MAX = 512;
constexpr int ROW_MAX = 576;

__host__ __device__ inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

__host__ __device__ inline int heads_of(const struct attention_shape &s)
{
    return s.H / s.kv_heads;
}

// Where a part begins in a row.
__host__ __device__ inline int part_of(const struct attention_shape &s, int part)
{
    return part * attention_part(&s);
}

// Of a row of keys in shared memory, in vectors of `to` elements: the column where the value
// begins, and all columns.
__host__ __device__ inline int value_column(const struct attention_shape &s, int to)
{
    return s.value_at == 0 ? 0 : round_up(s.Dk, to);
}
__host__ __device__ inline int key_columns(const struct attention_shape &s, int to)
{
    return round_up(s.Dk, to) + (s.value_at == 0 ? 0 : round_up(s.Dv, to));
}

__host__ __device__ inline int splits_of(int keys) { return (keys + SPLIT_KEYS - 1) / SPLIT_KEYS; }

// ERR_ENV when the kernels do not hold such rows.
int check_shape(const struct device *dev, const struct attention_shape *s);
// Whether a block may have so much dynamic shared memory; ERR_ENV when it may not.
bool fits_shared(const struct device *dev, size_t bytes);
int check_shared(const struct device *dev, size_t bytes);

// Tiles of `size` rows that T queries of num_seqs sequences have at most, at `per` rows a query.
inline size_t tiles_at_most(int T, int num_seqs, int per, int size)
{
    return static_cast<size_t>(T) * static_cast<size_t>(per) / static_cast<size_t>(size) +
           static_cast<size_t>(num_seqs);
}

// Finds tile `index`, counted over the sequences in order: its sequence, and which of the
// sequence's tiles it is. False when there are fewer. tokens(seq): what the tiles of a sequence are
// of, with `per` rows each. Called by all threads of the block, whole warps.
template <typename Seq, typename Tokens>
__device__ inline bool find_tile(const Seq *seqs, int num_seqs, Tokens tokens, int per, int size,
                                 int index, int *seq, int *tile)
{
    __shared__ int warp_total[32], found_seq, found_tile;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP, warp = thread / WARP;
    const int threads = static_cast<int>(blockDim.x), warps = threads / WARP;
    if (thread == 0)
        found_seq = -1;
    int before_all = 0; // tiles of the sequences before this round's
    for (int base = 0; base < num_seqs && before_all <= index; base += threads) {
        const int n = base + thread;
        const int count = n < num_seqs ? (tokens(seqs[n]) * per + size - 1) / size : 0;
        int upto = count;
        for (int d = 1; d < WARP; d *= 2) {
            const int x = __shfl_up_sync(ALL_LANES, upto, static_cast<unsigned int>(d));
            upto += lane >= d ? x : 0;
        }
        __syncthreads();
        if (lane == WARP - 1)
            warp_total[warp] = upto;
        __syncthreads();
        int before = before_all + upto - count;
        for (int w = 0; w < warps; w++) {
            before += w < warp ? warp_total[w] : 0;
            before_all += warp_total[w];
        }
        if (before <= index && index < before + count) {
            found_seq = n;
            found_tile = index - before;
        }
    }
    __syncthreads();
    if (found_seq < 0)
        return false;
    *seq = found_seq;
    *tile = found_tile;
    return true;
}

// The same of the queries.
template <typename Seq>
__device__ inline bool find_queries(const Seq *seqs, int num_seqs, int per, int size, int index,
                                    Seq *seq, int *tile)
{
    int n;
    const auto queries = [](const Seq &s) { return s.len; };
    if (!find_tile(seqs, num_seqs, queries, per, size, index, &n, tile))
        return false;
    *seq = seqs[n];
    return true;
}

// The rows of a sequence and part among those of q.
struct head_rows {
    size_t origin; // the first
    int heads, H;  // of the part, of all parts

    __device__ __forceinline__ size_t at(int row) const
    {
        if (heads == H)
            return origin + static_cast<size_t>(row);
        return origin + static_cast<size_t>(row / heads) * static_cast<size_t>(H) +
               static_cast<size_t>(row % heads);
    }
};

__device__ __forceinline__ head_rows rows_of(int query, const struct attention_shape &s, int part)
{
    const int heads = heads_of(s);
    return {static_cast<size_t>(query) * static_cast<size_t>(s.H) +
                static_cast<size_t>(part * heads),
            heads, s.H};
}

// Rows in global memory: of one part of the keys, or of some heads from row `first` on.
template <typename T> struct strided_source {
    const T *data;
    size_t ld;

    __device__ __forceinline__ const T *row(int i) const
    {
        return data + static_cast<size_t>(i) * ld;
    }
    __device__ __forceinline__ bool aligned() const
    {
        return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld * sizeof(T) % 16 == 0;
    }
};
template <typename T> struct heads_source {
    const T *data;
    size_t ld;
    head_rows rows;
    int first;

    __device__ __forceinline__ const T *row(int i) const { return data + rows.at(first + i) * ld; }
    __device__ __forceinline__ bool aligned() const
    {
        return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld * sizeof(T) % 16 == 0;
    }
};

// The item of a block: the last tiles first, which see the most keys.
__device__ __forceinline__ int last_first() { return static_cast<int>(gridDim.x - 1 - blockIdx.x); }

// The softmax state of a row over some of its keys: the largest score, and the sum of
// e^(score - max).
struct softmax_state {
    float max, sum;
};

// How two accumulators over disjoint keys become one: keep * earlier + take * later.
struct merge_factors {
    float keep, take;
};

// Takes the state of a later split into the total. A split of which the row sees nothing has max
// -infinity and changes nothing.
__device__ __forceinline__ merge_factors merge_states(softmax_state *total, softmax_state split)
{
    if (split.max == -INFINITY)
        return {1.0f, 0.0f};
    const float now = fmaxf(total->max, split.max);
    const merge_factors f = {expf(total->max - now), expf(split.max - now)};
    *total = {now, fmaf(split.sum, f.take, total->sum * f.keep)};
    return f;
}

__device__ __forceinline__ float merge_values(merge_factors f, float total, float split)
{
    return fmaf(split, f.take, total * f.keep);
}

// The log of a row's sum of e^score over all of its keys. There is one at least: where nothing was
// summed, the scores were not finite.
__device__ __forceinline__ float log_sum(softmax_state total)
{
    return total.sum == 0.0f ? NAN : total.max + logf(total.sum);
}

// One tile of a forward pass as every variant sees it.
struct tile_rows {
    size_t base;   // of its first row, in all rows of q, where they lie one after the other
    int first;     // of its first row, in the sequence
    int count;     // rows
    int pos;       // position of the sequence's first query
    int keys;      // keys that its last row sees
    int blocks_at; // in kv_blocks
    int part;
    head_rows rows; // of the sequence
};

// A tile of the heads of one part; with shape.kv_heads 1, of all heads.
__device__ __forceinline__ tile_rows rows_of_tile(const attention_seq &seq, int tile, int size,
                                                  const struct attention_shape &shape, int part)
{
    const int heads = heads_of(shape);
    tile_rows t;
    t.rows = rows_of(seq.query, shape, part);
    t.first = tile * size;
    t.count = seq.len * heads - t.first < size ? seq.len * heads - t.first : size;
    t.base = t.rows.origin + static_cast<size_t>(t.first);
    t.pos = seq.pos;
    t.keys = seq.pos + (t.first + t.count - 1) / heads + 1;
    t.blocks_at = seq.block;
    t.part = part;
    return t;
}

// Keys that row i of the tile sees; rows past the last see what the last sees.
__device__ __forceinline__ int keys_of_row(const tile_rows &t, int i, int H)
{
    return t.pos + (t.first + (i < t.count ? i : t.count - 1)) / H + 1;
}

} // namespace attention

#endif
