// SPDX-License-Identifier: Apache-2.0
// Latent attention in bfloat16 on Hopper for decode: tiles of 16 rows, and for each row the bits
// that attention_wgmma.cu computes.
//
// Theory of operation. Decode reads each key for few rows, so what counts is that copies never
// stop. The products are the other way round than there: scores [64 keys,16 rows] = K Q^T, outputs
// [512,16] += V^T P^T, so that the many keys or columns fill the 64 rows of an instruction, and the
// sums of a thread are so few that the totals over splits stay in registers too. Queries and
// weights are small, which leaves most of the shared memory to a ring of units of two strips. A
// pair of blocks of keys is 9 units, in the order in which they are given back:
//   - the Dr columns of both blocks, which only scores need,
//   - the values, by turns of the even and of the odd block; a block's come in the order of its
//     scores' terms, first the columns whose outputs its own warpgroup holds.
// An even block alone is 5. Before it must wait for the first unit of the pair before, the third
// warpgroup looks up the next keys, and copies the next queries: keys run ahead of both.
//
// The bits: terms of scores and of outputs in the same order of 16 at a time, the same largest
// scores and weights, and the sum of a row's weights by four threads, who add what the lanes of a
// quad add there.
#include "kernels/cuda/attention_wgmma.cuh"

namespace attention
{

constexpr int UNIT_STRIPS = 2, RING = 12;
constexpr int FEW_BYTES = DECODE_ROWS * ROW_BYTES; // a strip of queries or weights
constexpr int WEIGHTS_LD = DECODE_ROWS + 4;        // lanes of a warp read 32 banks

struct decode_shared {
    unsigned char ring[RING][UNIT_STRIPS * STRIP_BYTES];
    unsigned char q[STRIPS * FEW_BYTES], p[2][FEW_BYTES]; // p: a block's weights, keys in a row
    float weights[2][KEYS][WEIGHTS_LD];                   // before they are rounded
    mbarrier full[RING], empty[RING], q_full, q_empty, item_full;
    float4 max[2][DECODE_ROWS]; // of the block's four warps
    float sum[2][DECODE_ROWS], keep[DECODE_ROWS];
    wide_item item; // free again when q is
};

#if HOPPER_CODE

__device__ inline void init_barriers(decode_shared *s)
{
    if (threadIdx.x > 0)
        return;
    for (int i = 0; i < RING; i++) {
        mbarrier_init(&s->full[i], WARPGROUP);
        mbarrier_init(&s->empty[i], WARPGROUP / WARP);
    }
    mbarrier_init(&s->q_full, WARPGROUP);
    mbarrier_init(&s->item_full, 1);
    mbarrier_init(&s->q_empty, WIDE_CONSUMERS / WARP);
    mbarrier_init_done();
}

// A slot of the ring, and the parity of the phase in which it is filled.
struct ring_place {
    int slot = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ ring_place after(int units) const // fewer than RING
    {
        const bool around = slot + units >= RING;
        return {around ? slot + units - RING : slot + units, around ? phase ^ 1 : phase};
    }
};

// Units of a pair: 0 has the Dr columns, values_unit quarter t of block b in the order of its
// terms, which are columns from value_strip on.
template <bool BOTH> constexpr int PAIR_UNITS = BOTH ? 9 : 5;
template <bool BOTH> __device__ __forceinline__ int values_unit(int b, int t)
{
    return BOTH ? 1 + 2 * t + b : 1 + t;
}
__device__ __forceinline__ int value_strip(int b, int t)
{
    return (UNIT_STRIPS * t + b * HALF_STRIPS) % VALUE_STRIPS;
}

// ---- copies

// Where the copies are: a pair of an item, and its blocks.
struct decode_cursor {
    item_finder finder;
    wide_item item;
    int index = 0, key = 0; // index: the item's
    const bf16 *block[2];

