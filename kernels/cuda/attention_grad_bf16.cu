// SPDX-License-Identifier: Apache-2.0
// Backward of attention on tensor cores: the algorithm of attention_grad.cu on bfloat16 rows
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

// Starts copying rows [row, row + count) of the sequence: q and dout.
__device__ inline void load_row_tiles(const attention_grad_args &a, const attention_grad_seq &seq,
                                      const head_rows &rows, int row, int count, const tile_view &q,
                                      const tile_view &dout)
{
    const int left = seq.len * rows.heads - row;
    const size_t Dk = static_cast<size_t>(a.shape.Dk), Dv = static_cast<size_t>(a.shape.Dv);
    load_tile(q, heads_source<bf16>{static_cast<const bf16 *>(a.q), Dk, rows, row}, count, left,
              a.shape.Dk);
    load_tile(dout, heads_source<bf16>{static_cast<const bf16 *>(a.dout), Dv, rows, row}, count,
              left, a.shape.Dv);
}

// Row `at` of kv.
__device__ __forceinline__ const bf16 *key_row(const attention_grad_args &a, int at)
{
    return static_cast<const bf16 *>(a.kv) +
           static_cast<size_t>(at) * static_cast<size_t>(attention_row(&a.shape));
}

// What both kernels know of a row: -lse log2(e) and delta, so that p = 2^(unit s - ...). Rows past
// the last get p = 0.
struct row_constants {
    float shift[STEP], delta[STEP];
};

constexpr float LOG2_E = 1.44269504088896341f;

__device__ inline void load_constants(const grad_plan &plan, const attention_grad_seq &seq,
                                      const head_rows &rows, int row, int count, row_constants *c)
{
    const int i = static_cast<int>(threadIdx.x);
    if (i >= count)
        return;
    const bool there = row + i < seq.len * rows.heads;
    const size_t at = rows.at(row + i);
    c->shift[i] = there ? -plan.a.lse[at] * LOG2_E : -INFINITY;
    c->delta[i] = there ? plan.delta[at] : 0.0f;
}

// The sums of a thread to the first `width` columns of `count` rows at row(i).
template <typename T, int MT, int NT, typename Row>
__device__ inline void store_sums(const Row &row, int count, int width, const vector_range &mine,
                                  const fragments<MT, NT> &c)
{
    const int columns = mine.columns(width);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = 16 * m + fragment_row(2 * half);
            if (i >= count)
                continue;
            T *const to = row(i);
#pragma unroll
            for (int n = 0; n < NT; n++)
                store_pair(to, VECTOR * (mine.first + n) + fragment_column(0), columns,
                           c.v[m][n][2 * half], c.v[m][n][2 * half + 1]);
        }
}

// In an array of that type, of whose elements row i begins with the at(i)-th.
template <int MT, int NT, typename At>
__device__ __forceinline__ void store_sums_as(dtype type, void *to, const At &at, int count,
                                              int width, const vector_range &mine,
                                              const fragments<MT, NT> &c)
{
    if (type == DTYPE_BF16)
        store_sums<bf16>([&](int i) { return static_cast<bf16 *>(to) + at(i); }, count, width, mine,
                         c);
    else
        store_sums<float>([&](int i) { return static_cast<float *>(to) + at(i); }, count, width,
                          mine, c);
}

// ---- dq: M rows stay, keys change

