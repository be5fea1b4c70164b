// SPDX-License-Identifier: Apache-2.0
// Backward of latent attention on tensor cores: the algorithm of attention_grad.cu on bfloat16 rows
// with float32 scores and sums, in tiles of 64 rows and 64 keys. p and ds go to shared memory as
// bfloat16, as the left operands of the second products. Both kernels hold two tiles of rows and
// one of keys, which fills the shared memory of a Hopper GPU at R = 512; smaller tiles (of what
// stays in shared memory) serve where there is less of it.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_bf16.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

namespace attention
{

constexpr int STEP = 64; // keys or rows of a step: of what changes

// The scores of M rows (of the left operand) and STEP columns, shared among the warps.
template <int M> struct grad_tiles {
    static constexpr int WARPS_M = M >= 32 ? 2 : 1, WARPS_N = MMA_WARPS / WARPS_M;
    static constexpr int MT = M / 16 / WARPS_M, NT = STEP / 8 / WARPS_N;
};
template <int M> using grad_scores = fragments<grad_tiles<M>::MT, grad_tiles<M>::NT>;

// Where the thread's scores stand in the tile.
template <int M> struct grad_place {
    int row, column;

    __device__ __forceinline__ grad_place()
    {
        const int warp = static_cast<int>(threadIdx.x) / WARP;
        row = warp / grad_tiles<M>::WARPS_N * 16 * grad_tiles<M>::MT;
        column = warp % grad_tiles<M>::WARPS_N * 8 * grad_tiles<M>::NT;
    }
};

// Starts copying rows [row, row + rows) of the sequence: q and dout.
__device__ inline void load_row_tiles(const attention_grad_args &a, const attention_grad_seq &seq,
                                      int row, int rows, const tile_view &q, const tile_view &dout)
{
    const int left = seq.len * a.shape.H - row;
    const size_t at =
        static_cast<size_t>(seq.query) * static_cast<size_t>(a.shape.H) + static_cast<size_t>(row);
    const size_t R = static_cast<size_t>(a.shape.Dv), D = static_cast<size_t>(a.shape.Dk);
    load_tile(q, static_cast<const bf16 *>(a.q) + at * D, rows, left, a.shape.Dk);
    load_tile(dout, static_cast<const bf16 *>(a.dout) + at * R, rows, left, a.shape.Dv);
}

__device__ inline void load_key_tile(const attention_grad_args &a, const attention_grad_seq &seq,
                                     int key, int keys, const tile_view &kv)
{
    const int D = a.shape.Dk;
    const size_t at = static_cast<size_t>(seq.key) + static_cast<size_t>(key);
    load_tile(kv, static_cast<const bf16 *>(a.kv) + at * static_cast<size_t>(D), keys,
              seq.len - key, D);
}

// What both kernels know of a row: -lse log2(e) and delta, so that p = 2^(unit s - ...). Rows past
// the last get p = 0.
struct row_constants {
    float shift[STEP], delta[STEP];
};

constexpr float LOG2_E = 1.44269504088896341f;

__device__ inline void load_constants(const grad_plan &plan, const attention_grad_seq &seq, int row,
                                      int rows, row_constants *c)
{
    const int i = static_cast<int>(threadIdx.x);
    if (i >= rows)
        return;
    const bool there = row + i < seq.len * plan.a.shape.H;
    const size_t at = static_cast<size_t>(seq.query) * static_cast<size_t>(plan.a.shape.H) +
                      static_cast<size_t>(row + i);
    c->shift[i] = there ? -plan.a.lse[at] * LOG2_E : -INFINITY;
    c->delta[i] = there ? plan.delta[at] : 0.0f;
}

// The sums of a thread to rows of `width` in global memory, `rows` of them from `first_row` on.
template <typename T, int MT, int NT>
__device__ inline void store_sums(void *to, size_t first_row, int rows, int width,
                                  const vector_range &mine, const fragments<MT, NT> &c)
{
    const int columns = mine.columns(width);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * m + fragment_row(2 * half);
            if (i >= rows)
                continue;
            T *const row = static_cast<T *>(to) +
                           (first_row + static_cast<size_t>(i)) * static_cast<size_t>(width);
#pragma unroll
            for (int n = 0; n < NT; n++)
                store_pair(row, VECTOR * (mine.first + n) + fragment_column(0), columns,
                           c.v[m][n][2 * half], c.v[m][n][2 * half + 1]);
        }
}

template <int MT, int NT>
__device__ __forceinline__ void store_sums_as(dtype type, void *to, size_t first_row, int rows,
                                              int width, const vector_range &mine,
                                              const fragments<MT, NT> &c)
{
    if (type == DTYPE_BF16)
        store_sums<bf16>(to, first_row, rows, width, mine, c);
    else
        store_sums<float>(to, first_row, rows, width, mine, c);
}

// ---- dq: M rows stay, keys change

template <int M> __host__ __device__ inline size_t query_bytes(int R, int D)
{
    return sizeof(bf16) *
               static_cast<size_t>(M * (padded(D) + padded(R)) + STEP * padded(D) + M * STEP) +
           sizeof(row_constants);
}

