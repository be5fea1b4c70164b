// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores: bfloat16 queries, keys and outputs, float32 scores, softmax and
// sums. The algorithm is attention.cu's, with tiles of M = 16, 32 or 64 rows and a block of
// ATTENTION_BLOCK keys a step: the 8 warps share the scores [M,KEYS] among them, leave the weights
// in shared memory as bfloat16, and each has all rows of a stretch of the output's columns. The
// height of the tile does not show in the bits of a row.
//
// Between the barriers of a step:
//   1. the block of keys has come; the copy of the next one starts; scores; largest of each row
//   2. weights and their sums; the first M threads: how far the row's state must be scaled
//   3. the outputs grow; the first M threads: the row's state moves on
#include "kernels/cuda/attention_bf16.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

namespace attention
{

// How the warps share the scores of M rows and KEYS keys.
template <int M> struct score_tiles {
    static constexpr int WARPS_M = M >= 32 ? 2 : 1, WARPS_N = MMA_WARPS / WARPS_M;
    static constexpr int MT = M / 16 / WARPS_M, NT = KEYS / 8 / WARPS_N;
};

// Rows of the state in shared memory.
template <int M> struct row_states {
    float max[M], sum[M]; // of the split so far; max before the scale
    float keep[M];        // what this step scales the row's sums by
    softmax_state total[M];
    float warp_max[score_tiles<M>::WARPS_N][M];
    float vector_sum[KEYS / 8][M];
};

template <int M> struct forward_tiles {
    tile_view q, kv, p; // kv: the first buffer
    int kv_size;        // elements of a buffer
    row_states<M> *rows;
};

// Where the weights fit into the columns of a block of keys that are no values, which are free once
// the scores are there: whole lines, so that the order of vectors in a row is that of a tile of
// their own. Negative: nowhere.
__host__ __device__ inline int weight_column(const struct attention_shape &s)
{
    if (s.value_at > 0)
        return 0;
    return s.Dv % KEYS == 0 && padded(s.Dk) >= s.Dv + KEYS ? s.Dv : -1;
}

template <int M> size_t forward_bytes(const struct attention_shape &s, int buffers)
{
    const int tiles = M * padded(s.Dk) + buffers * KEYS * key_columns(s, 64) +
                      (weight_column(s) >= 0 ? 0 : M * KEYS);
    return static_cast<size_t>(tiles) * sizeof(bf16) + sizeof(row_states<M>);
}

template <int M>
__device__ __forceinline__ forward_tiles<M> carve_tiles(const struct attention_shape &shape,
                                                        int buffers)
{
    const int columns = key_columns(shape, 64);
    forward_tiles<M> s;
    bf16 *const memory = dynamic_shared<bf16>();
    s.kv_size = KEYS * columns;
    s.q = {memory, padded(shape.Dk) / VECTOR};
    s.kv = {memory + M * padded(shape.Dk), columns / VECTOR};
    bf16 *const after = s.kv.data + buffers * s.kv_size;
    s.p = {after, KEYS / VECTOR};
    if (weight_column(shape) >= 0)
        s.p = {nullptr, 0}; // see weights_of_block
    s.rows = reinterpret_cast<row_states<M> *>(after + (s.p.data ? M * KEYS : 0));
    return s;
}

template <int M>
__device__ __forceinline__ tile_view weights_of_block(const forward_tiles<M> &s,
                                                      const tile_view &kv,
                                                      const struct attention_shape &shape)
{
    return s.p.data ? s.p : tile_view{kv.data + weight_column(shape), kv.vectors};
}

__device__ inline void load_block(const attention_args &a, const tile_rows &t, int key,
                                  const tile_view &to)
{
    const bf16 *const block =
        static_cast<const bf16 *>(a.kv_blocks[t.blocks_at + key / ATTENTION_BLOCK]);
    load_key_tile(a.shape, to, block, t.part, KEYS, t.keys - key);
}

// Where the thread's scores stand in the tile.
template <int M> struct score_place {
    int row, column, warp_n;

    __device__ __forceinline__ score_place()
    {
        using tiles = score_tiles<M>;
        const int warp = static_cast<int>(threadIdx.x) / WARP;
        warp_n = warp % tiles::WARPS_N;
        row = warp / tiles::WARPS_N * 16 * tiles::MT;
        column = warp_n * 8 * tiles::NT;
    }
};

template <int M> using scores = fragments<score_tiles<M>::MT, score_tiles<M>::NT>;

// Hides the keys that a row does not see, and leaves the largest score of each row and warp.
template <int M>
__device__ __forceinline__ void mask_and_max(scores<M> *s, const score_place<M> &at,
                                             const tile_rows &t, int H, int key,
                                             row_states<M> *rows)
{
    using tiles = score_tiles<M>;
    const bool whole = key + KEYS <= keys_of_row(t, 0, H);
#pragma unroll
    for (int m = 0; m < tiles::MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = at.row + 16 * m + fragment_row(2 * half);
            const int visible = whole ? KEYS : keys_of_row(t, row, H) - key;
            float largest = -INFINITY;
#pragma unroll
            for (int n = 0; n < tiles::NT; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    float *const x = &s->v[m][n][e];
                    if (at.column + 8 * n + fragment_column(e) >= visible)
                        *x = -INFINITY;
                    largest = fmaxf(largest, *x);
                }
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            if (threadIdx.x % 4 == 0)
                rows->warp_max[at.warp_n][row] = largest;
        }
}

template <int M> __device__ __forceinline__ float largest_so_far(const row_states<M> *rows, int row)
{
    float largest = rows->max[row];
#pragma unroll
    for (int w = 0; w < score_tiles<M>::WARPS_N; w++)
        largest = fmaxf(largest, rows->warp_max[w][row]);
    return largest;
}

// p = 2^(unit (s - max)) to shared memory, unit being scale log2(e); and its sums, 8 keys each.
template <int M>
__device__ __forceinline__ void scores_to_weights(const scores<M> &s, const score_place<M> &at,
                                                  float unit, const tile_view &p,
                                                  row_states<M> *rows)
{
    using tiles = score_tiles<M>;
#pragma unroll
    for (int m = 0; m < tiles::MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = at.row + 16 * m + fragment_row(2 * half);
            const float largest = largest_so_far(rows, row);
            // A row that sees nothing yet: all scores are -infinity, and so all weights 0.
            const float shift = largest == -INFINITY ? 0.0f : -largest * unit;
#pragma unroll
            for (int n = 0; n < tiles::NT; n++) {
                const float *const x = &s.v[m][n][2 * half];
                const float p0 = exp2f(fmaf(x[0], unit, shift));
                const float p1 = exp2f(fmaf(x[1], unit, shift));
                const int column = at.column + 8 * n;
                *reinterpret_cast<uint32_t *>(p.element(row, column + fragment_column(0))) =
                    bf16_pair(p0, p1);
                float sum = p0 + p1;
                sum += __shfl_xor_sync(ALL_LANES, sum, 1);
                sum += __shfl_xor_sync(ALL_LANES, sum, 2);
                if (threadIdx.x % 4 == 0)
                    rows->vector_sum[column / 8][row] = sum;
            }
        }
}

// The first M threads, a row each: how the row's sums must be scaled; and, a barrier later, its
// state after the step.
template <int M> struct row_owner {
    float max, keep;

    __device__ __forceinline__ void scale_of_step(row_states<M> *rows, float unit)
    {
        const int row = static_cast<int>(threadIdx.x);
        if (row >= M)
            return;
        const float was = rows->max[row];
        max = largest_so_far(rows, row);
        keep = was == -INFINITY ? 0.0f : exp2f((was - max) * unit);
        rows->keep[row] = keep;
    }

    __device__ __forceinline__ void move_on(row_states<M> *rows)
    {
        const int row = static_cast<int>(threadIdx.x);
        if (row >= M)
            return;
        float sum = fmaf(rows->sum[row], keep, rows->vector_sum[0][row]);
#pragma unroll
        for (int v = 1; v < KEYS / 8; v++)
            sum += rows->vector_sum[v][row];
        rows->max[row] = max;
        rows->sum[row] = sum;
    }
};

template <int M> __device__ __forceinline__ void start_split(row_states<M> *rows)
{
    if (threadIdx.x < M) {
        rows->max[threadIdx.x] = -INFINITY;
        rows->sum[threadIdx.x] = 0.0f;
    }
}

template <int M, int NT>
__device__ __forceinline__ void scale_sums(fragments<M / 16, NT> *c, const row_states<M> *rows)
{
#pragma unroll
    for (int m = 0; m < M / 16; m++) {
        const float upper = rows->keep[16 * m + fragment_row(0)];
        const float lower = rows->keep[16 * m + fragment_row(2)];
        if (__all_sync(ALL_LANES, upper == 1.0f && lower == 1.0f))
            continue;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            c->v[m][n][0] *= upper;
            c->v[m][n][1] *= upper;
            c->v[m][n][2] *= lower;
            c->v[m][n][3] *= lower;
        }
    }
}

