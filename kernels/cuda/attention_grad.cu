// SPDX-License-Identifier: Apache-2.0
// Backward of latent attention over packed sequences in float32 (MATH.md): with p recomputed from
// the stored log-sum-exp and delta = dout . out of a row,
//   ds = scale p (dout . kv - delta),  dq = sum over keys of ds kv,
//   dkv = sum over rows of ds q + p dout (the latter in the first R columns).
// Two kernels compute p and ds, each for its own sum: query_grad has a tile of rows and walks over
// the keys that they see, key_grad has a tile of keys and walks over the rows that see them, both
// ascending and counted from the start of the sequence. No sum depends on another sequence.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_f32.cuh"

namespace attention
{

// Shared memory of a block of either kernel: what stays, and one or two buffers of what changes
// from step to step.
struct grad_shared {
    float *q, *dout, *kv; // [TILE,ld], [TILE,ldo], [TILE,ld]; of the first buffer
    int buffer;           // floats from a buffer to the next
    float *scores, *dp;   // [WARPS,TILE,TILE]
    float *p, *ds;        // [TILE,WEIGHT_LD]
};

struct grad_layout {
    int ld, ldo;
    int resident, buffer; // floats
    int total;            // floats, with `buffers` of them
};

__host__ __device__ inline grad_layout layout_of(int R, int D, bool rows_resident, int buffers)
{
    grad_layout l;
    l.ld = shared_ld(D);
    l.ldo = shared_ld(R);
    const int rows = TILE * (l.ld + l.ldo), keys = TILE * l.ld;
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
    s.dout = s.q + TILE * l.ld;
    s.kv = rows_resident ? buffer : resident;
    s.buffer = l.buffer;
    s.scores = buffer + buffers * l.buffer;
    s.dp = s.scores + WARPS * TILE * TILE;
    s.p = s.dp + WARPS * TILE * TILE;
    s.ds = s.p + TILE * WEIGHT_LD;
    return s;
}

// p and ds of row `row` of the sequence, which starts at row `base` of all, and key `key`; 0 where
// the row does not see the key or there is no such row.
__device__ __forceinline__ void weights_of(const grad_plan &plan, const attention_grad_seq &seq,
                                           const grad_shared &s, int first_row, int first_key,
                                           int i, int k, float *p, float *ds)
{
    const attention_grad_args &a = plan.a;
    const int row = first_row + i, key = first_key + k;
    *p = *ds = 0.0f;
    if (row >= seq.len * a.shape.H || key > row / a.shape.H)
        return;
    const size_t at =
        static_cast<size_t>(seq.query) * static_cast<size_t>(a.shape.H) + static_cast<size_t>(row);
    const float score = a.shape.scale * whole_product<TILE / 8>(s.scores, i, k);
    *p = expf(score - a.lse[at]);
    *ds = a.shape.scale * (*p * (whole_product<TILE / 8>(s.dp, i, k) - plan.delta[at]));
}

// Starts copying rows [row, row + TILE) of the sequence: q and dout.
__device__ inline void load_queries(const attention_grad_args &a, const grad_layout &l,
                                    const attention_grad_seq &seq, int row, float *q, float *dout)
{
    const int left = seq.len * a.shape.H - row;
    const size_t at =
        static_cast<size_t>(seq.query) * static_cast<size_t>(a.shape.H) + static_cast<size_t>(row);
    const size_t R = static_cast<size_t>(a.shape.Dv), D = static_cast<size_t>(a.shape.Dk);
    load_rows(q, l.ld, static_cast<const float *>(a.q) + at * D, TILE, left, a.shape.Dk);
    load_rows(dout, l.ldo, static_cast<const float *>(a.dout) + at * R, TILE, left, a.shape.Dv);
}

__device__ inline void load_keys(const attention_grad_args &a, const grad_layout &l,
                                 const attention_grad_seq &seq, int key, float *kv)
{
    const int D = a.shape.Dk;
    const size_t at = static_cast<size_t>(seq.key) + static_cast<size_t>(key);
    load_rows(kv, l.ld, static_cast<const float *>(a.kv) + at * static_cast<size_t>(D), TILE,
              seq.len - key, D);
}

// The rows and keys of a step: scores and dp.
__device__ __forceinline__ void grad_products(const attention_grad_args &a, const grad_layout &l,
                                              const grad_shared &s, const float *q,
                                              const float *dout, const float *kv)
{
    partial_products<TILE / 8>(q, l.ld, kv, l.ld, a.shape.Dk, s.scores);
    partial_products<TILE / 8>(dout, l.ldo, kv, l.ld, a.shape.Dv, s.dp);
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) query_grad(const grad_plan plan, int buffers)
{
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk, thread = static_cast<int>(threadIdx.x);
    attention_grad_seq seq;
    int tile;
    if (!find_tile(a.seqs, a.num_seqs, a.shape.H, TILE, last_first(), &seq, &tile))
        return;
    const tile_rows t = queries_of_tile(seq, tile, TILE, a.shape.H);
    const grad_layout l = layout_of(a.shape.Dv, D, true, buffers);
    const grad_shared s = carve_grad(l, true, buffers);
    column_sums<N> c;
    c.place(D);
    load_queries(a, l, seq, t.first, s.q, s.dout);
    load_keys(a, l, seq, 0, s.kv);
    cp_async_commit();
    for (int key = 0, now = 0; key < t.keys; key += TILE) {
        const int next = key + TILE, other = buffers == 2 ? 1 - now : 0;
        const float *const kv = s.kv + now * s.buffer;
        if (buffers == 2 && next < t.keys) {
            load_keys(a, l, seq, next, s.kv + other * s.buffer);
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
            weights_of(plan, seq, s, t.first, key, thread / TILE, thread % TILE, &p, &ds);
            s.ds[thread % TILE * WEIGHT_LD + thread / TILE] = ds;
        }
        __syncthreads();
        if (c.any)
            for (int k = 0; k < TILE; k++)
                c.add(kv + k * l.ld, s.ds + k * WEIGHT_LD);
        __syncthreads();
        if (buffers == 1 && next < t.keys) {
            load_keys(a, l, seq, next, s.kv);
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
                        (t.base + static_cast<size_t>(c.row + i)) * static_cast<size_t>(D),
                    i, D);
}

template <int N>
__global__ void __launch_bounds__(THREADS, 1) key_grad(const grad_plan plan, int buffers)
{
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk, thread = static_cast<int>(threadIdx.x);
    attention_grad_seq seq;
    int tile;
    if (!find_tile(a.seqs, a.num_seqs, 1, TILE, static_cast<int>(blockIdx.x), &seq, &tile))
        return;
    const int key = tile * TILE, rows = seq.len * a.shape.H;
    const grad_layout l = layout_of(a.shape.Dv, D, false, buffers);
    const grad_shared s = carve_grad(l, false, buffers);
    column_sums<N> c;
    c.place(D);
    load_keys(a, l, seq, key, s.kv);
    // Rows are taken in tiles counted from the first that sees a key of this tile.
    load_queries(a, l, seq, key * a.shape.H, s.q, s.dout);
    cp_async_commit();
    for (int row = key * a.shape.H, now = 0; row < rows; row += TILE) {
        const int next = row + TILE, other = buffers == 2 ? 1 - now : 0;
        const float *const q = s.q + now * s.buffer, *const dout = s.dout + now * s.buffer;
        if (buffers == 2 && next < rows) {
            load_queries(a, l, seq, next, s.q + other * s.buffer, s.dout + other * s.buffer);
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
            weights_of(plan, seq, s, row, key, thread / TILE, thread % TILE, &p, &ds);
            s.p[thread / TILE * WEIGHT_LD + thread % TILE] = p;
            s.ds[thread / TILE * WEIGHT_LD + thread % TILE] = ds;
        }
        __syncthreads();
        if (c.any) {
            for (int i = 0; i < TILE; i++) {
                c.add(q + i * l.ld, s.ds + i * WEIGHT_LD);
                if (c.column < a.shape.Dv)
                    c.add(dout + i * l.ldo, s.p + i * WEIGHT_LD);
            }
        }
        __syncthreads();
        if (buffers == 1 && next < rows) {
            load_queries(a, l, seq, next, s.q, s.dout);
            cp_async_commit();
        }
        now = other;
    }
    if (!c.any)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (key + c.row + i < seq.len)
            c.store(static_cast<float *>(a.dkv) +
                        static_cast<size_t>(seq.key + key + c.row + i) * static_cast<size_t>(D),
                    i, D);
}

using grad_kernel = void (*)(grad_plan, int);

static int launch_grad(struct device *dev, const struct grad_plan &plan, bool rows_resident,
                       grad_kernel kernel)
{
    const attention_grad_args &a = plan.a;
    const int per = rows_resident ? a.shape.H : 1;
    const size_t tiles = tiles_at_most(rows_resident ? a.T : a.N, a.num_seqs, per, TILE);
    const size_t two =
        static_cast<size_t>(layout_of(a.shape.Dv, a.shape.Dk, rows_resident, 2).total);
    const size_t one =
        static_cast<size_t>(layout_of(a.shape.Dv, a.shape.Dk, rows_resident, 1).total);
    const int buffers = fits_shared(dev, two * sizeof(float)) ? 2 : 1;
    const size_t bytes = (buffers == 2 ? two : one) * sizeof(float);
    const int rc = check_shared(dev, bytes);
    return rc ? rc
              : launch(dev, dim3(static_cast<unsigned int>(tiles)), dim3(THREADS), bytes, kernel,
                       plan, buffers);
}

static int attend_grad_float32(struct device *dev, const struct attention_grad_args *a)
{
    static const grad_kernel query_kernels[] = {query_grad<1>, query_grad<2>, query_grad<4>,
                                                query_grad<8>};
    static const grad_kernel key_kernels[] = {key_grad<1>, key_grad<2>, key_grad<4>, key_grad<8>};
    const int n = rows_per_thread(a->shape.Dk);
    const int which = n == 8 ? 3 : n / 2;
    struct grad_plan plan;
    int rc = plan_backward<float>(dev, a, &plan);
    if (rc == 0)
        rc = launch_grad(dev, plan, true, query_kernels[which]);
    if (rc == 0)
        rc = launch_grad(dev, plan, false, key_kernels[which]);
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
