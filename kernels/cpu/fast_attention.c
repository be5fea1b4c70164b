// SPDX-License-Identifier: Apache-2.0
// Latent attention as small matrix products with a running softmax.
//
// Theory of operation. An item is a few queries of one sequence with all heads: rows that read the
// same keys. For each block of ATTENTION_BLOCK keys, counted from position 0, the keys are
// transposed once; then, for a tile of rows at a time, scores are one product, the softmax state
// (maximum m, sum l) of each row moves on, and the output grows by a second product:
//   m' = max(m, s),  p = e^(s - m'),  l = l e^(m - m') + sum p,  out = out e^(m - m') + p kv
// as in arXiv:2205.14135, algorithm 1. A row sees the same blocks in the same order whichever item
// it is in; keys it may not see have p = 0 exactly and add nothing to its sums, so its bits depend
// on its own query and keys alone.
#include "kernels/cpu/fast_attention.h"
#include "base/mem.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define ITEM_ROWS 256

void FAST(transpose_keys)(const float *kv, int keys, int D, float *out)
{
    for (int u = 0; u < keys; u += VEC_WIDTH) {
        const float *row[VEC_WIDTH];
        for (int i = 0; i < VEC_WIDTH; i++)
            row[i] = kv + (size_t)(u + i < keys ? u + i : keys - 1) * (size_t)D;
        int d = 0;
        for (; d + 4 <= D; d += 4)
            vec_transpose4(row, (size_t)d, out + (size_t)d * KEYS + u, KEYS);
        for (; d < D; d++)
            for (int i = 0; i < VEC_WIDTH; i++)
                out[(size_t)d * KEYS + (size_t)(u + i)] = row[i][d];
    }
}

struct attention_item {
    int seq, first, len; // queries [first, first + len) of seqs[seq]
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
    float *keys_t;    // [R+Dr,KEYS]
    float *p;         // [GEMM_ROWS,KEYS]
    float *max, *sum; // [rows of an item]
};

// Turns the scores s[KEYS] of a row that sees `visible` keys of the block into p, and its state and
// output to the new maximum.
static void softmax_step(float *s, int visible, int lanes, vec scale, float *max, float *sum,
                         float *out, int R)
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
        for (size_t r = 0; r < (size_t)R; r += VEC_WIDTH) {
            const vec_mask m = vec_mask_at((size_t)R, r);
            vec_store_mask(out + r, vec_mul(vec_load_mask(out + r, m), keep), m);
        }
    }
    *max = now;
}

// Rows [row, row + m) of an item (at `base` of all rows) against key block b, kv.
static void attend_tile(const struct attention_args *a, const struct attention_work *w, int pos,
                        size_t base, int row, int m, int b, const float *kv)
{
    const int D = a->R + a->Dr, seen = pos + (row + m - 1) / a->H + 1 - b * KEYS;
    const int keys = seen < KEYS ? seen : KEYS, lanes = round_up_lanes(keys);
    float *out = (float *)a->out + (base + (size_t)row) * (size_t)a->R;
    if (keys <= 0)
        return;
    score_rows((const float *)a->q + (base + (size_t)row) * (size_t)D, (size_t)D, m, w->keys_t, D,
               keys, w->p);
    for (int i = 0; i < m; i++)
        softmax_step(w->p + i * KEYS, pos + (row + i) / a->H + 1 - b * KEYS, lanes,
                     vec_set1(a->scale), &w->max[row + i], &w->sum[row + i],
                     out + (size_t)i * (size_t)a->R, a->R);
    weigh_keys(w->p, m, kv, (size_t)D, keys, a->R, out, (size_t)a->R, b == 0);
}

static void attend_item(const struct attention_args *a, const struct attention_work *w,
                        const struct attention_item *item)
{
    const struct attention_seq *seq = &a->seqs[item->seq];
    const int pos = seq->pos + item->first, rows = item->len * a->H, seen = pos + item->len;
    const size_t base = ((size_t)seq->query + (size_t)item->first) * (size_t)a->H;
    for (int i = 0; i < rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    for (int b = 0; b * KEYS < seen; b++) {
        const float *kv = a->kv_blocks[seq->block + b];
        FAST(transpose_keys)
        (kv, seen - b * KEYS < KEYS ? seen - b * KEYS : KEYS, a->R + a->Dr, w->keys_t);
        for (int row = 0; row < rows; row += GEMM_ROWS)
            attend_tile(a, w, pos, base, row, rows - row < GEMM_ROWS ? rows - row : GEMM_ROWS, b,
                        kv);
    }
    for (int i = 0; i < rows; i++) {
        float *out = (float *)a->out + (base + (size_t)i) * (size_t)a->R;
        const vec inverse = vec_set1(1.0f / w->sum[i]);
        for (size_t r = 0; r < (size_t)a->R; r += VEC_WIDTH) {
            const vec_mask m = vec_mask_at((size_t)a->R, r);
            vec_store_mask(out + r, vec_mul(vec_load_mask(out + r, m), inverse), m);
        }
        if (a->lse)
            a->lse[base + (size_t)i] = w->max[i] + logf(w->sum[i]);
    }
}

static void attention_share(void *arg, int rank, int size)
{
    const struct attention_job *job = arg;
    const struct attention_args *a = job->a;
    const size_t keys_t = (size_t)(a->R + a->Dr) * KEYS;
    const size_t rows = (size_t)(queries_per_item(ITEM_ROWS, a->H) * a->H);
    float *scratch = cpu_scratch(job->dev, rank, keys_t + (size_t)GEMM_ROWS * KEYS + 2 * rows);
    struct attention_work w = {.keys_t = scratch, .p = scratch + keys_t};
    w.max = w.p + (size_t)GEMM_ROWS * KEYS;
    w.sum = w.max + rows;
    int begin, end;
    cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
    for (int i = begin; i < end; i++)
        attend_item(a, &w, &job->items[i]);
}

int FAST(attention)(struct device *dev, const struct attention_args *a)
{
    if (a->type != DTYPE_F32)
        return ref_attention(dev, a);
    const int queries = queries_per_item(ITEM_ROWS, a->H);
    size_t count = 0;
    for (int n = 0; n < a->num_seqs; n++)
        count += ((size_t)a->seqs[n].len + (size_t)queries - 1) / (size_t)queries;
    struct attention_item *items = mem_alloc(count * sizeof(*items));
    double *cost = mem_alloc((count + 1) * sizeof(*cost));
    int k = 0;
    cost[0] = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos >= 0 && seq->len >= 0);
        for (int i = 0; i < seq->len; i += queries, k++) {
            const int len = seq->len - i < queries ? seq->len - i : queries;
            const double keys = seq->pos + i + 0.5 * len + VEC_WIDTH;
            items[k] = (struct attention_item){n, i, len};
            cost[k + 1] = cost[k] + keys * (len * a->H + GEMM_ROWS);
        }
    }
    struct attention_job job = {dev, a, items, cost, k};
    cpu_run(dev, 4.0 * cost[k] * (a->R + a->Dr), attention_share, &job);
    free(cost);
    free(items);
    return 0;
}