// The product is rounded, not fused with what follows: combine_splits reads it from memory.
template <int M>
__device__ __forceinline__ softmax_state split_state(const row_states<M> *rows, int row,
                                                     float scale)
{
    return {__fmul_rn(rows->max[row], scale), rows->sum[row]};
}

// The end of a split that is a block's own: its sums and states to scratch memory.
template <int M, int NT>
__device__ inline void leave_split(const forward_plan &plan, const tile_rows &t,
                                   const row_states<M> *rows, const fragments<M / 16, NT> &c,
                                   const vector_range &mine, int split)
{
    const int columns = mine.columns(plan.ld);
#pragma unroll
    for (int m = 0; m < M / 16; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 16 * m + fragment_row(2 * half);
            if (row >= t.count)
                continue;
            const size_t at = t.rows.at(t.first + row) * static_cast<size_t>(plan.splits) +
                              static_cast<size_t>(split);
            float *const sums = plan.sums + at * static_cast<size_t>(plan.ld);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const int column = VECTOR * (mine.first + n) + fragment_column(0);
                if (column < columns) // which is even
                    *reinterpret_cast<float2 *>(sums + column) =
                        make_float2(c.v[m][n][2 * half], c.v[m][n][2 * half + 1]);
            }
            if (mine.first == 0 && fragment_column(0) == 0)
                plan.state[at] = split_state(rows, row, plan.a.shape.scale);
        }
}