template <int M> __host__ __device__ inline size_t query_bytes(const struct attention_shape &s)
{
    return sizeof(bf16) * static_cast<size_t>(M * (padded(s.Dk) + padded(s.Dv)) +
                                              STEP * key_columns(s, 64) + M * STEP) +
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
    const bool whole = key + STEP <= keys_of_row(t, 0, t.rows.heads);
#pragma unroll
    for (int m = 0; m < tiles::MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = at.row + 16 * m + fragment_row(2 * half);
            const int visible = whole ? STEP : keys_of_row(t, row, t.rows.heads) - key;
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
    const int Dk = padded(a.shape.Dk), Dv = padded(a.shape.Dv), row = key_columns(a.shape, 64);
    attention_grad_seq seq;
    int tile;
    if (!find_queries(a.seqs, a.num_seqs, heads_of(a.shape), M, last_first(), &seq, &tile))
        return;
    const tile_rows t = queries_of_tile(seq, tile, M, a.shape, static_cast<int>(blockIdx.y));
    const key_rows keys = keys_of_seq(a, seq);
    bf16 *const memory = dynamic_shared<bf16>();
    const tile_view q = {memory, Dk / VECTOR};
    const tile_view dout = {q.data + M * Dk, Dv / VECTOR};
    const tile_view kv = {dout.data + M * Dv, row / VECTOR};
    const tile_view ds = {kv.data + STEP * row, STEP / VECTOR};
    row_constants *const c = reinterpret_cast<row_constants *>(ds.data + M * STEP);
    const grad_place<M> at;
    vector_range mine;
    fragments<M / 16, NT> sum;
    mine.place(a.shape.Dk);
    sum.clear();
    load_row_tiles(a, seq, t.rows, t.first, M, q, dout);
    load_constants(plan, seq, t.rows, t.first, M, c);
    for (int key = 0; key < t.keys; key += STEP) {
        load_key_tile(a.shape, kv, key_row(a, keys.row(key)), t.part, STEP, keys.keys - key);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        grad_scores<M> s, dp;
        multiply_rows<tiles::MT, tiles::NT>(&s, q, at.row, kv, at.column, q.vectors);
        multiply_rows<tiles::MT, tiles::NT>(&dp, dout, at.row, values_of(kv, a.shape), at.column,
                                            dout.vectors);
        query_weights<M>(plan, t, key, at, s, dp, c, ds);
        __syncthreads();
        add_weighted<M / 16, NT>(&sum, ds, kv, STEP, mine.first, mine.end);
        __syncthreads();
    }
    const auto to = [&](int i) { return t.rows.at(t.first + i) * static_cast<size_t>(a.shape.Dk); };
    store_sums_as(a.dq_type, a.dq, to, t.count, a.shape.Dk, mine, sum);
}

// ---- dkv: M keys stay, rows change

template <int M> __host__ __device__ inline size_t key_bytes(const struct attention_shape &s)
{
    return sizeof(bf16) * static_cast<size_t>(STEP * (padded(s.Dk) + padded(s.Dv)) +
                                              M * key_columns(s, 64) + 2 * M * STEP) +
           sizeof(row_constants);
}

// The columns of dkv that a warp has: vectors of the gradients of keys, which the rows of q add to,
// and of values, which those of dout add to. Where they are not the same columns, half of the warps
// have the ones and half the others.
struct key_vectors {
    vector_range keys, values;

    __device__ __forceinline__ void place(const struct attention_shape &s)
    {
        const int warp = static_cast<int>(threadIdx.x) / WARP, half = MMA_WARPS / 2;
        if (s.value_at == 0) {
            const int end = (s.Dv + VECTOR - 1) / VECTOR;
            keys.place(s.Dk);
            values = {keys.first, keys.end < end ? keys.end : end};
        } else {
            keys.place(s.Dk, warp, half);
            values.place(s.Dv, warp - half, half);
        }
    }
    __device__ __forceinline__ bool any_keys() const { return keys.first < keys.end; }
    __device__ __forceinline__ bool any_values() const { return values.first < values.end; }
};

// The scores are transposed here: rows of the tile are keys, its columns are rows of q.
template <int M>
__device__ __forceinline__ void key_weights(const grad_plan &plan, const key_tile &t,
                                            const grad_place<M> &at, const grad_scores<M> &s,
                                            const grad_scores<M> &dp, const row_constants *c,
                                            const tile_view &p_tile, const tile_view &ds_tile)
{
    using tiles = grad_tiles<M>;
    const attention_grad_args &a = plan.a;
    const float unit = a.shape.scale * LOG2_E;
    const int heads = heads_of(a.shape);
    // Keys up to this one are seen by a row: those of the first query are the fewest.
    const bool whole = t.key + M - 1 <= t.seq.pos + t.row / heads;
#pragma unroll
    for (int n = 0; n < tiles::NT; n++) {
        const int column = at.column + 8 * n + fragment_column(0);
        float shift[2], delta[2];
        int last[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            shift[j] = c->shift[column + j];
            delta[j] = c->delta[column + j];
            last[j] = whole ? t.key + M : t.seq.pos + (t.row + column + j) / heads;
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
                    p[j] = t.key + row <= last[j] ? p[j] : 0.0f;
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
    const struct attention_shape &shape = a.shape;
    const int Dk = padded(shape.Dk), Dv = padded(shape.Dv), columns = key_columns(shape, 64);
    const int part = static_cast<int>(blockIdx.y);
    key_tile t;
    // Steps are counted from the first row of the sequence: their sums do not depend on M.
    if (!find_keys(a, M, STEP, static_cast<int>(blockIdx.x), &t))
        return;
    bf16 *const memory = dynamic_shared<bf16>();
    const tile_view kv = {memory, columns / VECTOR};
    const tile_view q = {kv.data + M * columns, Dk / VECTOR};
    const tile_view dout = {q.data + STEP * Dk, Dv / VECTOR};
    const tile_view p = {dout.data + STEP * Dv, STEP / VECTOR};
    const tile_view ds = {p.data + M * STEP, STEP / VECTOR};
    row_constants *const c = reinterpret_cast<row_constants *>(ds.data + M * STEP);
    const grad_place<M> at;
    key_vectors mine;
    fragments<M / 16, NT> sum;
    mine.place(shape);
    sum.clear();
    load_key_tile(shape, kv, key_row(a, t.at), part, M, t.count);
    for (; t.there(); t.advance(a, STEP)) {
        const head_rows rows = rows_of(t.seq.query, shape, part);
        load_row_tiles(a, t.seq, rows, t.row, STEP, q, dout);
        load_constants(plan, t.seq, rows, t.row, STEP, c);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        grad_scores<M> s, dp;
        multiply_rows<tiles::MT, tiles::NT>(&s, kv, at.row, q, at.column, q.vectors);
        multiply_rows<tiles::MT, tiles::NT>(&dp, values_of(kv, shape), at.row, dout, at.column,
                                            dout.vectors);
        key_weights<M>(plan, t, at, s, dp, c, p, ds);
        __syncthreads();
        if (mine.any_keys())
            add_weighted<M / 16, NT>(&sum, ds, q, STEP, mine.keys.first, mine.keys.end);
        if (mine.any_values())
            add_weighted<M / 16, NT>(&sum, p, dout, STEP, mine.values.first, mine.values.end);
        __syncthreads();
    }
    cp_async_wait<0>(); // of keys that no row sees
    const auto to = [&](int i) {
        return static_cast<size_t>(t.at + i) * static_cast<size_t>(attention_row(&shape)) +
               static_cast<size_t>(part_of(shape, part));
    };
    if (mine.any_keys())
        store_sums_as(a.dkv_type, a.dkv, to, t.count, shape.Dk, mine.keys, sum);
    else if (mine.any_values())
        store_sums_as(
            a.dkv_type, a.dkv, [&](int i) { return to(i) + static_cast<size_t>(shape.value_at); },
            t.count, shape.Dv, mine.values, sum);
}

// ---- launching

using grad_kernel = void (*)(grad_plan);

// A block for each tile of M rows, of `tokens` tokens with `per` rows each, and each part.
static int launch_tiles(struct device *dev, const struct grad_plan &plan, int tokens, int per,
                        int M, size_t bytes, grad_kernel kernel)
{
    const size_t tiles = tiles_at_most(tokens, plan.a.num_seqs, per, M);
    const dim3 grid(static_cast<unsigned int>(tiles),
                    static_cast<unsigned int>(plan.a.shape.kv_heads));
    const int rc = check_shared(dev, bytes);
    return rc ? rc : launch(dev, grid, dim3(MMA_THREADS), bytes, kernel, plan);
}

template <int M> static int launch_query_grad(struct device *dev, const struct grad_plan &plan)
{
    const attention_grad_args &a = plan.a;
    const int width = a.shape.Dk;
    const grad_kernel kernel = width <= 192   ? query_grad_bf16<M, 3>
                               : width <= 320 ? query_grad_bf16<M, 5>
                                              : query_grad_bf16<M, 9>;
    return launch_tiles(dev, plan, a.T, heads_of(a.shape), M, query_bytes<M>(a.shape), kernel);
}

template <int M> static int launch_key_grad(struct device *dev, const struct grad_plan &plan)
{
    const attention_grad_args &a = plan.a;
    const struct attention_shape &s = a.shape;
    const int widest = s.Dk > s.Dv ? s.Dk : s.Dv;
    const int width = s.value_at == 0 ? s.Dk : 2 * widest; // as if all warps shared it
    const grad_kernel kernel = width <= 192   ? key_grad_bf16<M, 3>
                               : width <= 320 ? key_grad_bf16<M, 5>
                                              : key_grad_bf16<M, 9>;
    return launch_tiles(dev, plan, a.N, 1, M, key_bytes<M>(s), kernel);
}

int attend_grad_bfloat16(struct device *dev, const struct attention_grad_args *a)
{
    if (wide_shape(dev, &a->shape) && !a->prefixes)
        return attend_grad_wide(dev, a);
    struct grad_plan plan;
    int rc = plan_backward<bf16>(dev, a, &plan);
    if (rc)
        return rc;
    rc = fits_shared(dev, query_bytes<64>(a->shape)) ? launch_query_grad<64>(dev, plan)
                                                     : launch_query_grad<16>(dev, plan);
    if (rc)
        return rc;
    return fits_shared(dev, key_bytes<64>(a->shape)) ? launch_key_grad<64>(dev, plan)
                                                     : launch_key_grad<16>(dev, plan);
}

} // namespace attention
