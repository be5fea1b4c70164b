// SPDX-License-Identifier: Apache-2.0
// Latent attention in bfloat16 on Hopper, R = 512 and Dr = 64: the algorithm of attention.cu by
// wgmma.
//
// Theory of operation. A block of threads has a tile of rows, whose outputs [64,512] stand in the
// registers of two warpgroups, 256 columns each, and walks over blocks of 64 keys counted from
// position 0. Warpgroup w owns every other block. Of its own it
//   1. computes the scores,
//   2. and, with the largest score that the other left for the blocks before, the weights; leaves
//      them as bfloat16 where the block had its Dr columns, and the new largest score,
//   3. scales its sums and adds the block's weighted values to its columns;
// of the other's it does step 3 alone, with the weights that were left. So one warpgroup's softmax
// runs under the other's products.
// A third warpgroup copies: blocks go round a ring of slots, each in two halves of the columns,
// filled again when the warpgroup whose columns they are has added them. Blocks of threads go from
// item to item, a tile or a split of one, and copies run ahead of the products.
//
// Products have 64 rows always, and a row goes through the same instructions whatever it is batched
// with. Tiles of 16 rows, for decoding, have memory for 16 rows of queries and so for more keys:
// the products read on, into the keys, and what comes of those rows is not used. Keys that a row
// may not see have weight 0, which changes no sum.
#include "kernels/cuda/attention_wide.cuh"

namespace attention
{

constexpr int PAIR = 2 * KEYS;
constexpr int HALF_STRIPS = VALUE_STRIPS / 2, VALUE_BYTES = VALUE_STRIPS * STRIP_BYTES;
static_assert(SPLIT_KEYS % PAIR == 0, "a split begins with a block of the first warpgroup");

struct wide_item {
    tile_rows t; // count 0: there are no more
    int begin, end;
};

template <int ROWS> struct wide_shared {
    static constexpr int SLOTS = ROWS < WIDE_ROWS ? 3 : 2;
    unsigned char q[STRIPS][ROWS * ROW_BYTES];
    unsigned char values[SLOTS][VALUE_BYTES], rest[2][STRIP_BYTES]; // rest: of Dr, then weights
    // Of a slot: the first half of its values; the second and the rest.
    mbarrier full[SLOTS][2], empty[SLOTS][2], rest_empty[2];
    mbarrier weights[2], q_full, q_empty;
    // Of a warpgroup's latest block: the largest score up to it, and what it scales sums by.
    float max[2][ROWS], keep[2][ROWS];
    float sum[2][2][ROWS]; // of splits by turns, of a warpgroup
    wide_item item;        // comes with q
    int merge;
};
static_assert(sizeof(wide_shared<16>) <= 227 * 1024 && sizeof(wide_shared<WIDE_ROWS>) <= 227 * 1024,
              "shared memory of a block on Hopper");

#if HOPPER_CODE

template <int ROWS> __device__ inline void init_barriers(wide_shared<ROWS> *s)
{
    if (threadIdx.x > 0)
        return;
    const int warps = WARPGROUP / WARP;
    for (int b = 0; b < s->SLOTS; b++)
        for (int u = 0; u < 2; u++) {
            mbarrier_init(&s->full[b][u], WARPGROUP);
            mbarrier_init(&s->empty[b][u], warps);
        }
    for (int w = 0; w < 2; w++) {
        mbarrier_init(&s->rest_empty[w], warps);
        mbarrier_init(&s->weights[w], warps);
    }
    mbarrier_init(&s->q_full, WARPGROUP + 1); // and the item's writer
    mbarrier_init(&s->q_empty, 2 * warps);
    mbarrier_init_done();
}

// Where a block stands in the rings, and the parity of the phase in which it is filled.
template <int SLOTS> struct ring_place {
    int slot = 0, rest = 0;
    uint32_t phase = 0, rest_phase = 0;

    __device__ __forceinline__ void next()
    {
        slot = slot + 1 < SLOTS ? slot + 1 : 0;
        phase ^= slot == 0;
        rest ^= 1;
        rest_phase ^= rest == 0;
    }
};

// ---- items

// A warp's walk over the items: tiles, or their splits, of the last sequence first, and of its last
// tile, which sees the most keys.
struct item_finder {
    int group = 0, before = 0; // sequences passed, and their items