// The end of a split when the block walks over all: its sums into the total, which each thread
// keeps in its own part of the block's scratch memory; the last one to the output.
template <int M, int NT>
__device__ inline void take_split(const forward_plan &plan, const tile_rows &t,
                                  const row_states<M> *rows, fragments<M / 16, NT> *c,
                                  const vector_range &mine, int split, bool last)
{
    const int columns = mine.columns(plan.a.shape.Dv);
    const attention_args &a = plan.a;
    float4 *const totals =
        reinterpret_cast<float4 *>(plan.sums) +
        static_cast<size_t>(blockIdx.z * gridDim.x + blockIdx.x) * (M / 16 * NT * MMA_THREADS) +
        threadIdx.x;
#pragma unroll
    for (int m = 0; m < M / 16; m++) {
        softmax_state state[2];
        merge_factors f[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 16 * m + fragment_row(2 * half);
            const softmax_state now = split_state(rows, row, a.shape.scale);
            state[half] = split > 0 ? rows->total[row] : now;
            f[half] = split > 0 ? merge_states(&state[half], now) : merge_factors{0.0f, 1.0f};
        }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float *const v = c->v[m][n];
            float4 *const total = totals + (m * NT + n) * MMA_THREADS;
            if (split > 0) {
                const float4 x = *total;
                v[0] = merge_values(f[0], x.x, v[0]);
                v[1] = merge_values(f[0], x.y, v[1]);
                v[2] = merge_values(f[1], x.z, v[2]);
                v[3] = merge_values(f[1], x.w, v[3]);
            }
            if (!last)
                *total = make_float4(v[0], v[1], v[2], v[3]);
        }
        if (!last)
            continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = 16 * m + fragment_row(2 * half);
            if (row >= t.count)
                continue;
            const float inverse = 1.0f / state[half].sum;
            bf16 *const out = static_cast<bf16 *>(a.out) +
                              t.rows.at(t.first + row) * static_cast<size_t>(a.shape.Dv);
#pragma unroll
            for (int n = 0; n < NT; n++)
                store_pair(out, VECTOR * (mine.first + n) + fragment_column(0), columns,
                           c->v[m][n][2 * half] * inverse, c->v[m][n][2 * half + 1] * inverse);
        }
    }
}

