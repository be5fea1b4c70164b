// SPDX-License-Identifier: Apache-2.0
// Backward of attention over packed sequences (MATH.md): with p recomputed from the stored
// log-sum-exp, per key block and group of queries
//   ds = scale p (dout v^T - dout . out),  dq += ds k,  dk += ds^T q,  dv += p^T dout.
//
// Theory of operation. A family is a sequence and those whose prefix it is. Whole, with one part of
// the keys, it is one item. One larger than a fair share of a rank is cut into its sequences; and
// a sequence that still is, into items over its key blocks, which give dkv, and items over its
// queries, which give dq: both compute the same p and ds. What a sequence adds to the keys of its
// prefix, its share, is summed on its own and then added, in the order of the sequences: at once
// within an item, else when all items are done. So every sum keeps its order, and the cut does not
// show in the bits.
#include "base/mem.h"
#include "kernels/cpu/fast_attention.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_ROWS   64 // rows of a group of queries
#define QUERY_GROUPS 4  // of an item that gives dq alone

struct grad_item {
    int seq, part;
    int key_begin, key_end; // key blocks
    int first, end;         // queries
    bool dq, dkv;
    int followers; // sequences after it that are done as well: they continue it
};

struct grad_job {
    struct device *dev;
    const struct attention_grad_args *a;
    struct grad_item *items;
    double *cost; // [num_items+1]
    int num_items;
    float *dkv; // [N,row]: a->dkv, or what is rounded to it
    float *shares;
    ptrdiff_t *share_at; // [num_seqs] in shares: [keys of the prefix,row]; negative: not there
};

// Scratch of a rank. Of the key blocks of an item, one after the other; of the group of queries at
// hand. Operands of products that lie in the arrays themselves need none.
struct grad_work {
    float *keys_t;                   // [blocks] of keys_floats: keys, and values that are no keys
    float *kv;                       // [blocks] of rows_floats: widened rows, or packed keys
    struct attention_values *values; // [blocks] keys as B of a product
    float *q, *dout;                 // [rows,Dk] and [rows,Dv]
    void *q_b, *dout_b;              // and packed by pairs of rows
    float *p, *ds;                   // [rows,KEYS]
    struct attention_room room;
    float *lse, *delta; // [rows]; delta: dout . out
    float *dq;          // [rows,Dk] when not summed in place
    float *share;       // [keys of the prefix,part] of the sequence at hand
};

static size_t keys_floats(const struct attention_shape *s)
{
    return (size_t)(s->Dk + 1 + (s->value_at > 0 ? s->Dv + 1 : 0)) * KEYS;
}

static size_t rows_floats(const struct attention_shape *s)
{
    return round_up_cols(attention_part(s)) * KEYS;
}

// Key blocks that belong to the prefix of a sequence; that it sees; and keys of block b.
static int shared_blocks(const struct attention_grad_seq *seq) { return seq->pos / KEYS; }
static int blocks_of(const struct attention_grad_seq *seq)
{
    return (seq->pos + seq->len + KEYS - 1) / KEYS;
}
static int keys_of(const struct attention_grad_seq *seq, int b)
{
    const int left = seq->pos + seq->len - b * KEYS;
    return left < KEYS ? left : KEYS;
}

// Row of kv of the first key of block b.
static size_t key_row(const struct attention_grad_args *a, const struct attention_grad_seq *seq,
                      int b)
{
    const int shared = shared_blocks(seq);
    return b < shared ? (size_t)a->seqs[seq->prefix].key + (size_t)b * KEYS
                      : (size_t)seq->key + (size_t)(b - shared) * KEYS;
}

// Rows of sums.
struct grad_sums {
    float *data;
    size_t ld;
};

// Those of the keys of block b.
static struct grad_sums sums_of(const struct grad_job *job, const struct grad_work *w,
                                const struct grad_item *item, int b)
{
    const struct attention_shape *s = &job->a->shape;
    const struct attention_grad_seq *seq = &job->a->seqs[item->seq];
    const size_t part = (size_t)attention_part(s), row = (size_t)attention_row(s);
    const size_t before = (size_t)b * KEYS, column = (size_t)item->part * part;
    if (b >= shared_blocks(seq))
        return (struct grad_sums){job->dkv + key_row(job->a, seq, b) * row + column, row};
    if (job->share_at[item->seq] < 0)
        return (struct grad_sums){w->share + before * part, part};
    return (struct grad_sums){job->shares + job->share_at[item->seq] + before * row + column, row};
}

