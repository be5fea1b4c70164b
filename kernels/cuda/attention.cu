// SPDX-License-Identifier: Apache-2.0
// Attention in float32: s = scale q . k, p = softmax(s), out = p v (MATH.md).
//
// Theory of operation. A block of threads takes a tile of 16 rows and walks over the keys, 32 at a
// time and counted from position 0, with a running softmax (arXiv:2205.14135, algorithm 1):
//   m' = max(m, s),  p = e^(s - m'),  l = l e^(m - m') + sum p,  out = out e^(m - m') + p kv.
// It starts afresh at every split of SPLIT_KEYS keys, and the results of the splits are merged in
// order. When there are few tiles and many keys each split is a block of its own, which leaves its
// (m, l, out) in scratch memory for combine_splits; else one block walks over all of them and keeps
// the total in scratch memory. Keys that a row may not see have p = 0 exactly, so the bits of a row
// depend on its own query and keys alone.
#include "kernels/cuda/attention_f32.cuh"
#include "kernels/cuda/attention_forward.cuh"

namespace attention
{

constexpr int KEYS = 32; // keys of a step

// Shared memory of a block.
struct forward_shared {
    float *q;       // [TILE,ldq]
    float *kv;      // [buffers,KEYS,ld]; two when the device has room, so that copies run ahead
    float *part;    // [WARPS,TILE,KEYS]
    float *weights; // [KEYS,WEIGHT_LD]
    softmax_state *split, *total; // [TILE]
    float *keep;                  // [TILE] e^(m - m')
};

__host__ __device__ inline size_t forward_floats(const struct attention_shape &s, int buffers)
{
    return static_cast<size_t>(shared_ld(s.Dk) * TILE +
                               shared_ld(key_columns(s, 4)) * buffers * KEYS) +
           WARPS * TILE * KEYS + KEYS * WEIGHT_LD + 5 * TILE;
}

__device__ __forceinline__ forward_shared carve_forward(const struct attention_shape &shape,
                                                        int buffers)
{
    forward_shared s;
    s.q = dynamic_shared<float>();
    s.kv = s.q + TILE * shared_ld(shape.Dk);
    s.part = s.kv + buffers * KEYS * shared_ld(key_columns(shape, 4));
    s.weights = s.part + WARPS * TILE * KEYS;
    s.split = reinterpret_cast<softmax_state *>(s.weights + KEYS * WEIGHT_LD);
    s.total = s.split + TILE;
    s.keep = reinterpret_cast<float *>(s.total + TILE);
    return s;
}

// Starts copying the KEYS keys from `key` on, up to the last that the tile sees.
__device__ inline void load_keys(const attention_args &a, const tile_rows &t, int key, float *to,
                                 int ld)
{
    const size_t at = static_cast<size_t>(key % ATTENTION_BLOCK);
    const float *block =
        static_cast<const float *>(a.kv_blocks[t.blocks_at + key / ATTENTION_BLOCK]);
    load_key_rows(a.shape, to, ld, block + at * static_cast<size_t>(attention_row(&a.shape)),
                  t.part, KEYS, t.keys - key);
}

// From scores to weights: a warp has a row at a time, a lane a key.
__device__ inline void softmax_step(const attention_args &a, const tile_rows &t,
                                    const forward_shared &s, int key, bool fresh)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    for (int row = static_cast<int>(threadIdx.x) / WARP; row < TILE; row += WARPS) {
        const bool visible = key + lane < keys_of_row(t, row, t.rows.heads);
        const softmax_state was = fresh ? softmax_state{-INFINITY, 0.0f} : s.split[row];
        const float score =
            visible ? a.shape.scale * whole_product<KEYS / 8>(s.part, row, lane) : -INFINITY;
        const float now = fmaxf(was.max, warp_max(score));
        const float p = visible ? expf(score - now) : 0.0f;
        const float keep = was.max == -INFINITY ? 0.0f : expf(was.max - now);
        const float sum = warp_sum(p);
        s.weights[lane * WEIGHT_LD + row] = p;
        __syncwarp(); // all lanes have read the old state
        if (lane == 0) {
            s.split[row] = {now, fmaf(was.sum, keep, sum)};
            s.keep[row] = keep;
        }
    }
}

