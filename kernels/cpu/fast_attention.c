// SPDX-License-Identifier: Apache-2.0
// Attention as small matrix products with a running softmax.
//
// Theory of operation. An item is a few queries of one sequence with all heads of a part: rows that
// read the same keys. For each block of ATTENTION_BLOCK keys, counted from position 0, the keys are
// transposed once; then, for a tile of rows at a time, scores are one product, the softmax state
// (maximum m, sum l) of each row moves on, and the output grows by a second product:
//   m' = max(m, s),  p = e^(s - m'),  l = l e^(m - m') + sum p,  out = out e^(m - m') + p kv
// as in arXiv:2205.14135, algorithm 1. A row sees the same blocks in the same order whichever item
// it is in; keys it may not see have p = 0 exactly and add nothing to its sums, so its bits depend
// on its own query and keys alone. So sequences that decode, one query each, are one item as far as
// they see the same blocks: the samples of a prompt read it once.
#include "kernels/cpu/fast_attention.h"
#include "base/mem.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ITEM_ROWS 256

// The words of 32 bits of a row: numbers, or pairs of bfloat16, an odd last one with a 0.
static void read_words(const void *row, enum dtype type, int first, int D, int n, float *out)
{
    const size_t size = dtype_size(type), at = (size_t)first * (sizeof *out / size);
    const size_t left = (size_t)D - at, words = (size_t)n * (sizeof *out / size);
    memset(out, 0, (size_t)n * sizeof *out);
    memcpy(out, (const char *)row + at * size, (left < words ? left : words) * size);
}

void FAST(transpose_keys)(struct attention_rows kv, int keys, int D, float *out)
{
    const bool pairs = kv.type == DTYPE_BF16;
    const int words = pairs ? (D + 1) / 2 : D, whole = (pairs ? D / 2 : D) / 4 * 4;
    for (int u = 0; u < keys; u += VEC_WIDTH) {
        const float *row[VEC_WIDTH];
        float *to = out + (size_t)(u / GEMM_COLS) * (size_t)words * GEMM_COLS + u % GEMM_COLS;
        for (int i = 0; i < VEC_WIDTH; i++)
            row[i] = skip(kv, u + i < keys ? u + i : keys - 1, 0).data;
        for (int d = 0; d < whole; d += 4)
            vec_transpose4(row, (size_t)d, to + (size_t)d * GEMM_COLS, GEMM_COLS);
        for (int i = 0; i < VEC_WIDTH && whole < words; i++) {
            float rest[4];
            read_words(row[i], kv.type, whole, D, words - whole, rest);
            for (int d = whole; d < words; d++)
                memcpy(to + (size_t)d * GEMM_COLS + i, &rest[d - whole], sizeof *to);
        }
    }
}

struct attention_item {
    int seq, first, len; // queries [first, first + len) of seqs[seq]
    int part;
    int num_seqs; // it and those behind it, each with as many queries
    int shared;   // blocks that all of them see in full
};

struct attention_job {
    struct device *dev;
    const struct attention_args *a;
    const struct attention_item *items;
    const double *cost; // [num_items+1]
    int num_items;
};

// Scratch of a rank.
struct attention_work {
    float *keys_t; // [Dk,KEYS]
    float *kv;     // [KEYS,round_up_cols(part)] widened rows, or packed values
    float *q;      // [rows of an item,Dk] when not read in place
    float *p;      // [GEMM_BF16_TILE,KEYS]
    struct attention_room room;
    float *max, *sum; // [rows of an item]
    float *out;       // [rows of an item,Dv] when not summed in place
};

// Turns the scores s[KEYS] of a row that sees `visible` keys of the block into p, and its state and
// output to the new maximum.
static void softmax_step(float *s, int visible, int lanes, vec scale, float *max, float *sum,
                         float *out, int Dv)
{
    vec largest = vec_set1(*max), total = vec_zero();
    for (int u = 0; u < lanes; u += VEC_WIDTH) {
        const int here = visible - u < 0 ? 0 : visible - u < VEC_WIDTH ? visible - u : VEC_WIDTH;
        const vec_mask m = vec_mask_first(here);
        const vec x = vec_select(m, vec_mul(vec_load(s + u), scale), vec_set1(-INFINITY));
        vec_store(s + u, x);
        largest = vec_max(x, largest);
    }
    const float now = vec_largest(largest);
    const vec shift = vec_set1(now);
    for (int u = 0; u < lanes; u += VEC_WIDTH) {
        const vec p = vec_exp(vec_sub(vec_load(s + u), shift));
        vec_store(s + u, p);
        total = vec_add(total, p);
    }
    if (*max == -INFINITY) {
        *sum = vec_sum(total);
    } else {
        float alpha[VEC_WIDTH];
        const vec keep = vec_exp(vec_set1(*max - now));
        vec_store(alpha, keep);
        *sum = *sum * alpha[0] + vec_sum(total);
        for (size_t d = 0; d < (size_t)Dv; d += VEC_WIDTH) {
            const vec_mask m = vec_mask_at((size_t)Dv, d);
            vec_store_mask(out + d, vec_mul(vec_load_mask(out + d, m), keep), m);
        }
    }
    *max = now;
}