// ds of the thread's scores to shared memory. keys_before: keys of the sequence before the step's.
template <int M>
__device__ __forceinline__ void query_weights(const grad_plan &plan, const tile_rows &t, int key,
                                              const grad_place<M> &at, const grad_scores<M> &s,
                                              const grad_scores<M> &dp, const row_constants *c,
                                              const tile_view &ds)
{
    using tiles = grad_tiles<M>;
    const attention_grad_args &a = plan.a;
    const float unit = a.shape.scale * LOG2_E;
    const bool whole = key + STEP <= keys_of_row(t, 0, a.shape.H);
#pragma unroll
    for (int m = 0; m < tiles::MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = at.row + 16 * m + fragment_row(2 * half);
            const int visible = whole ? STEP : keys_of_row(t, row, a.shape.H) - key;
            const float shift = c->shift[row], delta = c->delta[row];
#pragma unroll
            for (int n = 0; n < tiles::NT; n++) {
                const int column = at.column + 8 * n + fragment_column(0);
                float w[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int e = 2 * half + j;
                    const float p = exp2f(fmaf(s.v[m][n][e], unit, shift));
                    w[j] =
                        column + j < visible ? a.shape.scale * (p * (dp.v[m][n][e] - delta)) : 0.0f;
                }
                *reinterpret_cast<uint32_t *>(ds.element(row, column)) = bf16_pair(w[0], w[1]);
            }
        }
}

template <int M, int NT>
__global__ void __launch_bounds__(MMA_THREADS, 1) query_grad_bf16(const grad_plan plan)
{
    using tiles = grad_tiles<M>;
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk;
    attention_grad_seq seq;
    int tile;
    if (!find_tile(a.seqs, a.num_seqs, a.shape.H, M, last_first(), &seq, &tile))
        return;
    const tile_rows t = queries_of_tile(seq, tile, M, a.shape.H);
    bf16 *const memory = dynamic_shared<bf16>();
    const tile_view q = {memory, padded(D) / VECTOR};
    const tile_view dout = {q.data + M * padded(D), padded(a.shape.Dv) / VECTOR};
    const tile_view kv = {dout.data + M * padded(a.shape.Dv), padded(D) / VECTOR};
    const tile_view ds = {kv.data + STEP * padded(D), STEP / VECTOR};
    row_constants *const c = reinterpret_cast<row_constants *>(ds.data + M * STEP);
    const grad_place<M> at;
    vector_range mine;
    fragments<M / 16, NT> sum;
    mine.place(D);
    sum.clear();
    load_row_tiles(a, seq, t.first, M, q, dout);
    load_constants(plan, seq, t.first, M, c);
    for (int key = 0; key < t.keys; key += STEP) {
        load_key_tile(a, seq, key, STEP, kv);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        grad_scores<M> s, dp;
        multiply_rows<tiles::MT, tiles::NT>(&s, q, at.row, kv, at.column, kv.vectors);
        multiply_rows<tiles::MT, tiles::NT>(&dp, dout, at.row, kv, at.column, dout.vectors);
        query_weights<M>(plan, t, key, at, s, dp, c, ds);
        __syncthreads();
        add_weighted<M / 16, NT>(&sum, ds, kv, STEP, mine.first, mine.end);
        __syncthreads();
    }
    store_sums_as(a.dq_type, a.dq, t.base, t.count, D, mine, sum);
}

// ---- dkv: M keys stay, rows change

template <int M> __host__ __device__ inline size_t key_bytes(int R, int D)
{
    return sizeof(bf16) *
               static_cast<size_t>(STEP * (padded(D) + padded(R)) + M * padded(D) + 2 * M * STEP) +
           sizeof(row_constants);
}

// The scores are transposed here: rows of the tile are keys, its columns are rows of q. first: of
// the step's, in the sequence.
template <int M>
__device__ __forceinline__ void key_weights(const grad_plan &plan, int key, int first,
                                            const grad_place<M> &at, const grad_scores<M> &s,
                                            const grad_scores<M> &dp, const row_constants *c,
                                            const tile_view &p_tile, const tile_view &ds_tile)
{
    using tiles = grad_tiles<M>;
    const attention_grad_args &a = plan.a;
    const float unit = a.shape.scale * LOG2_E;
    // Keys up to this one are seen by a row: those of the first query are the fewest.
    const bool whole = key + M - 1 <= first / a.shape.H;
#pragma unroll
    for (int n = 0; n < tiles::NT; n++) {
        const int column = at.column + 8 * n + fragment_column(0);
        float shift[2], delta[2];
        int last[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            shift[j] = c->shift[column + j];
            delta[j] = c->delta[column + j];
            last[j] = whole ? key + M : (first + column + j) / a.shape.H;
        }
#pragma unroll
        for (int m = 0; m < tiles::MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = at.row + 16 * m + fragment_row(2 * half);
                float p[2], ds[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int e = 2 * half + j;
                    p[j] = exp2f(fmaf(s.v[m][n][e], unit, shift[j]));
                    p[j] = key + row <= last[j] ? p[j] : 0.0f;
                    ds[j] = a.shape.scale * (p[j] * (dp.v[m][n][e] - delta[j]));
                }
                *reinterpret_cast<uint32_t *>(p_tile.element(row, column)) = bf16_pair(p[0], p[1]);
                *reinterpret_cast<uint32_t *>(ds_tile.element(row, column)) =
                    bf16_pair(ds[0], ds[1]);
            }
    }
}