// The end of a split: leaves the thread's columns in scratch memory for combine_splits, or takes
// them into the total, which stands in the output itself until the last split has come.
template <int N>
__device__ inline void finish_split(const forward_plan &plan, const tile_rows &t,
                                    const forward_shared &s, column_sums<N> *c, int split,
                                    bool last)
{
    const attention_args &a = plan.a;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int row = c->row + i;
        if (row >= t.count)
            continue;
        if (plan.splits > 1) {
            store_partial(plan, t, row, c->column, split, c->sum[i], s.split[row]);
            continue;
        }
        float *out = static_cast<float *>(a.out) +
                     t.rows.at(t.first + row) * static_cast<size_t>(a.shape.Dv);
        softmax_state state = s.split[row];
        if (split > 0) {
            state = s.total[row];
            const merge_factors f = merge_states(&state, s.split[row]);
            c->sum[i] = merge_four(f, c->load(out, a.shape.Dv), c->sum[i]);
        }
        if (last)
            c->scale(i, 1.0f / state.sum);
        c->store(out, i, a.shape.Dv);
    }
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) attend_f32(const forward_plan plan, int buffers)
{
    const attention_args &a = plan.a;
    const int ldq = shared_ld(a.shape.Dk), ld = shared_ld(key_columns(a.shape, 4));
    const int values = value_column(a.shape, 4);
    attention_seq seq;
    int tile;
    if (!find_queries(a.seqs, a.num_seqs, heads_of(a.shape), TILE, last_first(), &seq, &tile))
        return;
    const tile_rows t = rows_of_tile(seq, tile, TILE, a.shape, static_cast<int>(blockIdx.z));
    int begin, end;
    if (!keys_of_block(plan, t, &begin, &end))
        return;
    const forward_shared s = carve_forward(a.shape, buffers);
    column_sums<N> c;
    c.place(a.shape.Dv);
    load_rows(s.q, ldq,
              heads_source<float>{static_cast<const float *>(a.q), static_cast<size_t>(a.shape.Dk),
                                  t.rows, t.first},
              TILE, t.count, a.shape.Dk);
    load_keys(a, t, begin, s.kv, ld);
    cp_async_commit();
    for (int key = begin, now = 0; key < end; key += KEYS) {
        const int next = key + KEYS, other = buffers == 2 ? 1 - now : 0;
        const bool fresh = key % SPLIT_KEYS == 0;
        if (buffers == 2 && next < end) {
            load_keys(a, t, next, s.kv + other * KEYS * ld, ld);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        partial_products<KEYS / 8>(s.q, ldq, s.kv + now * KEYS * ld, ld, a.shape.Dk, s.part);
        __syncthreads();
        softmax_step(a, t, s, key, fresh);
        __syncthreads();
        if (c.any) {
#pragma unroll
            for (int i = 0; i < N; i++)
                c.scale(i, s.keep[c.row + i]);
            for (int k = 0; k < KEYS; k++)
                c.add(s.kv + (now * KEYS + k) * ld + values, s.weights + k * WEIGHT_LD);
        }
        if (next >= end || next % SPLIT_KEYS == 0) {
            if (c.any)
                finish_split<N>(plan, t, s, &c, key / SPLIT_KEYS, next >= end);
            c.clear();
            __syncthreads();
            if (plan.splits == 1)
                merge_row_states(t, s.split, s.total, key / SPLIT_KEYS);
        }
        __syncthreads();
        if (buffers == 1 && next < end) {
            load_keys(a, t, next, s.kv, ld);
            cp_async_commit();
        }
        now = other;
    }
    if (a.lse && plan.splits == 1 && static_cast<int>(threadIdx.x) < t.count)
        a.lse[t.rows.at(t.first + static_cast<int>(threadIdx.x))] = log_sum(s.total[threadIdx.x]);
}

int check_shape(const struct device *dev, const struct attention_shape *s)
{
    const int row = key_columns(*s, 64); // in the vectors of either type
    if (s->Dv > DV_MAX || row > ROW_MAX)
        return err_set(ERR_ENV,
                       "GPU %d: attention holds values of at most %d elements in rows of at most "
                       "%d, not %d in %d",
                       dev->cuda->index, DV_MAX, ROW_MAX, s->Dv, row);
    return 0;
}

bool fits_shared(const struct device *dev, size_t bytes)
{
    const size_t fixed = 1024; // static arrays, and the alignment of the dynamic ones
    return bytes + fixed <= dev->cuda->shared_max;
}

int check_shared(const struct device *dev, size_t bytes)
{
    if (!fits_shared(dev, bytes))
        return err_set(ERR_ENV,
                       "GPU %d: attention needs %zu bytes of shared memory a block; it has %zu",
                       dev->cuda->index, bytes, dev->cuda->shared_max);
    return 0;
}

static int attend_float32(struct device *dev, const struct attention_args *a)
{
    const int buffers = fits_shared(dev, forward_floats(a->shape, 2) * sizeof(float)) ? 2 : 1;
    const size_t bytes = forward_floats(a->shape, buffers) * sizeof(float);
    int rc = check_shared(dev, bytes);
    struct forward_plan plan;
    if (rc == 0)
        rc = plan_forward(dev, a, TILE, &plan);
    if (rc)
        return rc;
    const int n = rows_per_thread(a->shape.Dv);
    void (*const kernel)(forward_plan, int) = n == 8   ? attend_f32<8>
                                              : n == 4 ? attend_f32<4>
                                              : n == 2 ? attend_f32<2>
                                                       : attend_f32<1>;
    const dim3 grid(static_cast<unsigned int>(plan.tiles), static_cast<unsigned int>(plan.splits),
                    static_cast<unsigned int>(a->shape.kv_heads));
    rc = launch(dev, grid, dim3(THREADS), bytes, kernel, plan, buffers);
    return rc ? rc : combine_splits<float>(dev, plan);
}

} // namespace attention

extern "C" int cuda_attention(struct device *dev, const struct attention_args *a)
{
    if (a->T == 0 || a->num_seqs == 0)
        return 0;
    const int rc = attention::check_shape(dev, &a->shape);
    if (rc)
        return rc;
    return a->type == DTYPE_BF16 ? attention::attend_bfloat16(dev, a)
                                 : attention::attend_float32(dev, a);
}