    __device__ __forceinline__ void find(const forward_plan &plan)
    {
        do {
            if (!finder.find<DECODE_ROWS>(plan, wide_item_of(index++), &item)) {
                item.t.count = 0;
                return;
            }
        } while (item.begin >= item.end);
        key = item.begin;
        look_up(plan);
    }
    __device__ __forceinline__ void next(const forward_plan &plan)
    {
        key += PAIR;
        if (key < item.end)
            look_up(plan);
        else
            find(plan);
    }
    __device__ __forceinline__ bool both() const { return key + KEYS < item.end; }
    __device__ __forceinline__ void look_up(const forward_plan &plan)
    {
        const void *const *const at = plan.a.kv_blocks + item.t.blocks_at + key / KEYS;
        block[0] = static_cast<const bf16 *>(at[0]);
        block[1] = both() ? static_cast<const bf16 *>(at[1]) : nullptr;
    }
};

using key_source = strip_source<WIDE_D, true>;

// The two blocks of a pair as sources.
struct pair_source {
    key_source of[2];
    bool both, first; // first: of the item
    wide_item item;

    __device__ __forceinline__ explicit pair_source(const decode_cursor &at)
        : of{{at.block[0], at.item.end - at.key}, {at.block[1], at.item.end - at.key - KEYS}},
          both(at.both()), first(at.key == at.item.begin), item(at.item)
    {
    }
};

// Unit i of a pair.
__device__ __forceinline__ void produce_unit(const pair_source &from, int i, decode_shared *s,
                                             ring_place *at)
{
    unsigned char *const to = s->ring[at->slot];
    mbarrier_wait(&s->empty[at->slot], at->phase ^ 1);
    bool aligned = from.of[0].aligned();
    if (i == 0) {
        from.of[0].load<STRIPS - VALUE_STRIPS>(to, VALUE_STRIPS);
        if (from.both) {
            from.of[1].load<STRIPS - VALUE_STRIPS>(to + STRIP_BYTES, VALUE_STRIPS);
            aligned = aligned && from.of[1].aligned();
        }
    } else {
        const int b = from.both ? (i - 1) % 2 : 0, t = from.both ? (i - 1) / 2 : i - 1;
        const key_source source = b == 0 ? from.of[0] : from.of[1];
        source.load<UNIT_STRIPS>(to, value_strip(b, t));
        aligned = source.aligned();
    }
    arrive_strips(&s->full[at->slot], aligned);
    *at = at->after(1);
}

// Gives the consumers an item, and its queries when there are any.
__device__ __forceinline__ void produce_queries(const forward_plan &plan, const wide_item &item,
                                                decode_shared *s, uint32_t *phase)
{
    const strip_source<WIDE_D> q = {static_cast<const bf16 *>(plan.a.q) + item.t.base * WIDE_D,
                                    item.t.count};
    mbarrier_wait(&s->q_empty, *phase ^ 1);
    *phase ^= 1;
    if (threadIdx.x % WARPGROUP == 0) {
        s->item = item;
        mbarrier_arrive(&s->item_full);
    }
    if (item.t.count == 0)
        return;
    q.load<STRIPS, DECODE_ROWS>(s->q, 0);
    arrive_strips(&s->q_full, q.aligned());
}

__device__ inline void decode_produce(const forward_plan &plan, decode_shared *s)
{
    constexpr int AHEAD = RING - PAIR_UNITS<true>; // units while the pair before is whole
    decode_cursor cursor;
    ring_place at;
    uint32_t q_phase = 0;
    cursor.find(plan);
    wait_for_last(); // its queries and keys, and its use of scratch memory
    while (cursor.item.t.count > 0) {
        const pair_source pair(cursor);
        const int units = pair.both ? PAIR_UNITS<true> : PAIR_UNITS<false>;
#pragma unroll 1
        for (int i = 0; i < units; i++) {
            if (i == AHEAD) {
                if (pair.first)
                    produce_queries(plan, pair.item, s, &q_phase);
                cursor.next(plan);
            }
            produce_unit(pair, i, s, &at);
        }
    }
    produce_queries(plan, wide_item{}, s, &q_phase);
}

// ---- products

constexpr int THREAD_ROWS = 4;

// What a thread knows of the four rows of its columns, of the split so far: keys they see and the
// largest score (before the scale). And as one of the row's four threads that add weights, the sum.
struct decode_rows {
    int keys[THREAD_ROWS];
    float max[THREAD_ROWS], sum;

