// SPDX-License-Identifier: Apache-2.0
// Backward of attention over packed sequences in float32 (MATH.md): with p recomputed from
// the stored log-sum-exp and delta = dout . out of a row,
//   ds = scale p (dout . v - delta),  dq = sum over keys of ds k,
//   dk = sum over rows of ds q,  dv = sum over rows of p dout.
// Two kernels compute p and ds, each for its own sum: query_grad has a tile of rows and walks over
// the keys that they see, key_grad has a tile of keys and walks over the rows that see them, both
// ascending and counted from the start of the sequence; then those of the sequences that continue
// it. No sum depends on other sequences.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_f32.cuh"

namespace attention
{

// Shared memory of a block of either kernel: what stays, and one or two buffers of what changes
// from step to step.
struct grad_shared {
    float *q, *dout, *kv; // [TILE,ldq], [TILE,ldo], [TILE,ld]; of the first buffer
    int buffer;           // floats from a buffer to the next
    float *scores, *dp;   // [WARPS,TILE,TILE]
    float *p, *ds;        // [TILE,WEIGHT_LD]
};

struct grad_layout {
    int ldq, ldo, ld;     // of q, dout and keys
    int resident, buffer; // floats
    int total;            // floats, with `buffers` of them
};

__host__ __device__ inline grad_layout layout_of(const struct attention_shape &s,
                                                 bool rows_resident, int buffers)
{
    grad_layout l;
    l.ldq = shared_ld(s.Dk);
    l.ldo = shared_ld(s.Dv);
    l.ld = shared_ld(key_columns(s, 4));
    const int rows = TILE * (l.ldq + l.ldo), keys = TILE * l.ld;
    l.resident = rows_resident ? rows : keys;
    l.buffer = rows_resident ? keys : rows;
    l.total = l.resident + buffers * l.buffer + 2 * WARPS * TILE * TILE + 2 * TILE * WEIGHT_LD;
    return l;
}

__device__ __forceinline__ grad_shared carve_grad(const grad_layout &l, bool rows_resident,
                                                  int buffers)
{
    float *const resident = dynamic_shared<float>(), *const buffer = resident + l.resident;
    grad_shared s;
    s.q = rows_resident ? resident : buffer;
    s.dout = s.q + TILE * l.ldq;
    s.kv = rows_resident ? buffer : resident;
    s.buffer = l.buffer;
    s.scores = buffer + buffers * l.buffer;
    s.dp = s.scores + WARPS * TILE * TILE;
    s.p = s.dp + WARPS * TILE * TILE;
    s.ds = s.p + TILE * WEIGHT_LD;
    return s;
}

// p and ds of row i of the rows from first_row on and key k of the keys from position first_key on;
// 0 where the row does not see the key or there is no such row.
__device__ __forceinline__ void weights_of(const grad_plan &plan, const attention_grad_seq &seq,
                                           const head_rows &rows, const grad_shared &s,
                                           int first_row, int first_key, int i, int k, float *p,
                                           float *ds)
{
    const attention_grad_args &a = plan.a;
    const int row = first_row + i;
    *p = *ds = 0.0f;
    if (row >= seq.len * rows.heads || first_key + k > seq.pos + row / rows.heads)
        return;
    const size_t at = rows.at(row);
    const float score = a.shape.scale * whole_product<TILE / 8>(s.scores, i, k);
    *p = expf(score - a.lse[at]);
    *ds = a.shape.scale * (*p * (whole_product<TILE / 8>(s.dp, i, k) - plan.delta[at]));
}

// Starts copying rows [row, row + TILE) of the sequence: q and dout.
__device__ inline void load_queries(const attention_grad_args &a, const grad_layout &l,
                                    const attention_grad_seq &seq, const head_rows &rows, int row,
                                    float *q, float *dout)
{
    const int left = seq.len * rows.heads - row;
    const size_t Dk = static_cast<size_t>(a.shape.Dk), Dv = static_cast<size_t>(a.shape.Dv);
    load_rows(q, l.ldq, heads_source<float>{static_cast<const float *>(a.q), Dk, rows, row}, TILE,
              left, a.shape.Dk);
    load_rows(dout, l.ldo, heads_source<float>{static_cast<const float *>(a.dout), Dv, rows, row},
              TILE, left, a.shape.Dv);
}

// Starts copying `valid` keys, of TILE rows of kv from row `at` on.
__device__ inline void load_keys(const attention_grad_args &a, const grad_layout &l, int part,
                                 int at, int valid, float *kv)
{
    load_key_rows(a.shape, kv, l.ld,
                  static_cast<const float *>(a.kv) +
                      static_cast<size_t>(at) * static_cast<size_t>(attention_row(&a.shape)),
                  part, TILE, valid);
}

// The rows and keys of a step: scores and dp.
__device__ __forceinline__ void grad_products(const attention_grad_args &a, const grad_layout &l,
                                              const grad_shared &s, const float *q,
                                              const float *dout, const float *kv)
{
    partial_products<TILE / 8>(q, l.ldq, kv, l.ld, a.shape.Dk, s.scores);
    partial_products<TILE / 8>(dout, l.ldo, kv + value_column(a.shape, 4), l.ld, a.shape.Dv, s.dp);
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) query_grad(const grad_plan plan, int buffers)
{
    const attention_grad_args &a = plan.a;
    const int Dk = a.shape.Dk, thread = static_cast<int>(threadIdx.x);
    attention_grad_seq seq;
    int tile;
    if (!find_queries(a.seqs, a.num_seqs, heads_of(a.shape), TILE, last_first(), &seq, &tile))
        return;
    const tile_rows t = queries_of_tile(seq, tile, TILE, a.shape, static_cast<int>(blockIdx.y));
    const key_rows keys = keys_of_seq(a, seq);
    const grad_layout l = layout_of(a.shape, true, buffers);
    const grad_shared s = carve_grad(l, true, buffers);
    column_sums<N> c;
    c.place(Dk);
    load_queries(a, l, seq, t.rows, t.first, s.q, s.dout);
    load_keys(a, l, t.part, keys.row(0), keys.keys, s.kv);
    cp_async_commit();
    for (int key = 0, now = 0; key < t.keys; key += TILE) {
        const int next = key + TILE, other = buffers == 2 ? 1 - now : 0;
        const float *const kv = s.kv + now * s.buffer;
        if (buffers == 2 && next < t.keys) {
            load_keys(a, l, t.part, keys.row(next), keys.keys - next, s.kv + other * s.buffer);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        grad_products(a, l, s, s.q, s.dout, kv);
        __syncthreads();
        if (thread < TILE * TILE) {
            float p, ds;
            weights_of(plan, seq, t.rows, s, t.first, key, thread / TILE, thread % TILE, &p, &ds);
            s.ds[thread % TILE * WEIGHT_LD + thread / TILE] = ds;
        }
        __syncthreads();
        if (c.any)
            for (int k = 0; k < TILE; k++)
                c.add(kv + k * l.ld, s.ds + k * WEIGHT_LD);
        __syncthreads();
        if (buffers == 1 && next < t.keys) {
            load_keys(a, l, t.part, keys.row(next), keys.keys - next, s.kv);
            cp_async_commit();
        }
        now = other;
    }
    if (!c.any)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (c.row + i < t.count)
            c.store(static_cast<float *>(a.dq) +
                        t.rows.at(t.first + c.row + i) * static_cast<size_t>(Dk),
                    i, Dk);
}

// The sums of a thread to its columns of a part of dkv, whose columns in shared memory are apart.
template <int N>
__device__ inline void store_key_sums(const attention_grad_args &a, const key_tile &t, int part,
                                      const column_sums<N> &c)
{
    const struct attention_shape &s = a.shape;
    const int values = value_column(s, 4);
    const bool value = values > 0 && c.column >= values;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (c.row + i >= t.count)
            continue;
        float *const to =
            static_cast<float *>(a.dkv) + part_of(s, part) +
            static_cast<size_t>(t.at + c.row + i) * static_cast<size_t>(attention_row(&s));
        if (value)
            c.store(to + s.value_at - values, i, values + s.Dv);
        else
            c.store(to, i, s.Dk);
    }
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) key_grad(const grad_plan plan, int buffers)
{
    const attention_grad_args &a = plan.a;
    const int thread = static_cast<int>(threadIdx.x), part = static_cast<int>(blockIdx.y);
    const int keys = round_up(a.shape.Dk, 4), values = value_column(a.shape, 4);
    key_tile t;
    // Rows are taken in tiles counted from the first that sees a key of this tile.
    if (!find_keys(a, TILE, 1, static_cast<int>(blockIdx.x), &t))
        return;
    const grad_layout l = layout_of(a.shape, false, buffers);
    const grad_shared s = carve_grad(l, false, buffers);
    column_sums<N> c;
    c.place(key_columns(a.shape, 4));
    load_keys(a, l, part, t.at, t.count, s.kv);
    if (t.there())
        load_queries(a, l, t.seq, rows_of(t.seq.query, a.shape, part), t.row, s.q, s.dout);
    cp_async_commit();
    for (int now = 0; t.there();) {
        const key_tile at = t;
        const int other = buffers == 2 ? 1 - now : 0;
        const float *const q = s.q + now * s.buffer, *const dout = s.dout + now * s.buffer;
        t.advance(a, TILE);
        const head_rows next = rows_of(t.seq.query, a.shape, part);
        if (buffers == 2 && t.there()) {
            load_queries(a, l, t.seq, next, t.row, s.q + other * s.buffer,
                         s.dout + other * s.buffer);
            cp_async_commit();
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        grad_products(a, l, s, q, dout, s.kv);
        __syncthreads();
        if (thread < TILE * TILE) {
            float p, ds;
            weights_of(plan, at.seq, rows_of(at.seq.query, a.shape, part), s, at.row, at.key,
                       thread / TILE, thread % TILE, &p, &ds);
            s.p[thread / TILE * WEIGHT_LD + thread % TILE] = p;
            s.ds[thread / TILE * WEIGHT_LD + thread % TILE] = ds;
        }
        __syncthreads();
        if (c.any) {
            for (int i = 0; i < TILE; i++) {
                if (c.column < keys)
                    c.add(q + i * l.ldq, s.ds + i * WEIGHT_LD);
                if (c.column >= values && c.column - values < a.shape.Dv)
                    c.add(dout + i * l.ldo - values, s.p + i * WEIGHT_LD);
            }
        }
        __syncthreads();
        if (buffers == 1 && t.there()) {
            load_queries(a, l, t.seq, next, t.row, s.q, s.dout);
            cp_async_commit();
        }
        now = other;
    }
    cp_async_wait<0>(); // of keys that no row sees
    if (c.any)
        store_key_sums(a, t, part, c);
}

using grad_kernel = void (*)(grad_plan, int);

static int launch_grad(struct device *dev, const struct grad_plan &plan, bool rows_resident,
                       grad_kernel kernel)
{
    const attention_grad_args &a = plan.a;
    const size_t tiles = rows_resident ? tiles_at_most(a.T, a.num_seqs, heads_of(a.shape), TILE)
                                       : tiles_at_most(a.N, a.num_seqs, 1, TILE);
    const size_t two = static_cast<size_t>(layout_of(a.shape, rows_resident, 2).total);
    const size_t one = static_cast<size_t>(layout_of(a.shape, rows_resident, 1).total);
    const int buffers = fits_shared(dev, two * sizeof(float)) ? 2 : 1;
    const size_t bytes = (buffers == 2 ? two : one) * sizeof(float);
    const dim3 grid(static_cast<unsigned int>(tiles), static_cast<unsigned int>(a.shape.kv_heads));
    const int rc = check_shared(dev, bytes);
    return rc ? rc : launch(dev, grid, dim3(THREADS), bytes, kernel, plan, buffers);
}

static int attend_grad_float32(struct device *dev, const struct attention_grad_args *a)
{
    static const grad_kernel query_kernels[] = {query_grad<1>, query_grad<2>, query_grad<4>,
                                                query_grad<8>};
    static const grad_kernel key_kernels[] = {key_grad<1>, key_grad<2>, key_grad<4>, key_grad<8>};
    const auto which = [](int width) {
        const int n = rows_per_thread(width);
        return n == 8 ? 3 : n / 2;
    };
    struct grad_plan plan;
    int rc = plan_backward<float>(dev, a, &plan);
    if (rc == 0)
        rc = launch_grad(dev, plan, true, query_kernels[which(a->shape.Dk)]);
    if (rc == 0)
        rc = launch_grad(dev, plan, false, key_kernels[which(key_columns(a->shape, 4))]);
    return rc;
}

} // namespace attention

extern "C" int cuda_attention_grad(struct device *dev, const struct attention_grad_args *a)
{
    if (a->T == 0 || a->num_seqs == 0)
        return 0;
    const int rc = attention::check_shape(dev, &a->shape);
    if (rc)
        return rc;
    return a->type == DTYPE_BF16 ? attention::attend_grad_bfloat16(dev, a)
                                 : attention::attend_grad_float32(dev, a);
}
