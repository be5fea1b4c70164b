// SPDX-License-Identifier: Apache-2.0
// Latent attention in bfloat16 on Hopper, R = 512 and Dr = 64: the algorithm of attention.cu by
// wgmma.
//
// Theory of operation. A block of threads has a tile of 64 rows, whose outputs [64,512] stand in
// the registers of two warpgroups, 256 columns each, and walks over the keys in pairs of blocks
// counted from position 0. In shared memory are the tile of queries and one pair. Warpgroup w
//   1. computes the scores of block w of the pair, and the largest of each row,
//   2. gets the largest of the other block, and computes weights relative to the largest so far,
//   3. leaves them as bfloat16 where block w had its Dr columns,
//   4. adds the weighted values of its own block, then those of the other, to its columns.
// A third warpgroup copies: the values that warpgroup w reads first in step 4 are one unit of its
// block, the rest is another, and a unit is filled again as soon as it has been read for the last
// time. Blocks of threads go from item to item, a tile or a split of one, and copies run ahead of
// the products.
//
// Every call has tiles of this one shape, and where a sequence has one query of few heads,
// attention_decode_wgmma.cu computes the same bits: a row goes through the same operations whatever
// it is batched with. Keys that a row may not see have weight 0, which changes no sum.
#include "kernels/cuda/attention_wgmma.cuh"

namespace attention
{

struct wide_shared {
    unsigned char q[TILE_BYTES], kv[2][TILE_BYTES];
    // Of a block's units: 0 has the values that its own warpgroup reads first, 1 the rest.
    mbarrier full[2][2], empty[2][2], q_full, q_empty, item_full;
    float max[2][WIDE_ROWS], sum[2][WIDE_ROWS];
    wide_item item; // free again when q is
};

#if HOPPER_CODE

constexpr int HALF_SUMS = WIDE_R / 4; // registers of a thread: [64,256] over a warpgroup

__device__ inline void init_barriers(wide_shared *s)
{
    if (threadIdx.x > 0)
        return;
    for (int b = 0; b < 2; b++)
        for (int u = 0; u < 2; u++) {
            mbarrier_init(&s->full[b][u], WARPGROUP);
            mbarrier_init(&s->empty[b][u], WARPGROUP / WARP);
        }
    mbarrier_init(&s->q_full, WARPGROUP);
    mbarrier_init(&s->item_full, 1);
    mbarrier_init(&s->q_empty, WIDE_CONSUMERS / WARP);
    mbarrier_init_done();
}

// ---- copies

// The parity of the next phase of the barriers of either block, and of q.
struct wide_phases {
    uint32_t bits = 0, q = 0;

    __device__ __forceinline__ uint32_t kv(int b) const { return bits >> b & 1; }
    __device__ __forceinline__ void next(bool both) { bits ^= both ? 3 : 1; }
};

// Unit u of block b of a pair.
template <int b, int u>
__device__ __forceinline__ void produce_unit(const strip_source<WIDE_D> &from, wide_shared *s,
                                             uint32_t phase)
{
    mbarrier_wait(&s->empty[b][u], phase ^ 1);
    constexpr int first = (b + u) % 2 * HALF_STRIPS;
    from.load<HALF_STRIPS>(s->kv[b] + first * STRIP_BYTES, first);
    if (u == 1)
        from.load<STRIPS - VALUE_STRIPS>(s->kv[b] + VALUE_STRIPS * STRIP_BYTES, VALUE_STRIPS);
    arrive_strips(&s->full[b][u], from.aligned());
}

// Gives the consumers an item, and its queries when there are any.
__device__ __forceinline__ void produce_queries(const forward_plan &plan, const wide_item &item,
                                                wide_shared *s, wide_phases *phase)
{
    const strip_source<WIDE_D> q = {static_cast<const bf16 *>(plan.a.q) + item.t.base * WIDE_D,
                                    item.t.count};
    mbarrier_wait(&s->q_empty, phase->q ^ 1);
    phase->q ^= 1;
    if (threadIdx.x % WARPGROUP == 0) {
        s->item = item;
        mbarrier_arrive(&s->item_full);
    }
    if (item.t.count == 0)
        return;
    q.load<STRIPS>(s->q, 0);
    arrive_strips(&s->q_full, q.aligned());
}

__device__ __forceinline__ void produce_keys(const forward_plan &plan, const wide_item &item,
                                             wide_shared *s, wide_phases *phase)
{
    const void *const *const blocks = plan.a.kv_blocks + item.t.blocks_at;
    for (int key = item.begin; key < item.end; key += PAIR) {
        const bool both = key + KEYS < item.end;
        const strip_source<WIDE_D> even = {static_cast<const bf16 *>(blocks[key / KEYS]),
                                           item.end - key};
        const strip_source<WIDE_D> odd = {both ? static_cast<const bf16 *>(blocks[key / KEYS + 1])
                                               : nullptr,
                                          item.end - key - KEYS};
        produce_unit<0, 0>(even, s, phase->kv(0));
        if (both)
            produce_unit<1, 0>(odd, s, phase->kv(1));
        produce_unit<0, 1>(even, s, phase->kv(0));
        if (both)
            produce_unit<1, 1>(odd, s, phase->kv(1));
        phase->next(both);
    }
}

__device__ inline void wide_produce(const forward_plan &plan, wide_shared *s)
{
    item_finder finder;
    wide_phases phase;
    wide_item item;
    for (int i = 0; finder.find<WIDE_ROWS>(plan, wide_item_of(i), &item); i++)
        if (item.begin < item.end) {
            produce_queries(plan, item, s, &phase);
            produce_keys(plan, item, s, &phase);
        }
    item.t = {};
    produce_queries(plan, item, s, &phase);
}

// ---- products

// What a thread knows of its two rows, 8 apart, of the 16 of its warp: keys they see, and of the
// split so far the largest score (before the scale) and the sum of its own keys' weights.
struct thread_rows {
    int first; // the upper one
    int keys[2];
    float max[2], sum[2];
    bool any; // of the warp's rows