    static __device__ __forceinline__ int row(int i)
    {
        return i / 2 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
    }
    __device__ __forceinline__ void start(const tile_rows &t, int H)
    {
        for (int i = 0; i < THREAD_ROWS; i++)
            keys[i] = keys_of_row(t, row(i), H);
    }
    __device__ __forceinline__ void start_split()
    {
        for (int i = 0; i < THREAD_ROWS; i++)
            max[i] = -INFINITY;
        sum = 0.0f;
    }
};

__device__ __forceinline__ int warp_of_group()
{
    return static_cast<int>(threadIdx.x) % WARPGROUP / WARP;
}

// Of a product [64,16] a thread has 8 elements: 4 j + 2 h + e is of its row i = 2 j + e, and of key
// or column line_of(h).
__device__ __forceinline__ int row_of_element(int i) { return i / 4 * 2 + i % 2; }
__device__ __forceinline__ int element_of_row(int i, int h) { return i / 2 * 4 + h * 2 + i % 2; }
__device__ __forceinline__ int line_of(int h)
{
    return warp_of_group() * 16 + h * 8 + static_cast<int>(threadIdx.x) % WARP / 4;
}

using decode_scores = float[8]; // of block w for warpgroup w

__device__ __forceinline__ void add_scores(decode_scores &x, const unsigned char *kv,
                                           const unsigned char *q)
{
#pragma unroll
    for (int k = 0; k < STRIP_COLUMNS; k += 16)
        wgmma<false, false>(x, strip_rows(kv, k), strip_rows(q, k));
}

template <bool BOTH>
__device__ __forceinline__ void score_block(decode_scores &x, decode_shared *s, int w,
                                            const ring_place &pair)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = 0.0f;
    wgmma_keep(x);
#pragma unroll 1
    for (int t = 0; t < VALUE_STRIPS / UNIT_STRIPS; t++) {
        const ring_place at = pair.after(values_unit<BOTH>(w, t));
        const unsigned char *const kv = s->ring[at.slot];
        const unsigned char *const q = s->q + value_strip(w, t) * FEW_BYTES;
        wait_strips(&s->full[at.slot], at.phase);
        wgmma_fence();
#pragma unroll
        for (int strip = 0; strip < UNIT_STRIPS; strip++)
            add_scores(x, kv + strip * STRIP_BYTES, q + strip * FEW_BYTES);
        wgmma_commit();
    }
    wait_strips(&s->full[pair.slot], pair.phase);
    wgmma_fence();
    add_scores(x, s->ring[pair.slot] + w * STRIP_BYTES, s->q + VALUE_STRIPS * FEW_BYTES);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_keep(x);
}

// Hides the keys that a row does not see; the largest score of each row over the warp's keys to
// shared memory.
__device__ __forceinline__ void hide_and_max(decode_scores &x, const decode_rows &rows, int key,
                                             float4 (&largest)[DECODE_ROWS])
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (key + line_of(i / 2 % 2) >= rows.keys[row_of_element(i)])
            x[i] = -INFINITY;
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        float most = fmaxf(x[element_of_row(i, 0)], x[element_of_row(i, 1)]);
        for (int lanes = 4; lanes < WARP; lanes *= 2)
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, lanes));
        if (threadIdx.x % WARP < 4)
            reinterpret_cast<float *>(&largest[decode_rows::row(i)])[warp_of_group()] = most;
    }
}

// The largest score moves on; what the sums so far must be scaled by.
template <bool BOTH>
__device__ __forceinline__ void move_on(decode_rows *rows, decode_shared *s, float unit,
                                        float (&keep)[THREAD_ROWS])
{
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = decode_rows::row(i);
        float now = rows->max[i];
#pragma unroll
        for (int b = 0; b < (BOTH ? 2 : 1); b++) {
            const float4 of = s->max[b][row];
            now = fmaxf(now, fmaxf(fmaxf(of.x, of.y), fmaxf(of.z, of.w)));
        }
        keep[i] = kept_part(rows->max[i], now, unit);
        rows->max[i] = now;
        if (threadIdx.x < 4) // of the first warpgroup, for both
            s->keep[row] = keep[i];
    }
}