    // Item `want`, which is none before the last one found. False when there are fewer.
    template <int ROWS>
    __device__ __forceinline__ bool find(const wide_plan &plan, int want, wide_item *item)
    {
        const attention_args &a = plan.a;
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        for (; group < a.num_seqs; group += WARP) {
            const int n = a.num_seqs - 1 - group - lane;
            attention_seq seq = {0, 0, 0, 0};
            if (n >= 0)
                seq = a.seqs[n];
            const int tiles = (seq.len * a.H + ROWS - 1) / ROWS;
            const int splits = plan.splits > 1 ? splits_of(seq.pos + seq.len) : 1;
            int upto = tiles * splits;
            for (int d = 1; d < WARP; d *= 2) {
                const int x = __shfl_up_sync(ALL_LANES, upto, static_cast<unsigned int>(d));
                upto += lane >= d ? x : 0;
            }
            const unsigned int reached = __ballot_sync(ALL_LANES, want - before < upto);
            if (reached == 0) {
                before += __shfl_sync(ALL_LANES, upto, WARP - 1);
                continue;
            }
            const int from = __ffs(static_cast<int>(reached)) - 1;
            const int i = want - before - __shfl_sync(ALL_LANES, upto - tiles * splits, from);
            const int of_tile = __shfl_sync(ALL_LANES, splits, from);
            const int tile = __shfl_sync(ALL_LANES, tiles, from) - 1 - i / of_tile;
            seq.query = __shfl_sync(ALL_LANES, seq.query, from);
            seq.len = __shfl_sync(ALL_LANES, seq.len, from);
            seq.pos = __shfl_sync(ALL_LANES, seq.pos, from);
            seq.block = __shfl_sync(ALL_LANES, seq.block, from);
            item->t = rows_of_tile(seq, tile, ROWS, a.H);
            item->begin = i % of_tile * SPLIT_KEYS;
            item->end = item->t.keys;
            if (plan.splits > 1 && item->begin + SPLIT_KEYS < item->end)
                item->end = item->begin + SPLIT_KEYS;
            return true;
        }
        return false;
    }
};

// ---- copies

// Starts copying a block of keys to its slot.
template <int ROWS>
__device__ __forceinline__ void produce_block(const strip_source<WIDE_D> &from,
                                              wide_shared<ROWS> *s,
                                              ring_place<wide_shared<ROWS>::SLOTS> *at)
{
    unsigned char *const values = s->values[at->slot];
    mbarrier_wait(&s->empty[at->slot][0], at->phase ^ 1);
    from.load_to<HALF_STRIPS>(values, 0);
    arrive_strips(&s->full[at->slot][0], from.aligned());
    mbarrier_wait(&s->empty[at->slot][1], at->phase ^ 1);
    mbarrier_wait(&s->rest_empty[at->rest], at->rest_phase ^ 1);
    from.load_to<HALF_STRIPS>(values + HALF_STRIPS * STRIP_BYTES, HALF_STRIPS);
    from.load_to<STRIPS - VALUE_STRIPS>(s->rest[at->rest], VALUE_STRIPS);
    arrive_strips(&s->full[at->slot][1], from.aligned());
    at->next();
}

template <int ROWS>
__device__ __forceinline__ void produce_keys(const wide_plan &plan, const wide_item &item,
                                             int begin, int end, wide_shared<ROWS> *s,
                                             ring_place<wide_shared<ROWS>::SLOTS> *at)
{
    const void *const *const blocks = plan.a.kv_blocks + item.t.blocks_at;
    const void *block = begin < end ? blocks[begin / KEYS] : nullptr;
    for (int key = begin; key < end; key += KEYS) {
        const void *const next = key + KEYS < end ? blocks[key / KEYS + 1] : nullptr;
        const strip_source<WIDE_D> from = {static_cast<const bf16 *>(block), item.end - key};
        produce_block(from, s, at);
        block = next;
    }
}

// Gives the consumers an item, and its queries when there are any.
template <int ROWS>
__device__ __forceinline__ void produce_queries(const wide_plan &plan, const wide_item &item,
                                                wide_shared<ROWS> *s, uint32_t *phase)
{
    const strip_source<WIDE_D> q = {static_cast<const bf16 *>(plan.a.q) + item.t.base * WIDE_D,
                                    item.t.count};
    mbarrier_wait(&s->q_empty, *phase ^ 1);
    *phase ^= 1;
    if (threadIdx.x % WARPGROUP == 0) {
        s->item = item;
        mbarrier_arrive(&s->q_full);
    }
    if (item.t.count > 0)
        q.load_to<STRIPS, ROWS>(s->q[0], 0);
    arrive_strips(&s->q_full, q.aligned());
}

// Item i of block b, of as many blocks as there are: to and fro, so that a block's items are large
// and small by turns.
__device__ __forceinline__ int wide_item_of(int i)
{
    const int blocks = static_cast<int>(gridDim.x), b = static_cast<int>(blockIdx.x);
    return i * blocks + (i % 2 ? blocks - 1 - b : b);
}

template <int ROWS> __device__ inline void wide_produce(const wide_plan &plan, wide_shared<ROWS> *s)
{
    constexpr int ahead = (wide_shared<ROWS>::SLOTS - 1) * KEYS;
    item_finder finder;
    ring_place<wide_shared<ROWS>::SLOTS> at;
    uint32_t phase = 0;
    wide_item item;
    for (int i = 0; finder.find<ROWS>(plan, wide_item_of(i), &item); i++)
        if (item.begin < item.end) {
            // The queries take the place of the last item's: what need not wait for that goes
            // first.
            const int first = item.end - item.begin < ahead ? item.end : item.begin + ahead;
            produce_keys(plan, item, item.begin, first, s, &at);
            produce_queries(plan, item, s, &phase);
            produce_keys(plan, item, first, item.end, s, &at);
        }
    item.t = {};
    produce_queries(plan, item, s, &phase);
}

// ---- products

// Scores [64,64] of a block: element 4 j + 2 h + e is row 8 h, column 8 j + 2 (lane % 4) + e of the
// thread's.
using wide_scores = float[KEYS / 2];

template <int ROWS>
__device__ __forceinline__ void score_block(wide_scores &x, wide_shared<ROWS> *s,
                                            const ring_place<wide_shared<ROWS>::SLOTS> &at)
{
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        x[i] = 0.0f;
    wgmma_keep(x);
#pragma unroll 1
    for (int i = 0; i < STRIPS; i++) {
        if (i % HALF_STRIPS == 0 && i < VALUE_STRIPS)
            wait_strips(&s->full[at.slot][i / HALF_STRIPS], at.phase);
        const unsigned char *const q = s->q[0] + i * (ROWS * ROW_BYTES);
        const unsigned char *const kv =
            i < VALUE_STRIPS ? s->values[at.slot] + i * STRIP_BYTES : s->rest[at.rest];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STRIP_COLUMNS; k += 16)
            wgmma<false, false>(x, strip_rows(q, k), strip_rows(kv, k));
        wgmma_commit();
    }
    wgmma_wait<0>();
    wgmma_keep(x);
}