    __device__ __forceinline__ void start(const tile_rows &t, int H)
    {
        first = static_cast<int>(threadIdx.x) % WARPGROUP / WARP * 16;
        any = first < t.count;
        first += fragment_row(0);
        for (int h = 0; h < 2; h++)
            keys[h] = keys_of_row(t, first + 8 * h, H);
    }
    __device__ __forceinline__ void start_split()
    {
        for (int h = 0; h < 2; h++)
            max[h] = -INFINITY, sum[h] = 0.0f;
    }
};

// Scores [64,64] of block w for warpgroup w: element 4 j + 2 h + e is row 8 h, column 8 j + 2 (lane
// % 4) + e of the thread's. Terms in the order of the units, then the Dr columns.
using wide_scores = float[KEYS / 2];

__device__ __forceinline__ void score_block(wide_scores &x, wide_shared *s, int w, uint32_t phase)
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        x[i] = 0.0f;
    wgmma_keep(x);
#pragma unroll 1
    for (int i = 0; i < STRIPS; i++) {
        const int strip = i < VALUE_STRIPS ? (i + w * HALF_STRIPS) % VALUE_STRIPS : i;
        if (i % HALF_STRIPS == 0 && i < VALUE_STRIPS)
            wait_strips(&s->full[w][i / HALF_STRIPS], phase);
        const unsigned char *const q = s->q + strip * STRIP_BYTES;
        const unsigned char *const kv = s->kv[w] + strip * STRIP_BYTES;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STRIP_COLUMNS; k += 16)
            wgmma<false, false>(x, strip_rows(q, k), strip_rows(kv, k));
        wgmma_commit();
    }
    wgmma_wait<0>();
    wgmma_keep(x);
}

// Hides the keys that a row does not see; the largest score of each row to shared memory.
__device__ __forceinline__ void hide_and_max(wide_scores &x, const thread_rows &rows, int key,
                                             float *largest)
{
    if (!__all_sync(ALL_LANES, key + KEYS <= rows.keys[0])) // the upper row sees fewer
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            const int column = i / 4 * 8 + fragment_column(i);
            if (key + column >= rows.keys[i / 2 % 2])
                x[i] = -INFINITY;
        }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = -INFINITY;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
            most = fmaxf(most, fmaxf(x[4 * j + 2 * h], x[4 * j + 2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        if (threadIdx.x % 4 == 0)
            largest[rows.first + 8 * h] = most;
    }
}

// The largest score moves on; what the sums so far must be scaled by.
__device__ __forceinline__ void move_on(thread_rows *rows, const wide_shared *s, bool both,
                                        float unit, float (&keep)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows->first + 8 * h;
        float now = fmaxf(rows->max[h], s->max[0][row]);
        if (both)
            now = fmaxf(now, s->max[1][row]);
        keep[h] = kept_part(rows->max[h], now, unit);
        rows->max[h] = now;
        rows->sum[h] = __fmul_rn(rows->sum[h], keep[h]); // not fused: as in decode
    }
}

