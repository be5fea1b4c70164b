// SPDX-License-Identifier: Apache-2.0
// Backward of latent attention in bfloat16 on Hopper, R = 512 and Dr = 64: the algorithm of
// attention_grad.cu by wgmma, in tiles of 64 rows and 64 keys.
//
// Theory of operation. Either kernel has two warpgroups of products and one that copies. In a step,
// of 64 rows and 64 keys, warpgroup 0 computes the scores and warpgroup 1 dp = dout . kv. They
// exchange halves, so that each has both for half of the columns, leave p and ds as bfloat16 in
// shared memory, and add the second products to sums [64,576] in their registers: columns [0,256)
// in warpgroup 0, the rest in warpgroup 1. What stays is copied once; what changes is copied in
// units, each filled again when the warpgroup whose columns it holds has read it for the last time.
// The two are one piece of code, `w` being the warpgroup: compute-sanitizer wants all threads of a
// barrier at one place.
//
// A tile of keys near the start of a sequence is seen by many more rows than one near its end. So
// its rows are cut into chunks, counted from the start of the sequence, whose sums are added in
// order by add_chunks.
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_wgmma.cuh"
#include "kernels/cuda/matmul_wgmma.cuh"

namespace attention
{

constexpr int GRAD_THREADS = 3 * WARPGROUP;
constexpr int VALUE_BYTES = VALUE_STRIPS * STRIP_BYTES;
constexpr int GRAD_UNITS = 4;

struct grad_wide_shared {
    unsigned char kv[TILE_BYTES], q[TILE_BYTES], dout[VALUE_BYTES];
    unsigned char p[STRIP_BYTES], ds[STRIP_BYTES]; // before they are there: what is exchanged
    mbarrier fixed, full[GRAD_UNITS], empty[GRAD_UNITS];
    float2 rows[WIDE_ROWS]; // key_grad: row_constant of the step's rows
};

#if HOPPER_CODE

constexpr int GRAD_CONSUMERS = 2 * WARPGROUP;
constexpr int UNIT_STRIPS = VALUE_STRIPS / 2; // of the values; the strip of Dr is in the second
constexpr float UNIT_LOG2_E = 1.44269504088896341f;

// ---- copies

__device__ inline void init_grad_barriers(grad_wide_shared *s, int more)
{
    if (threadIdx.x > 0)
        return;
    mbarrier_init(&s->fixed, WARPGROUP);
    for (int u = 0; u < GRAD_UNITS; u++) {
        mbarrier_init(&s->full[u], WARPGROUP + (u == GRAD_UNITS - 1 ? more : 0));
        mbarrier_init(&s->empty[u], WARPGROUP / WARP);
    }
    mbarrier_init_done();
}

// Half `half` of a tile of WIDTH columns, when it may be written.
template <int WIDTH>
__device__ __forceinline__ void produce_half(const strip_source<WIDTH> &from, unsigned char *tile,
                                             int half, grad_wide_shared *s, int unit,
                                             uint32_t phase)
{
    mbarrier_wait(&s->empty[unit], phase ^ 1);
    from.template load<UNIT_STRIPS>(tile + half * UNIT_STRIPS * STRIP_BYTES, half * UNIT_STRIPS);
    if (WIDTH > WIDE_R && half == 1)
        from.template load<STRIPS - VALUE_STRIPS>(tile + VALUE_STRIPS * STRIP_BYTES, VALUE_STRIPS);
    arrive_strips(&s->full[unit], from.aligned());
}

// ---- products

// Sums [64,256] of a warpgroup, and [64,64] of the Dr columns in the second.
struct grad_sums {
    float values[WIDE_R / 4], rest[WIDE_DR / 2];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < WIDE_R / 4; i++)
            values[i] = 0.0f;
#pragma unroll
        for (int i = 0; i < WIDE_DR / 2; i++)
            rest[i] = 0.0f;
    }
    __device__ __forceinline__ void keep()
    {
        wgmma_keep(values);
        wgmma_keep(rest);
    }
    // += weights [64,64] x [64,576] or, not REST, [64,512].
    template <bool REST>
    __device__ __forceinline__ void add(const unsigned char *weights, const unsigned char *x, int w)
    {
#pragma unroll
        for (int i = 0; i < WIDE_ROWS; i += 16)
            wgmma<false, true>(values, strip_rows(weights, i),
                               strip_columns(x + w * UNIT_STRIPS * STRIP_BYTES, i));
        if (REST && w == 1)
#pragma unroll
            for (int i = 0; i < WIDE_ROWS; i += 16)
                wgmma<false, true>(rest, strip_rows(weights, i),
                                   strip_columns(x + VALUE_STRIPS * STRIP_BYTES, i));
        wgmma_commit();
    }
};