// A group of queries of a sequence: the first at position pos, their rows, and what products read
// of them.
struct grad_group {
    int pos, rows;
    struct attention_rows q, dout;
    const void *q_b, *dout_b;
    float *dq;
};

// p and ds of m rows of the group from `row` on, of which row i sees the keys below visible0 + i /
// G of the block that keys_t is of. Lanes past the visible keys are 0.
static void probabilities(const struct attention_shape *s, const struct grad_work *w,
                          const struct grad_group *g, const float *keys_t, int row, int m,
                          int visible0)
{
    const int G = heads_per_part(s), seen = visible0 + (row + m - 1) / G;
    const int keys = seen < KEYS ? seen : KEYS;
    const float *values_t = s->value_at > 0 ? keys_t + (size_t)(s->Dk + 1) * KEYS : keys_t;
    float *p = w->p + (size_t)row * KEYS, *ds = w->ds + (size_t)row * KEYS;
    const vec scale = vec_set1(s->scale);
    score_rows(skip(g->q, row, 0), m, keys_t, s->Dk, s->Dk, keys, p, w->room);
    score_rows(skip(g->dout, row, 0), m, values_t, s->value_at > 0 ? s->Dv : s->Dk, s->Dv, keys, ds,
               w->room);
    for (int i = 0; i < m; i++, p += KEYS, ds += KEYS) {
        const int visible = visible0 + (row + i) / G;
        const vec lse = vec_set1(w->lse[row + i]), delta = vec_set1(w->delta[row + i]);
        for (int u = 0; u < KEYS; u += VEC_WIDTH) {
            const int here = visible - u < 0           ? 0
                             : visible - u < VEC_WIDTH ? visible - u
                                                       : VEC_WIDTH;
            vec x = vec_zero(), dx = vec_zero();
            if (here > 0) {
                const vec_mask mask = vec_mask_first(here);
                x = vec_exp(vec_sub(vec_mul(vec_load(p + u), scale), lse));
                dx = vec_mul(vec_mul(x, vec_sub(vec_load(ds + u), delta)), scale);
                x = vec_select(mask, x, vec_zero());
                dx = vec_select(mask, dx, vec_zero());
            }
            vec_store(p + u, x);
            vec_store(ds + u, dx);
        }
    }
}

// sums[keys, 0..n) += w[rows,KEYS]^T x[rows,n], x as pack_rows gives it, its rows ldx apart.
static void add_to_keys(const struct grad_work *work, const float *w, int rows, int keys,
                        enum dtype type, const void *x, size_t ldx, int n, struct grad_sums sums)
{
    if (type == DTYPE_F32) {
        const struct gemm product = {
            .m = keys,
            .n = n,
            .k = rows,
            .a = w,
            .a_row = 1,
            .a_depth = KEYS,
            .b = x,
            .b_depth = ldx,
            .b_panel = GEMM_COLS,
            .c = sums.data,
            .ldc = sums.ld,
            .mode = GEMM_CHAIN,
        };
        FAST(gemm)(&product);
        return;
    }
    for (int i = 0; i < rows; i += 2)
        for (int u = 0; u < keys; u += VEC_WIDTH) {
            const float *first = w + (size_t)i * KEYS + u;
            const vec second = i + 1 < rows ? vec_load(first + KEYS) : vec_zero();
            vec_store_bits((uint32_t *)(void *)work->room.half + i / 2 * KEYS + u,
                           vec_pair(vec_load(first), second));
        }
    const struct gemm_bf16 product = {
        .m = keys,
        .n = n,
        .k = rows + rows % 2,
        .a = work->room.half,
        .a_row = 2,
        .a_depth = 2 * KEYS,
        .b = x,
        .c = sums.data,
        .ldc = sums.ld,
        .mode = GEMM_CHAIN,
        .work = work->room.gemm,
    };
    FAST(gemm_bf16)(&product);
}