// The block's weights to shared memory: rounded as right operand, and as they are for their sum.
__device__ __forceinline__ void leave_weights(const decode_scores &x, const decode_rows &rows,
                                              float unit, decode_shared *s, int w)
{
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const int key = line_of(i / 2 % 2), first = row_of_element(i);
        float p[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float shift = weight_shift(rows.max[first + e], unit);
            p[e] = exp2_approx(fmaf(x[i + e], unit, shift));
            unsigned char *const to =
                strip_vector(s->p[w], decode_rows::row(first + e), key / VECTOR);
            reinterpret_cast<bf16 *>(to)[key % VECTOR] = __float2bfloat16_rn(p[e]);
        }
        *reinterpret_cast<float2 *>(&s->weights[w][key][decode_rows::row(first)]) =
            make_float2(p[0], p[1]);
    }
}

// The row and the part of the keys that a thread of the first two warps adds the weights of.
__device__ __forceinline__ bool adds_weights() { return warp_of_group() < DECODE_ROWS / 8; }
__device__ __forceinline__ int added_row() { return static_cast<int>(threadIdx.x) % WARPGROUP / 4; }

__device__ __forceinline__ void add_weights(decode_rows *rows, const decode_shared *s, int w,
                                            bool mine)
{
    if (!adds_weights())
        return;
    const int row = added_row(), from = static_cast<int>(threadIdx.x) % 4 * 2;
    float sum = __fmul_rn(rows->sum, s->keep[row]); // not fused: as in attention_wgmma.cu
    if (mine)
#pragma unroll
        for (int key = 0; key < KEYS; key += 8) {
            sum += s->weights[w][key + from][row];
            sum += s->weights[w][key + from + 1][row];
        }
    rows->sum = sum;
}

// Sums of 4 x 64 columns, which are warpgroup w's 256, and 16 rows.
using decode_sums = float[HALF_STRIPS][8];