// The rows of some queries, the first of which is row `query` of q, at position pos. out:
// [rows,Dv], not yet divided by the sums.
struct attended {
    const struct attention_args *a;
    const struct attention_work *w;
    struct attention_rows q;
    size_t query;
    int part, pos, rows;
    float *max, *sum, *out;
};

// Outputs are summed where they belong.
static bool sums_in_place(const struct attention_args *a)
{
    return a->type == DTYPE_F32 && a->shape.kv_heads == 1;
}

// Rows [row, end) against key block b; the first ones may see none of it.
static void attend_tile(const struct attended *t, struct attention_values kv, int b, int row,
                        int end)
{
    const struct attention_shape *s = &t->a->shape;
    const struct attention_work *w = t->w;
    const int G = heads_per_part(s), before = b * KEYS - t->pos; // keys
    while (row < end && row / G < before)
        row++;
    if (row == end)
        return;
    const int m = end - row, seen = (end - 1) / G + 1 - before;
    const int keys = seen < KEYS ? seen : KEYS, lanes = round_up_lanes(keys);
    const size_t Dv = (size_t)s->Dv;
    float *out = t->out + (size_t)row * Dv;
    score_rows(skip(t->q, row, 0), m, w->keys_t, s->Dk, s->Dk, keys, w->p, w->room);
    for (int i = 0; i < m; i++)
        softmax_step(w->p + i * KEYS, (row + i) / G + 1 - before, lanes, vec_set1(s->scale),
                     &t->max[row + i], &t->sum[row + i], out + (size_t)i * Dv, s->Dv);
    weigh_keys(w->p, m, kv, keys, s->Dv, out, Dv, b == 0, w->room);
}

static void finish_item(const struct attended *t)
{
    const struct attention_args *a = t->a;
    const size_t Dv = (size_t)a->shape.Dv;
    for (int i = 0; i < t->rows; i++) {
        const size_t at = row_of(&a->shape, t->query, t->part, i);
        const vec inverse = vec_set1(1.0f / t->w->sum[i]);
        const float *out = t->out + (size_t)i * Dv;
        for (size_t d = 0; d < Dv; d += VEC_WIDTH) {
            const int n = vec_lanes_at(Dv, d);
            vec_store_as(a->out, a->type, at * Dv + d, vec_mul(vec_load_n(out + d, n), inverse), n);
        }
        if (a->lse)
            a->lse[at] = t->w->max[i] + logf(t->w->sum[i]);
    }
}

// The first `keys` keys of block b of a sequence.
static void attend_block(const struct attended *t, const struct attention_seq *seq, int b, int keys)
{
    const struct attention_args *a = t->a;
    const struct attention_shape *s = &a->shape;
    const struct attention_work *w = t->w;
    const int part = attention_part(s);
    const struct attention_rows rows =
        read_rows(a->kv_blocks[seq->block + b], a->type, (size_t)(t->part * part),
                  (size_t)attention_row(s), keys, part, w->kv);
    FAST(transpose_keys)(rows, keys, s->Dk, w->keys_t);
    const struct attention_values kv = {pack_rows(skip(rows, 0, s->value_at), keys, s->Dv, w->kv),
                                        rows.ld, keys, rows.type};
    for (int row = 0; row < t->rows; row += GEMM_BF16_TILE)
        attend_tile(t, kv, b, row, t->rows - row < GEMM_BF16_TILE ? t->rows : row + GEMM_BF16_TILE);
}