// The group against key block b of the item, some of whose keys it sees.
static void group_grad(const struct grad_job *job, const struct grad_work *w,
                       const struct grad_item *item, const struct grad_group *g, int b)
{
    const struct attention_shape *s = &job->a->shape;
    const int G = heads_per_part(s), slot = b - item->key_begin, visible0 = g->pos + 1 - b * KEYS;
    const int seen = visible0 + g->rows / G - 1, keys = seen < KEYS ? seen : KEYS;
    const float *keys_t = w->keys_t + (size_t)slot * keys_floats(s);
    for (int row = 0; row < g->rows; row += GEMM_BF16_TILE) {
        const int m = g->rows - row < GEMM_BF16_TILE ? g->rows - row : GEMM_BF16_TILE;
        probabilities(s, w, g, keys_t, row, m, visible0);
    }
    for (int row = 0; row < g->rows && item->dq; row += GEMM_BF16_TILE) {
        const int m = g->rows - row < GEMM_BF16_TILE ? g->rows - row : GEMM_BF16_TILE;
        const int here = visible0 + (row + m - 1) / G;
        if (here > 0)
            weigh_keys(w->ds + (size_t)row * KEYS, m, w->values[slot], here < KEYS ? here : KEYS,
                       s->Dk, g->dq + (size_t)row * (size_t)s->Dk, (size_t)s->Dk, b == 0, w->room);
    }
    if (item->dkv) {
        struct grad_sums sums = sums_of(job, w, item, b);
        add_to_keys(w, w->ds, g->rows, keys, g->q.type, g->q_b, g->q.ld, s->Dk, sums);
        sums.data += s->value_at;
        add_to_keys(w, w->p, g->rows, keys, g->dout.type, g->dout_b, g->dout.ld, s->Dv, sums);
    }
}

// Inner product of n elements of x and y from the at-th on.
static float row_dot(const void *x, const void *y, enum dtype type, size_t at, size_t n)
{
    vec sum = vec_zero();
    if (type == DTYPE_F32)
        return vec_dot((const float *)x + at, (const float *)y + at, n);
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        const int lanes = vec_lanes_at(n, i);
        sum =
            vec_fma(vec_load_as(x, type, at + i, lanes), vec_load_as(y, type, at + i, lanes), sum);
    }
    return vec_sum(sum);
}

// `len` queries from `first` on against the key blocks of the item that they see.
static void queries_grad(const struct grad_job *job, const struct grad_work *w,
                         const struct grad_item *item, int first, int len)
{
    const struct attention_grad_args *a = job->a;
    const struct attention_shape *s = &a->shape;
    const struct attention_grad_seq *seq = &a->seqs[item->seq];
    const size_t query = (size_t)seq->query + (size_t)first;
    const size_t Dk = (size_t)s->Dk, Dv = (size_t)s->Dv;
    const int G = heads_per_part(s), end = seq->pos + first + len;
    const bool in_place = a->dq_type == DTYPE_F32 && s->kv_heads == 1;
    struct grad_group g = {.pos = seq->pos + first, .rows = len * G, .dq = w->dq};
    g.q = read_heads(s, a->q, a->type, query, item->part, g.rows, s->Dk, w->q);
    g.dout = read_heads(s, a->dout, a->type, query, item->part, g.rows, s->Dv, w->dout);
    if (item->dkv) {
        g.q_b = pack_rows(g.q, g.rows, s->Dk, w->q_b);
        g.dout_b = pack_rows(g.dout, g.rows, s->Dv, w->dout_b);
    }
    for (int i = 0; i < g.rows; i++) {
        const size_t at = row_of(s, query, item->part, i);
        w->lse[i] = a->lse[at];
        w->delta[i] = row_dot(a->dout, a->out, a->type, at * Dv, Dv);
    }
    if (in_place)
        g.dq = (float *)a->dq + query * (size_t)s->H * Dk;
    for (int b = item->key_begin; b < item->key_end && b * KEYS < end; b++)
        group_grad(job, w, item, &g, b);
    for (int i = 0; i < g.rows && item->dq && !in_place; i += G)
        copy_as(a->dq, a->dq_type, row_of(s, query, item->part, i) * Dk, g.dq, DTYPE_F32,
                (size_t)i * Dk, (size_t)G * Dk);
}