// p = 2^(unit (s - max)), unit being scale log2(e): as left operands, two elements in each. Operand
// 4 i + r is register r of terms [16 i, 16 i + 16).
using wide_weights = uint32_t[KEYS / 16][4];

__device__ __forceinline__ void scores_to_weights(const wide_scores &x, thread_rows *rows,
                                                  float unit, wide_weights &p)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float shift = weight_shift(rows->max[h], unit);
        float sum = rows->sum[h];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const float p0 = exp2_approx(fmaf(x[4 * j + 2 * h], unit, shift));
            const float p1 = exp2_approx(fmaf(x[4 * j + 2 * h + 1], unit, shift));
            sum += p0;
            sum += p1;
            p[j / 2][j % 2 * 2 + h] = bf16_pair(p0, p1);
        }
        rows->sum[h] = sum;
    }
}

// To the strip of Dr columns of the block, for the other warpgroup.
__device__ __forceinline__ void leave_weights(const wide_weights &p, const thread_rows &rows,
                                              unsigned char *strip)
{
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *reinterpret_cast<uint32_t *>(strip_vector(strip, rows.first + 8 * h, j) +
                                          threadIdx.x % 4 * sizeof(uint32_t)) =
                p[j / 2][j % 2 * 2 + h];
}

// Sums [64,256] of a warpgroup: element 4 j + 2 h + e as in wide_scores.
using wide_sums = float[HALF_SUMS];

__device__ __forceinline__ void scale_sums(wide_sums &c, const float (&keep)[2])
{
    if (__all_sync(ALL_LANES, keep[0] == 1.0f && keep[1] == 1.0f))
        return;
#pragma unroll
    for (int j = 0; j < HALF_SUMS / 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            c[4 * j + i] *= keep[i / 2];
}

// The sums grow by the values of the warpgroup's own block: weights p from registers.
__device__ __forceinline__ void add_own(wide_sums &c, const wide_weights &p, const wide_shared *s,
                                        int w)
{
    const unsigned char *const values = s->kv[w] + w * HALF_STRIPS * STRIP_BYTES;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma_held<true>(c, p[i], strip_columns(values, 16 * i));
    wgmma_commit();
}

// By those of the other's, which has left its weights.
__device__ __forceinline__ void add_other(wide_sums &c, wide_shared *s, int w, uint32_t phase)
{
    const unsigned char *const tile = s->kv[1 - w];
    const unsigned char *const values = tile + w * HALF_STRIPS * STRIP_BYTES;
    wait_strips(&s->full[1 - w][1], phase);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma<false, true>(c, strip_rows(tile + VALUE_STRIPS * STRIP_BYTES, 16 * i),
                           strip_columns(values, 16 * i));
    wgmma_commit();
}

// One pair of blocks, or (not BOTH) the even block alone. w: the warpgroup; last: of the item.
template <bool BOTH>
__device__ __forceinline__ void attend_pair(const attention_args &a, wide_shared *s, int w, int key,
                                            bool last, thread_rows *rows, wide_sums &c,
                                            wide_phases *phase)
{
    const float unit = softmax_unit(a.shape.scale);
    const bool mine = BOTH || w == 0;
    wide_scores x;
    wide_weights p = {}; // of rows that are not there
    float keep[2];
    if (mine) {
        score_block(x, s, w, phase->kv(w));
        if (rows->any)
            hide_and_max(x, *rows, key + w * KEYS, s->max[w]);
    }
    if (last)
        arrive_warp(&s->q_empty);
    named_barrier(BOTH_MAX, WIDE_CONSUMERS);
    if (rows->any) {
        move_on(rows, s, BOTH, unit, keep);
        if (mine) {
            scores_to_weights(x, rows, unit, p);
            leave_weights(p, *rows, s->kv[w] + VALUE_STRIPS * STRIP_BYTES);
        }
        scale_sums(c, keep);
    }
    fence_async_proxy(); // the weights
    wgmma_keep(c);
    if (BOTH) {
        add_own(c, p, s, w);
        named_barrier(BOTH_WEIGHTS, WIDE_CONSUMERS);
        add_other(c, s, w, phase->kv(1 - w));
        wgmma_wait<1>();
        arrive_warp(&s->empty[w][0]);
        wgmma_wait<0>();
        arrive_warp(&s->empty[1 - w][1]);
    } else {
        named_barrier(BOTH_WEIGHTS, WIDE_CONSUMERS);
        if (w == 0)
            add_own(c, p, s, w);
        else
            add_other(c, s, w, phase->kv(0));
        wgmma_wait<0>();
        arrive_warp(&s->empty[0][w]);
    }
    wgmma_keep(c);
    phase->next(BOTH);
}

// ---- ends of splits

// The state of the thread's rows over the split. All of both warpgroups call it.
__device__ __forceinline__ void split_states(wide_shared *s, const thread_rows &rows, int w,
                                             float scale, softmax_state (&state)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = rows.sum[h];
        sum += __shfl_xor_sync(ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        if (threadIdx.x % 4 == 0)
            s->sum[w][rows.first + 8 * h] = sum;
    }
    named_barrier(BOTH_SUMS, WIDE_CONSUMERS);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows.first + 8 * h;
        // The product is rounded, not fused with what follows: combine_splits reads it from memory.
        state[h] = {__fmul_rn(rows.max[h], scale), s->sum[0][row] + s->sum[1][row]};
    }
}