static void attend_item(const struct attention_args *a, const struct attention_work *w,
                        const struct attention_item *item)
{
    const struct attention_shape *s = &a->shape;
    const struct attention_seq *seq = &a->seqs[item->seq];
    const int rows = item->len * heads_per_part(s);
    struct attended all = {a, w, .part = item->part, .max = w->max, .sum = w->sum, .out = w->out};
    all.query = (size_t)seq->query + (size_t)item->first;
    all.rows = item->num_seqs * rows;
    all.q = read_heads(s, a->q, a->type, all.query, item->part, all.rows, s->Dk, w->q);
    if (sums_in_place(a))
        all.out = (float *)a->out + all.query * (size_t)s->H * (size_t)s->Dv;
    for (int i = 0; i < all.rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    all.pos = item->shared * KEYS; // or later
    for (int b = 0; b < item->shared; b++)
        attend_block(&all, seq, b, KEYS);
    for (int n = 0; n < item->num_seqs; n++, seq++) {
        struct attended t = all;
        t.rows = rows;
        t.q = skip(all.q, n * rows, 0);
        t.max += n * rows;
        t.sum += n * rows;
        t.out += (size_t)(n * rows) * (size_t)s->Dv;
        t.pos = seq->pos + item->first;
        const int seen = t.pos + item->len;
        for (int b = item->shared; b * KEYS < seen; b++)
            attend_block(&t, seq, b, seen - b * KEYS < KEYS ? seen - b * KEYS : KEYS);
    }
    finish_item(&all);
}

static void attention_share(void *arg, int rank, int size)
{
    const struct attention_job *job = arg;
    const struct attention_args *a = job->a;
    const struct attention_shape *s = &a->shape;
    const size_t Dk = (size_t)s->Dk, cols = round_up_cols(attention_part(s));
    const size_t rows = (size_t)(queries_per_item(ITEM_ROWS, s) * heads_per_part(s));
    const size_t out = sums_in_place(a) ? 0 : rows * (size_t)s->Dv;
    const size_t gemm = gemm_bf16_work(s->Dk > KEYS ? s->Dk : KEYS);
    float *scratch = cpu_scratch(job->dev, rank,
                                 gemm + (Dk + 1 + cols) * KEYS + 2 * GEMM_BF16_TILE * KEYS +
                                     rows * (Dk + 2) + out + 9 * SCRATCH_LINE);
    struct attention_work w;
    w.keys_t = take(&scratch, (Dk + 1) * KEYS);
    w.kv = take(&scratch, cols * KEYS);
    w.q = take(&scratch, rows * Dk);
    w.p = take(&scratch, GEMM_BF16_TILE * KEYS);
    w.room.half = (uint16_t *)(void *)take(&scratch, GEMM_BF16_TILE * KEYS);
    w.room.gemm = take(&scratch, gemm);
    w.max = take(&scratch, rows);
    w.sum = take(&scratch, rows);
    w.out = take(&scratch, out);
    int begin, end;
    cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
    for (int i = begin; i < end; i++)
        attend_item(a, &w, &job->items[i]);
}

// How many sequences from n on, `most` of them or fewer, are one item: those of one query each, row
// by row, that see the same first blocks in full, as many as the first two of them.
static int sharing_seqs(const struct attention_args *a, int n, int most, int *shared)
{
    const struct attention_seq *first = &a->seqs[n];
    int count = 1;
    *shared = 0;
    for (; first->len == 1 && count < most && n + count < a->num_seqs; count++) {
        const struct attention_seq *seq = first + count;
        const int least = seq->pos < first->pos ? seq->pos : first->pos;
        int same = 0;
        while ((same + 1) * KEYS <= least + 1 &&
               a->kv_blocks[first->block + same] == a->kv_blocks[seq->block + same])
            same++;
        if (seq->len != 1 || seq->query != first->query + count || same == 0 || same < *shared)
            break;
        *shared = count == 1 ? same : *shared;
    }
    return count;
}

struct attention_plan {
    struct attention_item *items;
    double *cost; // [count+1]
    int count;
};

// An item for each part.
static void add_items(struct attention_plan *p, const struct attention_args *a,
                      struct attention_item item)
{
    const struct attention_shape *s = &a->shape;
    const int rows = item.len * heads_per_part(s), shared = item.shared * KEYS;
    double cost = (double)shared * (item.num_seqs * rows + GEMM_BF16_TILE);
    for (int n = 0; n < item.num_seqs; n++) {
        const int before = a->seqs[item.seq + n].pos + item.first - shared;
        cost += (before + 0.5 * item.len + VEC_WIDTH) * (rows + GEMM_BF16_TILE);
    }
    for (item.part = 0; item.part < s->kv_heads; item.part++) {
        p->items[p->count] = item;
        p->cost[p->count + 1] = p->cost[p->count] + cost;
        p->count++;
    }
}

int FAST(attention)(struct device *dev, const struct attention_args *a)
{
    const struct attention_shape *s = &a->shape;
    const int queries = queries_per_item(ITEM_ROWS, s), threads = team_size(dev->team);
    const int fair = (a->num_seqs + threads - 1) / threads; // so that each thread has items
    size_t count = 0;
    for (int n = 0; n < a->num_seqs; n++)
        count += ((size_t)a->seqs[n].len + (size_t)queries - 1) / (size_t)queries;
    count *= (size_t)s->kv_heads;
    struct attention_plan plan = {mem_alloc(count * sizeof *plan.items),
                                  mem_alloc((count + 1) * sizeof *plan.cost), 0};
    plan.cost[0] = 0.0;
    for (int n = 0; n < a->num_seqs;) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos >= 0 && seq->len >= 0);
        struct attention_item item = {.seq = n};
        item.num_seqs = sharing_seqs(a, n, fair < queries ? fair : queries, &item.shared);
        for (; item.first < seq->len; item.first += queries) {
            item.len = seq->len - item.first < queries ? seq->len - item.first : queries;
            add_items(&plan, a, item);
        }
        n += item.num_seqs;
    }
    struct attention_job job = {dev, a, plan.items, plan.cost, plan.count};
    cpu_run(dev, 4.0 * plan.cost[plan.count] * s->Dk, attention_share, &job);
    free(plan.cost);
    free(plan.items);
    return 0;
}