// Reads the keys of block b of the item.
static void read_block(const struct grad_job *job, const struct grad_work *w,
                       const struct grad_item *item, int b)
{
    const struct attention_grad_args *a = job->a;
    const struct attention_shape *s = &a->shape;
    const struct attention_grad_seq *seq = &a->seqs[item->seq];
    const int keys = keys_of(seq, b), part = attention_part(s), slot = b - item->key_begin;
    const size_t row = (size_t)attention_row(s);
    const size_t at = key_row(a, seq, b) * row + (size_t)(item->part * part);
    float *kv = w->kv + (size_t)slot * rows_floats(s);
    float *keys_t = w->keys_t + (size_t)slot * keys_floats(s);
    const struct attention_rows rows = read_rows(a->kv, a->type, at, row, keys, part, kv);
    FAST(transpose_keys)(rows, keys, s->Dk, keys_t);
    if (s->value_at > 0)
        FAST(transpose_keys)
    (skip(rows, 0, s->value_at), keys, s->Dv, keys_t + (size_t)(s->Dk + 1) * KEYS);
    w->values[slot] =
        (struct attention_values){pack_rows(rows, keys, s->Dk, kv), rows.ld, keys, rows.type};
}

// A sequence, or what the item has of it. Key blocks before `read` have been read.
static void sequence_grad(const struct grad_job *job, const struct grad_work *w,
                          const struct grad_item *item, int read)
{
    const struct attention_shape *s = &job->a->shape;
    const struct attention_grad_seq *seq = &job->a->seqs[item->seq];
    const int queries = queries_per_item(GROUP_ROWS, s);
    const size_t part = (size_t)attention_part(s);
    for (int b = item->key_begin; b < item->key_end; b++) {
        if (b >= read)
            read_block(job, w, item, b);
        const struct grad_sums sums = sums_of(job, w, item, b);
        for (int u = 0; u < keys_of(seq, b) && item->dkv; u++)
            memset(sums.data + (size_t)u * sums.ld, 0, part * sizeof(float));
    }
    // Groups are counted from the first query of the sequence, in every item.
    for (int i = item->first; i < item->end; i += queries)
        queries_grad(job, w, item, i, seq->len - i < queries ? seq->len - i : queries);
}

static void add_floats(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(n, i);
        vec_store_mask(to + i, vec_add(vec_load_mask(to + i, m), vec_load_mask(from + i, m)), m);
    }
}

static void item_grad(const struct grad_job *job, const struct grad_work *w,
                      const struct grad_item *first)
{
    const struct attention_grad_args *a = job->a;
    const size_t part = (size_t)attention_part(&a->shape), row = (size_t)attention_row(&a->shape);
    struct grad_item item = *first;
    sequence_grad(job, w, first, item.key_begin);
    for (int i = 0; i < first->followers; i++) {
        const struct attention_grad_seq *seq = &a->seqs[++item.seq];
        const size_t keys = (size_t)shared_blocks(seq) * KEYS;
        float *to = job->dkv + (size_t)a->seqs[first->seq].key * row + (size_t)item.part * part;
        item.key_end = blocks_of(seq);
        item.end = seq->len;
        sequence_grad(job, w, &item, shared_blocks(seq));
        for (size_t u = 0; u < keys; u++)
            add_floats(to + u * row, w->share + u * part, part);
    }
}

// The most that an item of [begin, end) needs: key blocks, and of them in its shares.
static void blocks_needed(const struct grad_job *job, int begin, int end, int *blocks, int *shared)
{
    *blocks = *shared = 0;
    for (int i = begin; i < end; i++) {
        const struct grad_item *item = &job->items[i];
        int here = item->key_end - item->key_begin;
        for (int n = 1; n <= item->followers; n++) {
            const struct attention_grad_seq *seq = &job->a->seqs[item->seq + n];
            here = blocks_of(seq) > here ? blocks_of(seq) : here;
            *shared = shared_blocks(seq) > *shared ? shared_blocks(seq) : *shared;
        }
        *blocks = here > *blocks ? here : *blocks;
    }
}