// A split that is an item of its own: to scratch memory.
__device__ inline void leave_split(const forward_plan &plan, const tile_rows &t,
                                   const thread_rows &rows, const softmax_state (&state)[2],
                                   const wide_sums &c, int w, int split)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows.first + 8 * h;
        if (row >= t.count)
            continue;
        const size_t at = (t.base + static_cast<size_t>(row)) * static_cast<size_t>(plan.splits) +
                          static_cast<size_t>(split);
        float *const sums = plan.sums + at * WIDE_R + w * (WIDE_R / 2) + fragment_column(0);
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j++)
            *reinterpret_cast<float2 *>(sums + 8 * j) =
                make_float2(c[4 * j + 2 * h], c[4 * j + 2 * h + 1]);
        if (w == 0 && fragment_column(0) == 0)
            plan.state[at] = state[h];
    }
}

// A split of an item that has them all: into the total, which each thread keeps in its own part of
// the block's scratch memory.
__device__ inline void take_split(const forward_plan &plan, const softmax_state (&state)[2],
                                  softmax_state (&total)[2], wide_sums &c, int split, bool last)
{
    float4 *const totals = reinterpret_cast<float4 *>(plan.sums) +
                           static_cast<size_t>(blockIdx.x) * (HALF_SUMS / 4 * WIDE_CONSUMERS) +
                           threadIdx.x;
    if (split == 0) {
        total[0] = state[0], total[1] = state[1];
    } else {
        const merge_factors f[2] = {merge_states(&total[0], state[0]),
                                    merge_states(&total[1], state[1])};
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j++) {
            const float4 x = totals[j * WIDE_CONSUMERS];
            c[4 * j] = merge_values(f[0], x.x, c[4 * j]);
            c[4 * j + 1] = merge_values(f[0], x.y, c[4 * j + 1]);
            c[4 * j + 2] = merge_values(f[1], x.z, c[4 * j + 2]);
            c[4 * j + 3] = merge_values(f[1], x.w, c[4 * j + 3]);
        }
    }
    if (last)
        return;
#pragma unroll
    for (int j = 0; j < HALF_SUMS / 4; j++)
        totals[j * WIDE_CONSUMERS] =
            make_float4(c[4 * j], c[4 * j + 1], c[4 * j + 2], c[4 * j + 3]);
}