// The rows of a tile against keys [begin, end).
template <int M, int NT>
__device__ inline void attend_tile(const forward_plan &plan, const tile_rows &t, int begin, int end,
                                   const forward_tiles<M> &s, int buffers)
{
    using tiles = score_tiles<M>;
    const attention_args &a = plan.a;
    const float unit = a.shape.scale * 1.44269504088896341f;
    vector_range mine;
    mine.place(a.shape.Dv);
    const score_place<M> at;
    row_owner<M> owner;
    fragments<M / 16, NT> c;
    c.clear();
    start_split(s.rows);
    load_tile(s.q,
              heads_source<bf16>{static_cast<const bf16 *>(a.q), static_cast<size_t>(a.shape.Dk),
                                 t.rows, t.first},
              M, t.count, a.shape.Dk);
    load_block(a, t, begin, s.kv);
    cp_async_commit();
    for (int key = begin, now = 0; key < end; key += KEYS) {
        const int next = key + KEYS, other = buffers == 2 ? 1 - now : 0;
        const tile_view kv = {s.kv.data + now * s.kv_size, s.kv.vectors};
        const tile_view p = weights_of_block(s, kv, a.shape);
        cp_async_wait<0>();
        __syncthreads();
        if (buffers == 2 && next < end) {
            load_block(a, t, next, {s.kv.data + other * s.kv_size, s.kv.vectors});
            cp_async_commit();
        }
        scores<M> x;
        multiply_rows<tiles::MT, tiles::NT>(&x, s.q, at.row, kv, at.column, s.q.vectors);
        mask_and_max<M>(&x, at, t, t.rows.heads, key, s.rows);
        __syncthreads();
        scores_to_weights<M>(x, at, unit, p, s.rows);
        owner.scale_of_step(s.rows, unit);
        __syncthreads();
        owner.move_on(s.rows);
        scale_sums<M, NT>(&c, s.rows);
        add_weighted<M / 16, NT>(&c, p, values_of(kv, a.shape), KEYS, mine.first, mine.end);
        if (next < end && next % SPLIT_KEYS != 0 && buffers == 2) {
            now = other;
            continue;
        }
        __syncthreads();
        if (next >= end || next % SPLIT_KEYS == 0) {
            const int split = key / SPLIT_KEYS;
            if (plan.splits > 1)
                leave_split<M, NT>(plan, t, s.rows, c, mine, split);
            else
                take_split<M, NT>(plan, t, s.rows, &c, mine, split, next >= end);
            c.clear();
            __syncthreads();
            if (threadIdx.x < M && plan.splits == 1) {
                const softmax_state state =
                    split_state(s.rows, static_cast<int>(threadIdx.x), a.shape.scale);
                if (split == 0)
                    s.rows->total[threadIdx.x] = state;
                else
                    merge_states(&s.rows->total[threadIdx.x], state);
            }
            start_split(s.rows);
        }
        if (buffers == 1 && next < end) {
            load_block(a, t, next, s.kv);
            cp_async_commit();
        }
        now = other;
    }
    if (a.lse && plan.splits == 1 && static_cast<int>(threadIdx.x) < t.count) {
        const softmax_state total = s.rows->total[threadIdx.x];
        a.lse[t.rows.at(t.first + static_cast<int>(threadIdx.x))] = log_sum(total);
    }
}