// [64,64] of a warpgroup: element 4 j + 2 h + e is row 8 h + ..., column 8 j + ... of the thread's.
using step_scores = float[WIDE_ROWS / 2];
using half_scores = float[WIDE_ROWS / 4];

// x y^T over the strips [first, end).
__device__ __forceinline__ void multiply_strips(step_scores &d, const unsigned char *x,
                                                const unsigned char *y, int first, int end)
{
#pragma unroll 1
    for (int i = first; i < end; i++) {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STRIP_COLUMNS; k += 16)
            wgmma<false, false>(d, strip_rows(x + i * STRIP_BYTES, k),
                                strip_rows(y + i * STRIP_BYTES, k));
        wgmma_commit();
    }
}

constexpr int EXCHANGE_LEFT = 1, EXCHANGE_TAKEN = 2, WEIGHTS_LEFT = 3; // barriers

// Strips that warpgroup w multiplies: of scores all, of dp those of the values.
__device__ __forceinline__ int score_strips(int w) { return w == 0 ? STRIPS : VALUE_STRIPS; }

// Warpgroup 0 has scores and gives columns [32,64), warpgroup 1 has dp and gives columns [0,32):
// then each has both for its own half.
__device__ __forceinline__ void exchange(const step_scores &x, grad_wide_shared *s, int w,
                                         half_scores &scores, half_scores &dp)
{
    constexpr int HALF = WIDE_ROWS / 4;
    const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
    float4 *const give = reinterpret_cast<float4 *>(w == 0 ? s->ds : s->p) + thread;
    const float4 *const take = reinterpret_cast<const float4 *>(w == 0 ? s->p : s->ds) + thread;
#pragma unroll
    for (int i = 0; i < HALF; i += 4) {
        float others[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            others[e] = w == 0 ? x[HALF + i + e] : x[i + e];
        give[i / 4 * WARPGROUP] = make_float4(others[0], others[1], others[2], others[3]);
    }
    named_barrier(EXCHANGE_LEFT, GRAD_CONSUMERS);
#pragma unroll
    for (int i = 0; i < HALF; i += 4) {
        const float4 got = take[i / 4 * WARPGROUP];
        const float other[4] = {got.x, got.y, got.z, got.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            scores[i + e] = w == 0 ? x[i + e] : other[e];
            dp[i + e] = w == 0 ? other[e] : x[HALF + i + e];
        }
    }
    named_barrier(EXCHANGE_TAKEN, GRAD_CONSUMERS);
}

// Where the thread's elements 4 j + 2 h of a half stand in a tile of weights.
__device__ __forceinline__ uint32_t *weight_pair(unsigned char *tile, int row, int w, int j)
{
    return reinterpret_cast<uint32_t *>(strip_vector(tile, row, w * (WIDE_ROWS / 16) + j) +
                                        threadIdx.x % 4 * sizeof(uint32_t));
}

__device__ __forceinline__ int first_row_of_thread()
{
    return static_cast<int>(threadIdx.x) % WARPGROUP / WARP * 16 + fragment_row(0);
}

// The weights are in shared memory and may be read by wgmma.
__device__ __forceinline__ void weights_left()
{
    fence_async_proxy();
    named_barrier(WEIGHTS_LEFT, GRAD_CONSUMERS);
}

// -lse log2(e) and delta of row i of the sequence, so that p = 2^(unit s + the first): 0 past the
// last.
__device__ __forceinline__ float2 row_constant(const grad_plan &plan, const attention_grad_seq &seq,
                                               int i)
{
    if (i >= seq.len * plan.a.shape.H)
        return make_float2(-INFINITY, 0.0f);
    const size_t at = static_cast<size_t>(seq.query) * static_cast<size_t>(plan.a.shape.H) +
                      static_cast<size_t>(i);
    return make_float2(-plan.a.lse[at] * UNIT_LOG2_E, plan.delta[at]);
}

template <int COLS> struct sums_tile {
    static constexpr int cols = COLS, sums = COLS / 2;
};

// Of warpgroup w, to rows of WIDE_D at `to`, `rows` of them.
template <typename T>
__device__ __forceinline__ void store_sums(const grad_sums &c, int w, T *to, int rows)
{
    // The threads of the second warpgroup count as rows from 64 on.
    T *const first = to - w * WIDE_ROWS * WIDE_D;
    const bool vectors = reinterpret_cast<uintptr_t>(to) % 16 == 0;
    wgmma_result<T> r = {
        first + w * (WIDE_R / 2), WIDE_D, rows + w * WIDE_ROWS, WIDE_R / 2, false, vectors};
    wgmma_store<sums_tile<WIDE_R / 2>>(r, c.values);
    if (w == 1) {
        r.c = first + WIDE_R;
        r.cols = WIDE_DR;
        wgmma_store<sums_tile<WIDE_DR>>(r, c.rest);
    }
}

__device__ __forceinline__ void store_sums_as(dtype type, const grad_sums &c, int w, void *to,
                                              size_t first_row, int rows)
{
    if (type == DTYPE_BF16)
        store_sums(c, w, static_cast<bf16 *>(to) + first_row * WIDE_D, rows);
    else
        store_sums(c, w, static_cast<float *>(to) + first_row * WIDE_D, rows);
}

// ---- dq: rows stay, keys change

__device__ inline void query_grad_copies(const grad_plan &plan, const attention_grad_seq &seq,
                                         const tile_rows &t, grad_wide_shared *s)
{
    const attention_grad_args &a = plan.a;
    const strip_source<WIDE_D> q = {static_cast<const bf16 *>(a.q) + t.base * WIDE_D, t.count};
    const strip_source<WIDE_R> dout = {static_cast<const bf16 *>(a.dout) + t.base * WIDE_R,
                                       t.count};
    q.load<STRIPS>(s->q, 0);
    dout.load<VALUE_STRIPS>(s->dout, 0);
    arrive_strips(&s->fixed, q.aligned() && dout.aligned());
    uint32_t phase = 0;
    for (int key = 0; key < t.keys; key += KEYS, phase ^= 1) {
        const strip_source<WIDE_D> kv = {static_cast<const bf16 *>(a.kv) +
                                             static_cast<size_t>(seq.key + key) * WIDE_D,
                                         seq.len - key};
        produce_half(kv, s->kv, 0, s, 0, phase);
        produce_half(kv, s->kv, 1, s, 1, phase);
    }
}

// ds of the warpgroup's half of a step.
__device__ __forceinline__ void query_weights(const half_scores &x, const half_scores &dp,
                                              const float2 (&row)[2], const int (&keys)[2], int key,
                                              float scale, grad_wide_shared *s, int w)
{
    const float unit = scale * UNIT_LOG2_E;
#pragma unroll
    for (int j = 0; j < WIDE_ROWS / 16; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float ds[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = w * WIDE_ROWS / 2 + 8 * j + fragment_column(e);
                const int i = 4 * j + 2 * h + e;
                const float p = exp2_approx(fmaf(x[i], unit, row[h].x));
                ds[e] = key + column < keys[h] ? scale * (p * (dp[i] - row[h].y)) : 0.0f;
            }
            *weight_pair(s->ds, first_row_of_thread() + 8 * h, w, j) = bf16_pair(ds[0], ds[1]);
        }
}

__device__ inline void query_grad_products(const grad_plan &plan, const attention_grad_seq &seq,
                                           const tile_rows &t, grad_wide_shared *s, int w)
{
    const attention_grad_args &a = plan.a;
    const unsigned char *const x = w == 0 ? s->q : s->dout;
    const int first = first_row_of_thread();
    const float2 row[2] = {row_constant(plan, seq, t.first + first),
                           row_constant(plan, seq, t.first + first + 8)};
    const int keys[2] = {keys_of_row(t, first, a.shape.H), keys_of_row(t, first + 8, a.shape.H)};
    grad_sums c;
    c.clear();
    wait_strips(&s->fixed, 0);
    uint32_t phase = 0;
    for (int key = 0; key < t.keys; key += KEYS, phase ^= 1) {
        step_scores d = {};
        half_scores scores, dp;
        wgmma_keep(d);
        wait_strips(&s->full[0], phase);
        multiply_strips(d, x, s->kv, 0, UNIT_STRIPS);
        wait_strips(&s->full[1], phase);
        multiply_strips(d, x, s->kv, UNIT_STRIPS, score_strips(w));
        wgmma_wait<0>();
        wgmma_keep(d);
        exchange(d, s, w, scores, dp);
        query_weights(scores, dp, row, keys, key, a.shape.scale, s, w);
        weights_left();
        c.keep();
        wgmma_fence();
        c.add<true>(s->ds, s->kv, w);
        wgmma_wait<0>();
        c.keep();
        arrive_warp(&s->empty[w]);
    }
    store_sums_as(a.dq_type, c, w, a.dq, t.base, t.count);
}

#endif // HOPPER_CODE

__global__ void __launch_bounds__(GRAD_THREADS, 1) query_grad_wgmma(const grad_plan plan)
{
#if HOPPER_CODE
    const attention_grad_args &a = plan.a;
    attention_grad_seq seq;
    int tile;
    if (!find_queries(a.seqs, a.num_seqs, a.shape.H, WIDE_ROWS, last_first(), &seq, &tile))
        return;
    const tile_rows t = queries_of_tile(seq, tile, WIDE_ROWS, a.shape, 0);
    grad_wide_shared *const s = dynamic_shared<grad_wide_shared>();
    init_grad_barriers(s, 0);
    __syncthreads();
    const int w = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    if (w < 2) {
        registers_raise<232>();
        query_grad_products(plan, seq, t, s, w);
    } else {
        registers_lower<40>();
        query_grad_copies(plan, seq, t, s);
    }
#endif
}

// ---- dkv: keys stay, rows change

// How the rows of a sequence are cut, for the tiles of its keys.
constexpr int CHUNKS_MAX = 8, CHUNK_ROWS_MIN = 2048;

__device__ __forceinline__ int chunk_rows(int rows)
{
    const int share = round_up((rows + CHUNKS_MAX - 1) / CHUNKS_MAX, WIDE_ROWS);
    return share > CHUNK_ROWS_MIN ? share : CHUNK_ROWS_MIN;
}

// Tiles [first, first + count) of keys, counted over the sequences, and scratch memory for the
// sums of their chunks.
struct key_plan {
    grad_plan grad;
    int first, count;
    float *sums; // [count,CHUNKS_MAX,64,576]
};

// What a block has to do: a tile of keys against a chunk of rows.
struct key_item {
    attention_grad_seq seq;
    int index;       // among the tiles of the plan
    int key, keys;   // of the tile
    int rows;        // of the sequence
    int chunk, size; // which of the chunks, and rows in each
    int begin, end;  // its rows that see a key of the tile, in whole steps

    // Chunks of which no row sees a key of the tile.
    __device__ __forceinline__ int skipped(int H) const { return key * H / size; }
    __device__ __forceinline__ int chunks() const { return (rows + size - 1) / size; }
};

// Tile `index` of the plan; false when there is none.
__device__ inline bool find_key_tile(const key_plan &plan, int index, key_item *item)
{
    const attention_grad_args &a = plan.grad.a;
    int tile;
    if (!find_queries(a.seqs, a.num_seqs, 1, WIDE_ROWS, plan.first + index, &item->seq, &tile))
        return false;
    const int key = tile * WIDE_ROWS, left = item->seq.len - key;
    item->index = index;
    item->key = key;
    item->keys = left < WIDE_ROWS ? left : WIDE_ROWS;
    item->rows = item->seq.len * a.shape.H;
    item->size = chunk_rows(item->rows);
    return true;
}

// Its rows in chunk `chunk`; false when there are none.
__device__ __forceinline__ bool take_chunk(key_item *item, int chunk, int H)
{
    const int seen = item->key * H / WIDE_ROWS * WIDE_ROWS, begin = chunk * item->size;
    item->chunk = chunk;
    item->begin = seen > begin ? seen : begin;
    item->end = item->rows < begin + item->size ? item->rows : begin + item->size;
    return item->begin < item->end;
}

__device__ __forceinline__ float *chunk_sums(const key_plan &plan, int index, int chunk)
{
    return plan.sums + static_cast<size_t>(index * CHUNKS_MAX + chunk) *
                           static_cast<size_t>(WIDE_ROWS * WIDE_D);
}

#if HOPPER_CODE

// Units: halves of dout, then of q, with which come the constants of the rows.
__device__ inline void key_grad_copies(const grad_plan &plan, const key_item &item,
                                       grad_wide_shared *s)
{
    const attention_grad_args &a = plan.a;
    const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
    const strip_source<WIDE_D> kv = {static_cast<const bf16 *>(a.kv) +
                                         static_cast<size_t>(item.seq.key + item.key) * WIDE_D,
                                     item.keys};
    kv.load<STRIPS>(s->kv, 0);
    arrive_strips(&s->fixed, kv.aligned());
    uint32_t phase = 0;
    for (int row = item.begin; row < item.end; row += WIDE_ROWS, phase ^= 1) {
        const size_t at = static_cast<size_t>(item.seq.query) * static_cast<size_t>(a.shape.H) +
                          static_cast<size_t>(row);
        const strip_source<WIDE_R> dout = {static_cast<const bf16 *>(a.dout) + at * WIDE_R,
                                           item.rows - row};
        const strip_source<WIDE_D> q = {static_cast<const bf16 *>(a.q) + at * WIDE_D,
                                        item.rows - row};
        float2 constant = make_float2(0.0f, 0.0f);
        if (thread < WIDE_ROWS)
            constant = row_constant(plan, item.seq, row + thread);
        produce_half(dout, s->dout, 0, s, 0, phase);
        produce_half(dout, s->dout, 1, s, 1, phase);
        produce_half(q, s->q, 0, s, 2, phase);
        produce_half(q, s->q, 1, s, 3, phase);
        if (thread < WIDE_ROWS) {
            s->rows[thread] = constant;
            mbarrier_arrive(&s->full[GRAD_UNITS - 1]);
        }
    }
}

// p and ds of the warpgroup's half of a step, whose first row is `first`: rows of the tiles are
// keys and columns are rows.
__device__ __forceinline__ void key_weights(const half_scores &x, const half_scores &dp, int key,
                                            int first, const attention_grad_args &a,
                                            grad_wide_shared *s, int w)
{
    const float unit = a.shape.scale * UNIT_LOG2_E;
    const int at = key + first_row_of_thread();
    // Keys up to this one are seen by a row: those of the first query are the fewest.
    const bool whole = key + WIDE_ROWS - 1 <= first / a.shape.H;
#pragma unroll
    for (int j = 0; j < WIDE_ROWS / 16; j++) {
        const int column = w * WIDE_ROWS / 2 + 8 * j + fragment_column(0);
        const float2 constant[2] = {s->rows[column], s->rows[column + 1]};
        int last[2] = {key + WIDE_ROWS, key + WIDE_ROWS};
        if (!whole)
            last[0] = (first + column) / a.shape.H, last[1] = (first + column + 1) / a.shape.H;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float p[2], ds[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int i = 4 * j + 2 * h + e;
                p[e] = exp2_approx(fmaf(x[i], unit, constant[e].x));
                p[e] = at + 8 * h <= last[e] ? p[e] : 0.0f;
                ds[e] = a.shape.scale * (p[e] * (dp[i] - constant[e].y));
            }
            *weight_pair(s->p, first_row_of_thread() + 8 * h, w, j) = bf16_pair(p[0], p[1]);
            *weight_pair(s->ds, first_row_of_thread() + 8 * h, w, j) = bf16_pair(ds[0], ds[1]);
        }
    }
}