// Hides the keys that a row does not see; the largest score of each row, in all of its threads.
__device__ __forceinline__ void hide_and_max(wide_scores &x, const thread_rows &rows, int key,
                                             float (&largest)[2])
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
        largest[h] = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
    }
}

// The largest score moves on with warpgroup w's own block; what the sums so far must be scaled by.
template <int ROWS>
__device__ __forceinline__ void move_on(thread_rows *rows, wide_shared<ROWS> *s, int w, float unit,
                                        const float (&largest)[2], float (&keep)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows->first + 8 * h;
        const float was = rows->max[h], now = fmaxf(was, largest[h]);
        keep[h] = was == -INFINITY ? 0.0f : exp2_approx((was - now) * unit);
        rows->max[h] = now;
        rows->sum[h] *= keep[h];
        if (threadIdx.x % 4 == 0)
            s->max[w][row] = now, s->keep[w][row] = keep[h];
    }
}

// The same with the other's block, which has been there.
template <int ROWS>
__device__ __forceinline__ void follow(thread_rows *rows, const wide_shared<ROWS> *s, int w,
                                       float (&keep)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = rows->first + 8 * h;
        keep[h] = s->keep[1 - w][row];
        rows->max[h] = s->max[1 - w][row];
        rows->sum[h] *= keep[h];
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
        // A row that sees nothing yet: all scores are -infinity, and so all weights 0.
        const float shift = rows->max[h] == -INFINITY ? 0.0f : -rows->max[h] * unit;
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

// To a strip, for the other warpgroup.
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

// The sums grow by weighted values [64,256] of a block. Weights from registers, or
// those of a strip.
__device__ __forceinline__ void add_own(wide_sums &c, const wide_weights &p,
                                        const unsigned char *values)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma_held<true>(c, p[i], strip_columns(values, 16 * i));
    wgmma_commit();
}

