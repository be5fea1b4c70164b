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
// on its own query and keys alone.
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
    float *out;
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
                     &w->max[row + i], &w->sum[row + i], out + (size_t)i * Dv, s->Dv);
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

static void attend_item(const struct attention_args *a, const struct attention_work *w,
                        const struct attention_item *item)
{
    const struct attention_shape *s = &a->shape;
    const struct attention_seq *seq = &a->seqs[item->seq];
    const int pos = seq->pos + item->first, seen = pos + item->len, part = attention_part(s);
    struct attended t = {a, w, .part = item->part, .pos = pos, .out = w->out};
    t.query = (size_t)seq->query + (size_t)item->first;
    t.rows = item->len * heads_per_part(s);
    t.q = read_heads(s, a->q, a->type, t.query, item->part, t.rows, s->Dk, w->q);
    if (sums_in_place(a))
        t.out = (float *)a->out + t.query * (size_t)s->H * (size_t)s->Dv;
    for (int i = 0; i < t.rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    for (int b = 0; b * KEYS < seen; b++) {
        const int keys = seen - b * KEYS < KEYS ? seen - b * KEYS : KEYS;
        const struct attention_rows rows =
            read_rows(a->kv_blocks[seq->block + b], a->type, (size_t)(item->part * part),
                      (size_t)attention_row(s), keys, part, w->kv);
        FAST(transpose_keys)(rows, keys, s->Dk, w->keys_t);
        const struct attention_values kv = {
            pack_rows(skip(rows, 0, s->value_at), keys, s->Dv, w->kv), rows.ld, keys, rows.type};
        for (int row = 0; row < t.rows; row += GEMM_BF16_TILE)
            attend_tile(&t, kv, b, row,
                        t.rows - row < GEMM_BF16_TILE ? t.rows : row + GEMM_BF16_TILE);
    }
    finish_item(&t);
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

int FAST(attention)(struct device *dev, const struct attention_args *a)
{
    const struct attention_shape *s = &a->shape;
    const int queries = queries_per_item(ITEM_ROWS, s), G = heads_per_part(s);
    size_t count = 0;
    for (int n = 0; n < a->num_seqs; n++)
        count += ((size_t)a->seqs[n].len + (size_t)queries - 1) / (size_t)queries;
    count *= (size_t)s->kv_heads;
    struct attention_item *items = mem_alloc(count * sizeof(*items));
    double *cost = mem_alloc((count + 1) * sizeof(*cost));
    int k = 0;
    cost[0] = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos >= 0 && seq->len >= 0);
        for (int i = 0; i < seq->len; i += queries) {
            const int len = seq->len - i < queries ? seq->len - i : queries;
            const double keys = seq->pos + i + 0.5 * len + VEC_WIDTH;
            for (int part = 0; part < s->kv_heads; part++, k++) {
                items[k] = (struct attention_item){n, i, len, part};
                cost[k + 1] = cost[k] + keys * (len * G + GEMM_BF16_TILE);
            }
        }
    }
    struct attention_job job = {dev, a, items, cost, k};
    cpu_run(dev, 4.0 * cost[k] * s->Dk, attention_share, &job);
    free(cost);
    free(items);
    return 0;
}