static void attention_grad_share(void *arg, int rank, int size)
{
    const struct grad_job *job = arg;
    const struct attention_shape *s = &job->a->shape;
    const size_t Dk = (size_t)s->Dk, Dv = (size_t)s->Dv;
    const size_t rows = (size_t)(queries_per_item(GROUP_ROWS, s) * heads_per_part(s)) + 1;
    int begin, end, blocks, shared;
    cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
    blocks_needed(job, begin, end, &blocks, &shared);
    const size_t keys = (size_t)blocks * keys_floats(s), kv = (size_t)blocks * rows_floats(s);
    const size_t values = (size_t)blocks * sizeof(struct attention_values) / sizeof(float);
    const size_t share = (size_t)shared * KEYS * (size_t)attention_part(s);
    const size_t q_b = rows * round_up_cols(s->Dk), dout_b = rows * round_up_cols(s->Dv);
    const size_t deepest = Dk > rows ? Dk : rows;
    const size_t gemm = gemm_bf16_work(deepest > KEYS ? (int)deepest : KEYS);
    float *scratch = cpu_scratch(job->dev, rank,
                                 keys + kv + values + share + q_b + dout_b + gemm +
                                     rows * (2 * Dk + Dv + 3 * KEYS + 2) + 14 * SCRATCH_LINE);
    struct grad_work w;
    w.keys_t = take(&scratch, keys);
    w.kv = take(&scratch, kv);
    w.values = (struct attention_values *)(void *)take(&scratch, values);
    w.q = take(&scratch, rows * Dk);
    w.dout = take(&scratch, rows * Dv);
    w.q_b = take(&scratch, q_b);
    w.dout_b = take(&scratch, dout_b);
    w.p = take(&scratch, rows * KEYS);
    w.ds = take(&scratch, rows * KEYS);
    w.room.half = (uint16_t *)(void *)take(&scratch, rows * KEYS);
    w.room.gemm = take(&scratch, gemm);
    w.lse = take(&scratch, rows);
    w.delta = take(&scratch, rows);
    w.dq = take(&scratch, rows * Dk);
    w.share = take(&scratch, share);
    for (int i = begin; i < end; i++)
        item_grad(job, &w, &job->items[i]);
}

// A rank's part of every sequence's own keys: the shares of others in them, and their rounding.
static void finish_share(void *arg, int rank, int size)
{
    const struct grad_job *job = arg;
    const struct attention_grad_args *a = job->a;
    const size_t row = (size_t)attention_row(&a->shape);
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_grad_seq *seq = &a->seqs[n];
        const size_t keys = (size_t)(seq->pos % KEYS + seq->len);
        const size_t begin = keys * (size_t)rank / (size_t)size;
        const size_t end = keys * (size_t)(rank + 1) / (size_t)size;
        const size_t at = ((size_t)seq->key + begin) * row;
        for (int m = n + 1; m < a->num_seqs && a->seqs[m].prefix == n; m++) {
            const size_t shared = (size_t)shared_blocks(&a->seqs[m]) * KEYS;
            const size_t last = end < shared ? end : shared;
            if (job->share_at[m] >= 0 && begin < last)
                add_floats(job->dkv + at, job->shares + job->share_at[m] + begin * row,
                           (last - begin) * row);
        }
        if (a->dkv_type != DTYPE_F32)
            copy_as(a->dkv, a->dkv_type, at, job->dkv, DTYPE_F32, at, (end - begin) * row);
    }
}

static void push_item(struct grad_job *job, struct grad_item item, double cost)
{
    job->items[job->num_items] = item;
    job->cost[job->num_items + 1] = job->cost[job->num_items] + cost;
    job->num_items++;
}

// Pairs of queries and keys in blocks, with a share for what a query costs on its own.
static double pairs(const struct attention_grad_seq *seq)
{
    return seq->len * (seq->pos + 0.5 * seq->len + 2 * VEC_WIDTH);
}

// Sequences of the family that begins with sequence n, and their pairs.
static int family_of(const struct attention_grad_args *a, int n, double *total)
{
    int count = 1;
    *total = pairs(&a->seqs[n]);
    for (; n + count < a->num_seqs && a->seqs[n + count].prefix == n; count++)
        *total += pairs(&a->seqs[n + count]);
    return count;
}

static void push_sequence(struct grad_job *job, int n, int part, double fair)
{
    const struct attention_grad_seq *seq = &job->a->seqs[n];
    const int len = seq->len, blocks = blocks_of(seq);
    const int queries = queries_per_item(GROUP_ROWS, &job->a->shape);
    if (pairs(seq) <= fair) {
        push_item(job, (struct grad_item){n, part, 0, blocks, 0, len, true, true, 0}, pairs(seq));
        return;
    }
    for (int b = 0; b < blocks; b++) {
        const int seen = b * KEYS - seq->pos, first = seen > 0 ? seen / queries * queries : 0;
        push_item(job, (struct grad_item){n, part, b, b + 1, first, len, false, true, 0},
                  0.6 * KEYS * (len - first));
    }
    for (int i = 0; i < len; i += QUERY_GROUPS * queries) {
        const int end = i + QUERY_GROUPS * queries < len ? i + QUERY_GROUPS * queries : len;
        const int keys = seq->pos + end;
        push_item(job,
                  (struct grad_item){n, part, 0, (keys + KEYS - 1) / KEYS, i, end, true, false, 0},
                  0.5 * (end - i) * (double)keys);
    }
}