__device__ __forceinline__ void add_other(wide_sums &c, const unsigned char *weights,
                                          const unsigned char *values)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma<false, true>(c, strip_rows(weights, 16 * i), strip_columns(values, 16 * i));
    wgmma_commit();
}

__device__ __forceinline__ void arrive_warp(mbarrier *b)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0)
        mbarrier_arrive(b);
}

// What a warpgroup knows and has.
template <int ROWS> struct wide_state {
    wide_shared<ROWS> *s;
    int w;
    ring_place<wide_shared<ROWS>::SLOTS> at; // the next block
    uint32_t q_phase = 0, weights_phase = 0;
    int turn = 0; // of splits
    thread_rows rows;
    wide_sums c;
};

// Its own next block, which begins with `key`. last: of the item.
template <int ROWS>
__device__ __forceinline__ void attend_own(wide_state<ROWS> &m, float unit, int key, bool last)
{
    wide_shared<ROWS> *const s = m.s;
    wide_scores x;
    wide_weights p = {}; // of rows that are not there
    score_block(x, s, m.at);
    // The weights replace what all of its warps must have read.
    if (m.w == 0)
        named_barrier(OWN_SCORES, WARPGROUP);
    else
        named_barrier(OWN_SCORES + 1, WARPGROUP);
    if (last)
        arrive_warp(&s->q_empty);
    float keep[2];
    if (m.rows.any) {
        float largest[2];
        hide_and_max(x, m.rows, key, largest);
        move_on(&m.rows, s, m.w, unit, largest, keep);
        scores_to_weights(x, &m.rows, unit, p);
        leave_weights(p, m.rows, s->rest[m.at.rest]);
        fence_async_proxy();
    }
    arrive_warp(&s->weights[m.w]);
    if (m.rows.any)
        scale_sums(m.c, keep);
    wgmma_keep(m.c);
    add_own(m.c, p, s->values[m.at.slot] + m.w * HALF_STRIPS * STRIP_BYTES);
    wgmma_wait<0>();
    wgmma_keep(m.c);
    arrive_warp(&s->empty[m.at.slot][m.w]);
    m.at.next();
}

// The other's next block.
template <int ROWS> __device__ __forceinline__ void attend_other(wide_state<ROWS> &m)
{
    wide_shared<ROWS> *const s = m.s;
    mbarrier_wait(&s->weights[1 - m.w], m.weights_phase);
    m.weights_phase ^= 1;
    if (m.rows.any) {
        float keep[2];
        follow(&m.rows, s, m.w, keep);
        scale_sums(m.c, keep);
    }
    wait_strips(&s->full[m.at.slot][m.w], m.at.phase);
    wgmma_keep(m.c);
    add_other(m.c, s->rest[m.at.rest], s->values[m.at.slot] + m.w * HALF_STRIPS * STRIP_BYTES);
    wgmma_wait<0>();
    wgmma_keep(m.c);
    arrive_warp(&s->empty[m.at.slot][m.w]);
    arrive_warp(&s->rest_empty[m.at.rest]);
    m.at.next();
}

// The keys [begin, end) of one split.
template <int ROWS>
__device__ __forceinline__ void attend_split(wide_state<ROWS> &m, float unit, int begin, int end,
                                             int item_end)
{
    m.rows.start_split();
#pragma unroll
    for (int i = 0; i < HALF_SUMS; i++)
        m.c[i] = 0.0f;
    for (int key = begin; key < end; key += KEYS)
        if (key / KEYS % 2 == m.w)
            attend_own(m, unit, key, key + PAIR >= item_end);
        else
            attend_other(m);
}

// ---- ends of splits