__device__ __forceinline__ void store_pairs(bf16 *to, bool vector, const uint32_t (&pair)[4])
{
    if (vector) {
        *reinterpret_cast<uint4 *>(to) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = __ushort_as_bfloat16(static_cast<unsigned short>(pair[i / 2] >> 16 * (i % 2)));
}

// Outputs of a thread's two rows; four neighbouring lanes exchange theirs, so that lane q has eight
// columns together. All lanes of the warp call it.
__device__ inline void store_outputs(const attention_args &a, const tile_rows &t,
                                     const thread_rows &rows, const softmax_state (&total)[2],
                                     const wide_sums &c, int w)
{
    bf16 *const out = static_cast<bf16 *>(a.out) + t.base * WIDE_R + w * (WIDE_R / 2);
    const bool vectors = reinterpret_cast<uintptr_t>(out) % 16 == 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows.first + 8 * h;
        const float inverse = 1.0f / total[h].sum;
        bf16 *const to = out + row * WIDE_R;
#pragma unroll
        for (int j = 0; j < HALF_SUMS / 4; j += 4) {
            uint32_t pair[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                pair[i] = bf16_pair(c[4 * (j + i) + 2 * h] * inverse,
                                    c[4 * (j + i) + 2 * h + 1] * inverse);
            quad_transpose(pair);
            if (row < t.count)
                store_pairs(to + 8 * (j + static_cast<int>(threadIdx.x) % 4), vectors, pair);
        }
        if (a.lse && row < t.count && w == 0 && threadIdx.x % 4 == 0)
            a.lse[t.base + static_cast<size_t>(row)] = log_sum(total[h]);
    }
}

// ---- the two warpgroups

__device__ inline void attend_item(const forward_plan &plan, const wide_item &item, wide_shared *s,
                                   int w, wide_phases *phase)
{
    const attention_args &a = plan.a;
    thread_rows rows;
    softmax_state total[2];
    wide_sums c;
    rows.start(item.t, a.shape.H);
    for (int key = item.begin; key < item.end;) {
        const int end = key + SPLIT_KEYS < item.end ? key + SPLIT_KEYS : item.end;
        const int split = key / SPLIT_KEYS;
        rows.start_split();
#pragma unroll
        for (int i = 0; i < HALF_SUMS; i++)
            c[i] = 0.0f;
        for (; key + KEYS < end; key += PAIR)
            attend_pair<true>(a, s, w, key, key + PAIR >= item.end, &rows, c, phase);
        if (key < end)
            attend_pair<false>(a, s, w, key, true, &rows, c, phase);
        key = end;
        softmax_state state[2];
        split_states(s, rows, w, a.shape.scale, state);
        if (!rows.any)
            continue;
        if (plan.splits > 1)
            leave_split(plan, item.t, rows, state, c, w, split);
        else
            take_split(plan, state, total, c, split, key >= item.end);
    }
    if (rows.any && plan.splits == 1)
        store_outputs(a, item.t, rows, total, c, w);
}

__device__ inline void wide_consume(const forward_plan &plan, wide_shared *s, int w)
{
    wide_phases phase;
    for (;;) {
        mbarrier_wait(&s->item_full, phase.q);
        const wide_item item = s->item;
        if (item.t.count == 0)
            return;
        wait_strips(&s->q_full, phase.q);
        phase.q ^= 1;
        attend_item(plan, item, s, w, &phase);
    }
}

#endif // HOPPER_CODE

__global__ void __launch_bounds__(WIDE_THREADS, 1) attend_wgmma(const forward_plan plan)
{
#if HOPPER_CODE
    wide_shared *const s = dynamic_shared<wide_shared>();
    init_barriers(s);
    __syncthreads();
    // The same in all lanes, as far as the compiler can see.
    const int w = __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    if (w < 2) {
        registers_raise<232>();
        wide_consume(plan, s, w);
    } else {
        registers_lower<40>();
        wide_produce(plan, s);
    }
#endif
}

// ---- host side

int attend_wide(struct device *dev, const struct attention_args *a)
{
    if (a->T <= a->num_seqs && a->shape.H <= DECODE_ROWS)
        return attend_decode(dev, a);
    struct forward_plan plan;
    int rc = plan_forward(dev, a, WIDE_ROWS, &plan);
    if (rc)
        return rc;
    const size_t items = static_cast<size_t>(plan.tiles) * static_cast<size_t>(plan.splits);
    const size_t sms = static_cast<size_t>(dev->cuda->num_sms);
    const size_t blocks = items < sms ? items : sms;
    if (plan.splits == 1 && splits_of(a->max_keys) > 1)
        rc = scratch(dev, SCRATCH_OUTER, &plan.sums, blocks * WIDE_ROWS * WIDE_R);
    if (rc == 0)
        rc = launch(dev, dim3(static_cast<unsigned int>(blocks)), dim3(WIDE_THREADS),
                    sizeof(wide_shared), attend_wgmma, plan);
    return rc ? rc : combine_splits<bf16>(dev, plan);
}

} // namespace attention