// Item i of block b, of as many blocks as there are: to and fro, so that a block's items are large
// and small by turns.
__device__ __forceinline__ int item_of(int i)
{
    const int blocks = static_cast<int>(gridDim.x), b = static_cast<int>(blockIdx.x);
    return i * blocks + (i % 2 ? blocks - 1 - b : b);
}

template <int M, int NT>
__global__ void __launch_bounds__(MMA_THREADS, 1) attend_bf16(const forward_plan plan, int buffers)
{
    const attention_args &a = plan.a;
    const forward_tiles<M> s = carve_tiles<M>(a.shape, buffers);
    for (int i = 0; i * static_cast<int>(gridDim.x) < plan.tiles; i++) {
        const int item = plan.tiles - 1 - item_of(i); // the last first: they see the most keys
        attention_seq seq;
        int tile, begin, end;
        __syncthreads(); // all have done with the tiles of the item before
        if (item < 0 || !find_queries(a.seqs, a.num_seqs, heads_of(a.shape), M, item, &seq, &tile))
            continue;
        const tile_rows t = rows_of_tile(seq, tile, M, a.shape, static_cast<int>(blockIdx.z));
        if (keys_of_block(plan, t, &begin, &end))
            attend_tile<M, NT>(plan, t, begin, end, s, buffers);
    }
}

using forward_kernel = void (*)(forward_plan, int);

template <int M> static forward_kernel kernel_of(int R)
{
    return R <= 128 ? attend_bf16<M, 2> : R <= 256 ? attend_bf16<M, 4> : attend_bf16<M, 8>;
}

template <int M> static int launch_forward(struct device *dev, const struct attention_args *a)
{
    const int buffers = fits_shared(dev, forward_bytes<M>(a->shape, 2)) ? 2 : 1;
    const size_t bytes = forward_bytes<M>(a->shape, buffers);
    const unsigned int parts = static_cast<unsigned int>(a->shape.kv_heads);
    struct forward_plan plan;
    int rc = check_shared(dev, bytes);
    if (rc == 0)
        rc = plan_forward(dev, a, M, &plan);
    if (rc)
        return rc;
    unsigned int blocks = static_cast<unsigned int>(plan.tiles);
    if (plan.splits == 1 && splits_of(a->max_keys) > 1) {
        // One block for each that can run at once: each has scratch memory for the total.
        const size_t together = dev->cuda->shared_max / (bytes + 1024);
        const size_t most = static_cast<size_t>(dev->cuda->num_sms) * (together < 2   ? 1
                                                                       : together < 4 ? together
                                                                                      : 4);
        blocks = blocks < most ? blocks : static_cast<unsigned int>(most);
        rc = scratch(dev, SCRATCH_OUTER, &plan.sums,
                     static_cast<size_t>(blocks * parts) *
                         static_cast<size_t>(M * round_up(DV_MAX, 64)));
    }
    if (rc == 0)
        rc = launch(dev, dim3(blocks, static_cast<unsigned int>(plan.splits), parts),
                    dim3(MMA_THREADS), bytes, kernel_of<M>(a->shape.Dv), plan, buffers);
    return rc ? rc : combine_splits<bf16>(dev, plan);
}

// The smallest tile that holds what an average sequence has, or else 64 rows; smaller where shared
// memory does not hold that.
int attend_bfloat16(struct device *dev, const struct attention_args *a)
{
    const long long rows = static_cast<long long>(a->T) * heads_of(a->shape), seqs = a->num_seqs;
    if (wide_shape(dev, &a->shape))
        return attend_wide(dev, a);
    if (rows > 32 * seqs && fits_shared(dev, forward_bytes<64>(a->shape, 1)))
        return launch_forward<64>(dev, a);
    if (rows > 16 * seqs && fits_shared(dev, forward_bytes<32>(a->shape, 1)))
        return launch_forward<32>(dev, a);
    return launch_forward<16>(dev, a);
}

} // namespace attention
