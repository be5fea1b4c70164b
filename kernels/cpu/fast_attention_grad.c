// SPDX-License-Identifier: Apache-2.0
// Backward of latent attention over packed sequences (MATH.md): with p recomputed from the stored
// log-sum-exp, per key block and group of queries
//   ds = scale p (dout kv^T - dout . out),  dq += ds kv,  dkv += ds^T q,  dkv[0,R) += p^T dout.
// A whole sequence is one item and does all of it. A sequence longer than a fair share of a rank is
// cut instead into items over its key blocks, which give dkv, and items over its queries, which
// give dq: both compute the same p and ds, and every sum keeps its order, so the cut does not show
// in the bits.
#include "base/mem.h"
#include "kernels/cpu/fast_attention.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_ROWS 64 // rows of a group of queries

struct grad_item {
    int seq;
    int key_begin, key_end; // key blocks
    int first, end;         // queries
    bool dq, dkv;
};

struct grad_job {
    struct device *dev;
    const struct attention_grad_args *a;
    struct grad_item *items;
    double *cost; // [num_items+1]
    int num_items;
};

// Scratch of a rank.
struct grad_work {
    float *keys_t; // [R+Dr,KEYS]
    float *p, *ds; // [rows of a group,KEYS]
};

// p and ds of m rows at `base`, of which row i sees the keys below visible0 + i / H of this block.
// Lanes past the visible keys are 0.
static void probabilities(const struct attention_grad_args *a, const struct grad_work *w,
                          size_t base, int row, int m, int visible0)
{
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr, first = base + (size_t)row;
    const int seen = visible0 + (row + m - 1) / a->H, keys = seen < KEYS ? seen : KEYS;
    float *p = w->p + (size_t)row * KEYS, *ds = w->ds + (size_t)row * KEYS;
    const float *q = a->q, *out = a->out, *dout = a->dout;
    const vec scale = vec_set1(a->scale);
    score_rows(q + first * D, D, m, w->keys_t, (int)D, keys, p);
    score_rows(dout + first * R, R, m, w->keys_t, (int)R, keys, ds);
    for (int i = 0; i < m; i++, p += KEYS, ds += KEYS) {
        const size_t at = first + (size_t)i;
        const int visible = visible0 + (row + i) / a->H;
        const vec lse = vec_set1(a->lse[at]);
        const vec delta = vec_set1(vec_dot(dout + at * R, out + at * R, R));
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

// dkv[keys, 0..n) += w[rows,KEYS]^T x[rows,n].
static void add_to_keys(const float *w, int rows, int keys, const float *x, size_t ldx, int n,
                        float *dkv, size_t D)
{
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
        .c = dkv,
        .ldc = D,
        .mode = GEMM_CHAIN,
    };
    FAST(gemm)(&product);
}

// Queries [first, first + len) of a sequence at `start` against its key block b. The first group
// that sees a key finds it zero.
static void group_grad(const struct attention_grad_args *a, const struct grad_work *w,
                       const struct grad_item *item, size_t start, int first, int len, int b)
{
    const int rows = len * a->H, visible0 = first + 1 - b * KEYS, seen = visible0 + len - 1;
    const int keys = seen < KEYS ? seen : KEYS;
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr, H = (size_t)a->H;
    const size_t base = (start + (size_t)first) * H;
    const float *kv = (const float *)a->kv + (start + (size_t)b * KEYS) * D;
    const float *q = (const float *)a->q + base * D, *dout = (const float *)a->dout + base * R;
    float *dq = (float *)a->dq + base * D;
    float *dkv = (float *)a->dkv + (start + (size_t)b * KEYS) * D;
    for (int row = 0; row < rows; row += GEMM_ROWS) {
        const int m = rows - row < GEMM_ROWS ? rows - row : GEMM_ROWS;
        probabilities(a, w, base, row, m, visible0);
    }
    if (item->dq)
        for (int row = 0; row < rows; row += GEMM_ROWS) {
            const int m = rows - row < GEMM_ROWS ? rows - row : GEMM_ROWS;
            const int here = visible0 + (row + m - 1) / a->H;
            weigh_keys(w->ds + (size_t)row * KEYS, m, kv, D, here < KEYS ? here : KEYS, (int)D,
                       dq + (size_t)row * D, D, b == 0);
        }
    if (item->dkv) {
        add_to_keys(w->ds, rows, keys, q, D, (int)D, dkv, D);
        add_to_keys(w->p, rows, keys, dout, R, (int)R, dkv, D);
    }
}

static void item_grad(const struct attention_grad_args *a, const struct grad_work *w,
                      const struct grad_item *item)
{
    const struct attention_seq *seq = &a->seqs[item->seq];
    const int queries = queries_per_item(GROUP_ROWS, a->H);
    const size_t start = (size_t)seq->query, D = (size_t)a->R + (size_t)a->Dr;
    for (int b = item->key_begin; b < item->key_end; b++) {
        const int keys = seq->len - b * KEYS < KEYS ? seq->len - b * KEYS : KEYS;
        const size_t at = (start + (size_t)b * KEYS) * D;
        FAST(transpose_keys)((const float *)a->kv + at, keys, (int)D, w->keys_t);
        if (item->dkv)
            memset((float *)a->dkv + at, 0, (size_t)keys * D * sizeof(float));
        // Groups are counted from the first query of the sequence, in every item.
        for (int i = item->first; i < item->end; i += queries) {
            const int len = seq->len - i < queries ? seq->len - i : queries;
            if (i + len > b * KEYS)
                group_grad(a, w, item, start, i, len, b);
        }
    }
}

static void attention_grad_share(void *arg, int rank, int size)
{
    const struct grad_job *job = arg;
    const struct attention_grad_args *a = job->a;
    const size_t keys_t = (size_t)(a->R + a->Dr) * KEYS;
    const size_t block = (size_t)(queries_per_item(GROUP_ROWS, a->H) * a->H) * KEYS;
    float *scratch = cpu_scratch(job->dev, rank, keys_t + 2 * block);
    const struct grad_work w = {scratch, scratch + keys_t, scratch + keys_t + block};
    int begin, end;
    cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
    for (int i = begin; i < end; i++)
        item_grad(a, &w, &job->items[i]);
}

static void push_item(struct grad_job *job, struct grad_item item, double cost)
{
    job->items[job->num_items] = item;
    job->cost[job->num_items + 1] = job->cost[job->num_items] + cost;
    job->num_items++;
}

// Pairs of queries and keys in blocks, with a share for what a query costs on its own.
static double pairs(double len) { return len * (0.5 * len + 2 * VEC_WIDTH); }

static void push_sequence(struct grad_job *job, int n, double fair)
{
    const int len = job->a->seqs[n].len, blocks = (len + KEYS - 1) / KEYS;
    const int queries = queries_per_item(GROUP_ROWS, job->a->H);
    if (pairs(len) <= fair) {
        push_item(job, (struct grad_item){n, 0, blocks, 0, len, true, true}, pairs(len));
        return;
    }
    for (int b = 0; b < blocks; b++) {
        const int first = b * KEYS / queries * queries;
        push_item(job, (struct grad_item){n, b, b + 1, first, len, false, true},
                  0.6 * KEYS * (len - first));
    }
    for (int i = 0; i < len; i += queries) {
        const int end = i + queries < len ? i + queries : len;
        push_item(job, (struct grad_item){n, 0, (end + KEYS - 1) / KEYS, i, end, true, false},
                  0.5 * (end - i) * (double)end);
    }
}

int FAST(attention_grad)(struct device *dev, const struct attention_grad_args *a)
{
    if (a->type != DTYPE_F32 || a->dq_type != DTYPE_F32 || a->dkv_type != DTYPE_F32)
        return ref_attention_grad(dev, a);
    const int queries = queries_per_item(GROUP_ROWS, a->H);
    size_t count = 0;
    double total = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos == 0 && seq->len >= 0 && seq->query >= 0 && seq->query + seq->len <= a->T);
        count += (size_t)(seq->len / KEYS + seq->len / queries) + 2;
        total += pairs(seq->len);
    }
    struct grad_job job = {.dev = dev, .a = a};
    job.items = mem_alloc(count * sizeof(*job.items));
    job.cost = mem_alloc((count + 1) * sizeof(*job.cost));
    job.cost[0] = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const int size = team_size(dev->team);
        push_sequence(&job, n, size == 1 ? total : total / (4.0 * size));
    }
    cpu_run(dev, 10.0 * total * a->H * (a->R + a->Dr), attention_grad_share, &job);
    free(job.cost);
    free(job.items);
    return 0;
}