// The scores of all, transposed, or dp: of warpgroup w.
__device__ __forceinline__ void key_scores(step_scores &x, grad_wide_shared *s, uint32_t phase,
                                           int w)
{
    const unsigned char *const rows = w == 0 ? s->q : s->dout;
    const int unit = w == 0 ? 2 : 0;
    wgmma_keep(x);
    wait_strips(&s->full[unit], phase);
    multiply_strips(x, s->kv, rows, 0, UNIT_STRIPS);
    wait_strips(&s->full[unit + 1], phase);
    multiply_strips(x, s->kv, rows, UNIT_STRIPS, score_strips(w));
    wgmma_wait<0>();
    wgmma_keep(x);
}

__device__ inline void key_grad_products(const key_plan &plan, const key_item &item,
                                         grad_wide_shared *s, int w)
{
    const attention_grad_args &a = plan.grad.a;
    grad_sums c;
    c.clear();
    wait_strips(&s->fixed, 0);
    uint32_t phase = 0;
    for (int row = item.begin; row < item.end; row += WIDE_ROWS, phase ^= 1) {
        step_scores x = {};
        half_scores scores, dp;
        key_scores(x, s, phase, w);
        exchange(x, s, w, scores, dp);
        wait_strips(&s->full[3], phase); // the constants
        key_weights(scores, dp, item.key, row, a, s, w);
        weights_left();
        wait_strips(&s->full[w], phase);
        wait_strips(&s->full[2 + w], phase);
        c.keep();
        wgmma_fence();
        c.add<false>(s->p, s->dout, w);
        c.add<true>(s->ds, s->q, w);
        wgmma_wait<1>();
        arrive_warp(&s->empty[w]);
        wgmma_wait<0>();
        c.keep();
        arrive_warp(&s->empty[2 + w]);
    }
    if (item.chunks() - item.skipped(a.shape.H) > 1)
        store_sums(c, w, chunk_sums(plan, item.index, item.chunk), WIDE_ROWS);
    else
        store_sums_as(a.dkv_type, c, w, a.dkv, static_cast<size_t>(item.seq.key + item.key),
                      item.keys);
}