__device__ __forceinline__ void scale_sums(decode_sums &c, const float (&keep)[THREAD_ROWS])
{
#pragma unroll
    for (int j = 0; j < HALF_STRIPS; j++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            c[j][i] *= keep[row_of_element(i)];
}

__device__ __forceinline__ void keep_sums(decode_sums &c)
{
#pragma unroll
    for (int j = 0; j < HALF_STRIPS; j++)
        wgmma_keep(c[j]);
}

constexpr int HALF_UNITS = HALF_STRIPS / UNIT_STRIPS;

// The sums of warpgroup w grow by the values of block b: two units, one group each.
template <bool BOTH>
__device__ __forceinline__ void add_values(decode_sums &c, decode_shared *s, int w, int b,
                                           const ring_place &pair)
{
#pragma unroll
    for (int j = 0; j < HALF_UNITS; j++) {
        const ring_place at = pair.after(values_unit<BOTH>(b, b == w ? j : HALF_UNITS + j));
        wait_strips(&s->full[at.slot], at.phase);
        wgmma_fence();
#pragma unroll
        for (int strip = 0; strip < UNIT_STRIPS; strip++)
#pragma unroll
            for (int k = 0; k < KEYS; k += 16)
                wgmma<true, false>(c[UNIT_STRIPS * j + strip],
                                   strip_columns(s->ring[at.slot] + strip * STRIP_BYTES, k),
                                   strip_rows(s->p[b], k));
        wgmma_commit();
    }
}

// Gives back unit j of block b when at most PENDING groups have not read theirs.
template <bool BOTH, int PENDING>
__device__ __forceinline__ void release(decode_shared *s, int w, int b, int j,
                                        const ring_place &pair)
{
    wgmma_wait<PENDING>();
    arrive_warp(&s->empty[pair.after(values_unit<BOTH>(b, b == w ? j : HALF_UNITS + j)).slot]);
}

// One pair of blocks, or (not BOTH) the even block alone. w: the warpgroup; last: of the item.
template <bool BOTH>
__device__ __forceinline__ void attend_pair(const attention_args &a, decode_shared *s, int w,
                                            int key, bool last, decode_rows *rows, decode_sums &c,
                                            ring_place *pair)
{
    const float unit = softmax_unit(a.shape.scale);
    const bool mine = BOTH || w == 0;
    decode_scores x;
    float keep[THREAD_ROWS];
    if (mine) {
        score_block<BOTH>(x, s, w, *pair);
        hide_and_max(x, *rows, key + w * KEYS, s->max[w]);
    }
    if (last)
        arrive_warp(&s->q_empty);
    named_barrier(BOTH_MAX, WIDE_CONSUMERS);
    if (w == 0)
        arrive_warp(&s->empty[pair->slot]);
    move_on<BOTH>(rows, s, unit, keep);
    if (mine)
        leave_weights(x, *rows, unit, s, w);
    scale_sums(c, keep);
    fence_async_proxy(); // the weights
    named_barrier(BOTH_WEIGHTS, WIDE_CONSUMERS);
    keep_sums(c);
    if (BOTH) {
        add_values<BOTH>(c, s, w, w, *pair);
        add_values<BOTH>(c, s, w, 1 - w, *pair);
        release<BOTH, 3>(s, w, w, 0, *pair);
        add_weights(rows, s, w, mine);
        release<BOTH, 2>(s, w, w, 1, *pair);
        release<BOTH, 1>(s, w, 1 - w, 0, *pair);
        release<BOTH, 0>(s, w, 1 - w, 1, *pair);
    } else {
        add_values<BOTH>(c, s, w, 0, *pair);
        release<BOTH, 1>(s, w, 0, 0, *pair);
        add_weights(rows, s, w, mine);
        release<BOTH, 0>(s, w, 0, 1, *pair);
    }
    keep_sums(c);
    *pair = pair->after(PAIR_UNITS<BOTH>);
}

// ---- ends of splits

using decode_states = softmax_state[THREAD_ROWS];

// The state of the thread's rows over the split. All of both warpgroups call it.
__device__ __forceinline__ void split_states(decode_shared *s, const decode_rows &rows, int w,
                                             float scale, decode_states &state)
{
    if (adds_weights()) {
        float sum = rows.sum;
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (threadIdx.x % 4 == 0)
            s->sum[w][added_row()] = sum;
    }
    named_barrier(BOTH_SUMS, WIDE_CONSUMERS);
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = decode_rows::row(i);
        // Rounded: combine_splits reads it from memory.
        state[i] = {__fmul_rn(rows.max[i], scale), s->sum[0][row] + s->sum[1][row]};
    }
}

// A split that is an item of its own: to scratch memory.
__device__ inline void leave_split(const forward_plan &plan, const tile_rows &t,
                                   const decode_states &state, const decode_sums &c, int w,
                                   int split)
{
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = decode_rows::row(i);
        if (row >= t.count)
            continue;
        const size_t at = (t.base + static_cast<size_t>(row)) * static_cast<size_t>(plan.splits) +
                          static_cast<size_t>(split);
        float *const sums = plan.sums + at * WIDE_R + w * (WIDE_R / 2);
#pragma unroll
        for (int j = 0; j < HALF_STRIPS; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                sums[j * STRIP_COLUMNS + line_of(h)] = c[j][element_of_row(i, h)];
        if (threadIdx.x < 4)
            plan.state[at] = state[i];
    }
}

// The first one is the total.
__device__ __forceinline__ void copy_sums(decode_states &total, decode_sums &sums,
                                          const decode_states &state, const decode_sums &c)
{
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++)
        total[i] = state[i];
#pragma unroll
    for (int j = 0; j < HALF_STRIPS; j++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            sums[j][i] = c[j][i];
}

// A split of an item that has them all, which is not its first: into the total.
__device__ __forceinline__ void take_split(const decode_states &state, const decode_sums &c,
                                           decode_states &total, decode_sums &sums)
{
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const merge_factors f = merge_states(&total[i], state[i]);
#pragma unroll
        for (int j = 0; j < HALF_STRIPS; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int at = element_of_row(i, h);
                sums[j][at] = merge_values(f, sums[j][at], c[j][at]);
            }
    }
}