template <int M, int NT>
__global__ void __launch_bounds__(MMA_THREADS, 1) key_grad_bf16(const grad_plan plan)
{
    using tiles = grad_tiles<M>;
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk;
    attention_grad_seq seq;
    int tile;
    if (!find_tile(a.seqs, a.num_seqs, 1, M, static_cast<int>(blockIdx.x), &seq, &tile))
        return;
    const int key = tile * M, rows = seq.len * a.shape.H;
    bf16 *const memory = dynamic_shared<bf16>();
    const tile_view kv = {memory, padded(D) / VECTOR};
    const tile_view q = {kv.data + M * padded(D), padded(D) / VECTOR};
    const tile_view dout = {q.data + STEP * padded(D), padded(a.shape.Dv) / VECTOR};
    const tile_view p = {dout.data + STEP * padded(a.shape.Dv), STEP / VECTOR};
    const tile_view ds = {p.data + M * STEP, STEP / VECTOR};
    row_constants *const c = reinterpret_cast<row_constants *>(ds.data + M * STEP);
    const grad_place<M> at;
    vector_range mine;
    fragments<M / 16, NT> sum;
    mine.place(D);
    sum.clear();
    const int end_values = (a.shape.Dv + VECTOR - 1) / VECTOR; // of the vectors that dout has
    load_key_tile(a, seq, key, M, kv);
    // Steps are counted from the first row of the sequence: their sums do not depend on M.
    for (int first = key * a.shape.H / STEP * STEP; first < rows; first += STEP) {
        load_row_tiles(a, seq, first, STEP, q, dout);
        load_constants(plan, seq, first, STEP, c);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        grad_scores<M> s, dp;
        multiply_rows<tiles::MT, tiles::NT>(&s, kv, at.row, q, at.column, q.vectors);
        multiply_rows<tiles::MT, tiles::NT>(&dp, kv, at.row, dout, at.column, dout.vectors);
        key_weights<M>(plan, key, first, at, s, dp, c, p, ds);
        __syncthreads();
        add_weighted<M / 16, NT>(&sum, ds, q, STEP, mine.first, mine.end);
        add_weighted<M / 16, NT>(&sum, p, dout, STEP, mine.first,
                                 mine.end < end_values ? mine.end : end_values);
        __syncthreads();
    }
    const int left = seq.len - key;
    store_sums_as(a.dkv_type, a.dkv, static_cast<size_t>(seq.key + key), left < M ? left : M, D,
                  mine, sum);
}

// ---- launching

using grad_kernel = void (*)(grad_plan);

// A block for each tile of M rows, of `tokens` tokens with `per` rows each.
static int launch_tiles(struct device *dev, const struct grad_plan &plan, int tokens, int per,
                        int M, size_t bytes, grad_kernel kernel)
{
    const size_t tiles = tiles_at_most(tokens, plan.a.num_seqs, per, M);
    const int rc = check_shared(dev, bytes);
    return rc ? rc
              : launch(dev, dim3(static_cast<unsigned int>(tiles)), dim3(MMA_THREADS), bytes,
                       kernel, plan);
}

template <int M> static int launch_query_grad(struct device *dev, const struct grad_plan &plan)
{
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk;
    const grad_kernel kernel = D <= 192   ? query_grad_bf16<M, 3>
                               : D <= 320 ? query_grad_bf16<M, 5>
                                          : query_grad_bf16<M, 9>;
    return launch_tiles(dev, plan, a.T, a.shape.H, M, query_bytes<M>(a.shape.Dv, D), kernel);
}

template <int M> static int launch_key_grad(struct device *dev, const struct grad_plan &plan)
{
    const attention_grad_args &a = plan.a;
    const int D = a.shape.Dk;
    const grad_kernel kernel = D <= 192   ? key_grad_bf16<M, 3>
                               : D <= 320 ? key_grad_bf16<M, 5>
                                          : key_grad_bf16<M, 9>;
    return launch_tiles(dev, plan, a.N, 1, M, key_bytes<M>(a.shape.Dv, D), kernel);
}

int attend_grad_bfloat16(struct device *dev, const struct attention_grad_args *a)
{
    if (wide_shape(dev, &a->shape))
        return attend_grad_wide(dev, a);
    const int D = a->shape.Dk;
    struct grad_plan plan;
    int rc = plan_backward<bf16>(dev, a, &plan);
    if (rc)
        return rc;
    rc = fits_shared(dev, query_bytes<64>(a->shape.Dv, D)) ? launch_query_grad<64>(dev, plan)
                                                           : launch_query_grad<16>(dev, plan);
    if (rc)
        return rc;
    return fits_shared(dev, key_bytes<64>(a->shape.Dv, D)) ? launch_key_grad<64>(dev, plan)
                                                           : launch_key_grad<16>(dev, plan);
}

} // namespace attention