#endif // HOPPER_CODE

// grid: (tiles, chunks).
__global__ void __launch_bounds__(GRAD_THREADS, 1) key_grad_wgmma(const key_plan plan)
{
#if HOPPER_CODE
    key_item item;
    if (!find_key_tile(plan, static_cast<int>(blockIdx.x), &item) ||
        !take_chunk(&item, static_cast<int>(blockIdx.y), plan.grad.a.shape.H))
        return;
    grad_wide_shared *const s = dynamic_shared<grad_wide_shared>();
    init_grad_barriers(s, WIDE_ROWS);
    __syncthreads();
    const int w = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    if (w < 2) {
        registers_raise<232>();
        key_grad_products(plan, item, s, w);
    } else {
        registers_lower<40>();
        key_grad_copies(plan.grad, item, s);
    }
#endif
}

constexpr int ADD_THREADS = 160; // four columns each
static_assert(4 * ADD_THREADS >= WIDE_D, "a row of a tile");

// The chunks of a row of dkv in order. grid: (tiles, rows of a tile).
__global__ void __launch_bounds__(ADD_THREADS) add_chunks(const key_plan plan)
{
    const attention_grad_args &a = plan.grad.a;
    const int row = static_cast<int>(blockIdx.y), column = 4 * static_cast<int>(threadIdx.x);
    key_item item;
    if (!find_key_tile(plan, static_cast<int>(blockIdx.x), &item) || row >= item.keys ||
        column >= WIDE_D)
        return;
    const int first = item.skipped(a.shape.H), chunks = item.chunks();
    if (chunks - first == 1)
        return; // the sums are in dkv
    const int at = row * WIDE_D + column;
    four sum = load_vector(chunk_sums(plan, item.index, first) + at);
    for (int c = first + 1; c < chunks; c++) {
        const four x = load_vector(chunk_sums(plan, item.index, c) + at);
        for (int i = 0; i < 4; i++)
            sum.x[i] += x.x[i];
    }
    const size_t to =
        static_cast<size_t>(item.seq.key + item.key + row) * WIDE_D + static_cast<size_t>(column);
    if (a.dkv_type == DTYPE_BF16)
        store_four(static_cast<bf16 *>(a.dkv) + to, 4, sum);
    else
        store_four(static_cast<float *>(a.dkv) + to, 4, sum);
}