__device__ inline void store_outputs(const attention_args &a, const tile_rows &t,
                                     const decode_states &total, const decode_sums &sums, int w)
{
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; i++) {
        const int row = decode_rows::row(i);
        if (row >= t.count)
            continue;
        const size_t at = t.base + static_cast<size_t>(row);
        const float inverse = 1.0f / total[i].sum;
        bf16 *const out = static_cast<bf16 *>(a.out) + at * WIDE_R + w * (WIDE_R / 2);
#pragma unroll
        for (int j = 0; j < HALF_STRIPS; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                out[j * STRIP_COLUMNS + line_of(h)] =
                    __float2bfloat16_rn(sums[j][element_of_row(i, h)] * inverse);
        if (a.lse && threadIdx.x < 4)
            a.lse[at] = log_sum(total[i]);
    }
}

// ---- the two warpgroups

__device__ inline void attend_item(const forward_plan &plan, const wide_item &item,
                                   decode_shared *s, int w, ring_place *pair)
{
    const attention_args &a = plan.a;
    decode_rows rows;
    decode_states total;
    decode_sums sums;
    rows.start(item.t, a.shape.H);
    for (int key = item.begin; key < item.end;) {
        const int end = key + SPLIT_KEYS < item.end ? key + SPLIT_KEYS : item.end;
        const int split = key / SPLIT_KEYS;
        decode_sums c = {};
        decode_states state;
        rows.start_split();
        for (; key + KEYS < end; key += PAIR)
            attend_pair<true>(a, s, w, key, key + PAIR >= item.end, &rows, c, pair);
        if (key < end)
            attend_pair<false>(a, s, w, key, true, &rows, c, pair);
        key = end;
        split_states(s, rows, w, a.shape.scale, state);
        if (plan.splits > 1)
            leave_split(plan, item.t, state, c, w, split);
        else if (split > 0)
            take_split(state, c, total, sums);
        else
            copy_sums(total, sums, state, c);
    }
    if (plan.splits == 1)
        store_outputs(a, item.t, total, sums, w);
}

__device__ inline void decode_consume(const forward_plan &plan, decode_shared *s, int w)
{
    ring_place pair;
    uint32_t q_phase = 0;
    for (;;) {
        mbarrier_wait(&s->item_full, q_phase);
        const wide_item item = s->item;
        if (item.t.count == 0)
            return;
        wait_strips(&s->q_full, q_phase);
        q_phase ^= 1;
        attend_item(plan, item, s, w, &pair);
    }
}

#endif // HOPPER_CODE

__global__ void __launch_bounds__(WIDE_THREADS, 1) decode_wgmma(const forward_plan plan)
{
#if HOPPER_CODE
    let_next_begin(); // combine_splits, which waits
    decode_shared *const s = dynamic_shared<decode_shared>();
    init_barriers(s);
    __syncthreads();
    // The same in all lanes, as far as the compiler can see.
    const int w = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    if (w < 2)
        decode_consume(plan, s, w);
    else
        decode_produce(plan, s);
#endif
}

// ---- host side

int attend_decode(struct device *dev, const struct attention_args *a)
{
    struct forward_plan plan;
    // Planned as for tiles of WIDE_ROWS rows: there are no more of these, for a query fits in one,
    // and two of them for each multiprocessor need no splits, for totals stay in registers.
    int rc = plan_forward(dev, a, WIDE_ROWS, &plan);
    if (rc)
        return rc;
    const size_t items = static_cast<size_t>(plan.tiles) * static_cast<size_t>(plan.splits);
    const size_t sms = static_cast<size_t>(dev->cuda->num_sms);
    rc = launch_early(dev, dim3(static_cast<unsigned int>(items < sms ? items : sms)),
                      dim3(WIDE_THREADS), sizeof(decode_shared), decode_wgmma, plan);
    return rc ? rc : combine_splits<bf16>(dev, plan);
}

} // namespace attention