// Items of a family of `count` sequences from n on; floats in shares grow by what it needs.
static void push_family(struct grad_job *job, int n, int count, double total, double fair,
                        size_t *floats)
{
    const struct attention_grad_args *a = job->a;
    for (int part = 0; part < a->shape.kv_heads; part++) {
        if (total <= fair) {
            const struct grad_item whole = {
                n, part, 0, blocks_of(&a->seqs[n]), 0, a->seqs[n].len, true, true, count - 1};
            push_item(job, whole, total);
            continue;
        }
        for (int i = 0; i < count; i++)
            push_sequence(job, n + i, part, fair);
    }
    for (int i = n; i < n + count; i++) {
        const size_t share = (size_t)shared_blocks(&a->seqs[i]) * KEYS;
        job->share_at[i] = total <= fair || share == 0 ? -1 : (ptrdiff_t)*floats;
        *floats += total <= fair ? 0 : share * (size_t)attention_row(&a->shape);
    }
}

static void check_seq(const struct attention_grad_args *a, int n)
{
    const struct attention_grad_seq *seq = &a->seqs[n];
    assert(seq->len >= 0 && seq->query >= 0 && seq->query + seq->len <= a->T);
    assert(seq->key >= 0 && seq->key + seq->pos % KEYS + seq->len <= a->N);
    assert(seq->pos == (seq->prefix < 0 ? 0 : a->seqs[seq->prefix].len));
    (void)seq;
}

// The items, of which none is to cost more than `fair`; returns the floats of the shares.
static size_t push_families(struct grad_job *job, double fair)
{
    size_t floats = 0;
    double of_family;
    job->num_items = 0;
    for (int n = 0; n < job->a->num_seqs;) {
        const int family = family_of(job->a, n, &of_family);
        push_family(job, n, family, of_family, fair, &floats);
        n += family;
    }
    return floats;
}

static double largest_share(const struct grad_job *job, int size)
{
    double largest = 0.0;
    for (int rank = 0, begin, end; rank < size; rank++) {
        cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
        largest = fmax(largest, job->cost[end] - job->cost[begin]);
    }
    return largest;
}

// What a sequence costs that is cut, since its scores are computed once for the gradients of keys
// and once for those of queries.
#define COST_OF_CUTTING 1.25

// Cuts the work into items, of whole families where threads get about as much of those; returns the
// floats of the shares.
static size_t plan_items(struct grad_job *job)
{
    const struct attention_grad_args *a = job->a;
    const int queries = queries_per_item(GROUP_ROWS, &a->shape), size = team_size(job->dev->team);
    size_t count = 0;
    double total = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_grad_seq *seq = &a->seqs[n];
        check_seq(a, n);
        count += (size_t)(blocks_of(seq) + seq->len / queries) + 2;
        total += pairs(seq) * a->shape.kv_heads;
    }
    count *= (size_t)a->shape.kv_heads;
    job->items = mem_alloc(count * sizeof(*job->items));
    job->cost = mem_alloc((count + 1) * sizeof(*job->cost));
    job->share_at = mem_alloc((size_t)a->num_seqs * sizeof(*job->share_at));
    job->cost[0] = 0.0;
    const size_t floats = push_families(job, total);
    if (largest_share(job, size) * size <= COST_OF_CUTTING * total)
        return floats;
    return push_families(job, total / (4.0 * size));
}

int FAST(attention_grad)(struct device *dev, const struct attention_grad_args *a)
{
    const struct attention_shape *s = &a->shape;
    const bool rounds = a->dkv_type != DTYPE_F32;
    struct grad_job job = {.dev = dev, .a = a, .dkv = a->dkv};
    const size_t shares = plan_items(&job), sums = (size_t)a->N * (size_t)attention_row(s);
    if (shares > 0 || rounds)
        job.shares = cpu_scratch(dev, CPU_SHARED, shares + (rounds ? sums : 0));
    if (rounds)
        job.dkv = job.shares + shares;
    cpu_run(dev, 10.0 * job.cost[job.num_items] * heads_per_part(s) * s->Dk, attention_grad_share,
            &job);
    if (shares > 0 || rounds)
        cpu_run(dev, (double)(shares + sums), finish_share, &job);
    free(job.share_at);
    free(job.cost);
    free(job.items);
    return 0;
}