// ---- host side

int attend_grad_wide(struct device *dev, const struct attention_grad_args *a)
{
    const size_t each = static_cast<size_t>(CHUNKS_MAX) * WIDE_ROWS * WIDE_D; // floats of a tile
    const size_t tiles = tiles_at_most(a->N, a->num_seqs, 1, WIDE_ROWS);
    const size_t most = SPLIT_BYTES_MAX / (each * sizeof(float));
    const size_t together = tiles < most ? tiles : most;
    const dim3 threads(GRAD_THREADS);
    const size_t bytes = sizeof(grad_wide_shared);
    struct key_plan keys = {};
    int rc = plan_backward<bf16>(dev, a, &keys.grad, together * each, &keys.sums);
    if (rc == 0)
        rc = launch(dev,
                    dim3(static_cast<unsigned int>(
                        tiles_at_most(a->T, a->num_seqs, a->shape.H, WIDE_ROWS))),
                    threads, bytes, query_grad_wgmma, keys.grad);
    for (size_t first = 0; first < tiles && rc == 0; first += together) {
        keys.first = static_cast<int>(first);
        keys.count = static_cast<int>(tiles - first < together ? tiles - first : together);
        const unsigned int count = static_cast<unsigned int>(keys.count);
        rc = launch(dev, dim3(count, CHUNKS_MAX), threads, bytes, key_grad_wgmma, keys);
        if (rc == 0)
            rc = launch(dev, dim3(count, WIDE_ROWS), dim3(ADD_THREADS), 0, add_chunks, keys);
    }
    return rc;
}

} // namespace attention