// The state of the thread's rows over the split. All of both warpgroups call it.
template <int ROWS>
__device__ __forceinline__ void split_states(wide_state<ROWS> &m, float scale,
                                             softmax_state (&state)[2])
{
    float(*const sums)[ROWS] = m.s->sum[m.turn];
    m.turn ^= 1;
    if (m.rows.any)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = m.rows.sum[h];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            if (threadIdx.x % 4 == 0)
                sums[m.w][m.rows.first + 8 * h] = sum;
        }
    named_barrier(BOTH_SUMS, WIDE_CONSUMERS);
    if (m.rows.any)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = m.rows.first + 8 * h;
            // The product is rounded, not fused with what follows: merge_tile reads it from memory.
            state[h] = {__fmul_rn(m.rows.max[h], scale), sums[0][row] + sums[1][row]};
        }
}

// ---- the two warpgroups

template <int ROWS>
__device__ inline void attend_item(const wide_plan &plan, const wide_item &item,
                                   wide_state<ROWS> &m)
{
    const float unit = plan.a.scale * 1.44269504088896341f;
    softmax_state total[2] = {};
    m.rows.start(item.t, plan.a.H);
    int begin = item.begin;
    do { // there are keys, so that the compiler knows that no sums live on to the next item
        const int end = begin + SPLIT_KEYS < item.end ? begin + SPLIT_KEYS : item.end;
        attend_split(m, unit, begin, end, item.end);
        softmax_state state[2];
        split_states(m, plan.a.scale, state);
        if (m.rows.any && plan.splits > 1)
            leave_split(plan, item.t, m.rows, state, m.c, m.w, begin / SPLIT_KEYS);
        else if (m.rows.any)
            take_split(plan, state, total, m.c, begin / SPLIT_KEYS, end == item.end);
        begin = end;
    } while (begin < item.end);
    if (plan.splits > 1)
        merge_tile(plan, item.t, &m.s->merge);
    else if (m.rows.any)
        store_outputs(plan.a, item.t, m.rows, total, m.c, m.w);
}

template <int ROWS>
__device__ inline void wide_consume(const wide_plan &plan, wide_shared<ROWS> *s, int w)
{
    wide_state<ROWS> m;
    m.s = s;
    m.w = w;
    for (;;) {
        wait_strips(&s->q_full, m.q_phase);
        m.q_phase ^= 1;
        const wide_item item = s->item;
        if (item.t.count == 0)
            return;
        if (item.begin + w * KEYS >= item.end) // this warpgroup owns none
            arrive_warp(&s->q_empty);
        attend_item(plan, item, m);
    }
}

#endif // HOPPER_CODE

template <int ROWS>
__global__ void __launch_bounds__(WIDE_THREADS, 1) attend_wgmma(const wide_plan plan)
{
#if HOPPER_CODE
    wide_shared<ROWS> *const s = dynamic_shared<wide_shared<ROWS>>();
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

template <int ROWS> static int attend_tiles(struct device *dev, const struct attention_args *a)
{
    struct wide_plan plan = {};
    int rc = plan_forward(dev, a, ROWS, &plan);
    if (rc)
        return rc;
    const size_t items = static_cast<size_t>(plan.tiles) * static_cast<size_t>(plan.splits);
    const size_t sms = static_cast<size_t>(dev->cuda->num_sms);
    const size_t blocks = items < sms ? items : sms;
    if (plan.splits > 1)
        rc = scratch(dev, SCRATCH_ZEROED, &plan.left,
                     static_cast<size_t>(a->T) * static_cast<size_t>(a->H));
    else if (splits_of(a->max_keys) > 1)
        rc = scratch(dev, SCRATCH_OUTER, &plan.sums, blocks * WIDE_ROWS * WIDE_R);
    return rc ? rc
              : launch(dev, dim3(static_cast<unsigned int>(blocks)), dim3(WIDE_THREADS),
                       sizeof(wide_shared<ROWS>), attend_wgmma<ROWS>, plan);
}

int attend_wide(struct device *dev, const struct attention_args *a)
{
    const int few = 16; // rows: of one query as a rule
    return a->T <= a->num_seqs && a->H <= few ? attend_tiles<few>(dev, a)
                                              : attend_tiles<WIDE_ROWS>(dev, a);
}

} // namespace attention
