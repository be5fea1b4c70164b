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

#define GROUP_ROWS   64 // rows of a group of queries
#define QUERY_GROUPS 4  // of an item that gives dq alone

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

// Scratch of a rank. Of the key blocks of an item, one after the other; of the group of queries at
// hand. Operands of products that lie in the arrays themselves need none.
struct grad_work {
    float *keys_t;      // [blocks] of keys_floats
    float *kv;          // [blocks] of keys_floats: widened rows, or packed ones
    float *q, *dout;    // [rows,D] and [rows,R] widened
    void *q_b, *dout_b; // and packed by pairs of rows
    float *p, *ds;      // [rows,KEYS]
    struct attention_room room;
    float *delta; // [rows] dout . out
    float *dq;    // [rows,D] when dq is bfloat16
    float *dkv;   // [blocks,KEYS,D] when dkv is
};

static size_t keys_floats(const struct attention_grad_args *a)
{
    return (round_up_cols(a->shape.Dk) + 1) * KEYS;
}

// A group of queries of a sequence at `start`: their rows at `base`, and what products read of
// them.
struct grad_group {
    size_t start, base;
    int first, len;
    struct attention_rows q, dout;
    const void *q_b, *dout_b;
    float *dq, *dkv; // dkv: of the key blocks of the item
};

// p and ds of m rows of the group from `row` on, of which row i sees the keys below visible0 + i /
// H of the block that keys_t is of. Lanes past the visible keys are 0.
static void probabilities(const struct attention_grad_args *a, const struct grad_work *w,
                          const struct grad_group *g, const float *keys_t, int row, int m,
                          int visible0)
{
    const int D = a->shape.Dk, seen = visible0 + (row + m - 1) / a->shape.H;
    const int keys = seen < KEYS ? seen : KEYS;
    float *p = w->p + (size_t)row * KEYS, *ds = w->ds + (size_t)row * KEYS;
    const vec scale = vec_set1(a->shape.scale);
    score_rows(skip_rows(g->q, row), m, keys_t, D, D, keys, p, w->room);
    score_rows(skip_rows(g->dout, row), m, keys_t, D, a->shape.Dv, keys, ds, w->room);
    for (int i = 0; i < m; i++, p += KEYS, ds += KEYS) {
        const int visible = visible0 + (row + i) / a->shape.H;
        const vec lse = vec_set1(a->lse[g->base + (size_t)(row + i)]);
        const vec delta = vec_set1(w->delta[row + i]);
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

// dkv[keys, 0..n) += w[rows,KEYS]^T x[rows,n], x as pack_rows gives it, its rows ldx apart.
static void add_to_keys(const struct grad_work *work, const float *w, int rows, int keys,
                        enum dtype type, const void *x, size_t ldx, int n, float *dkv, size_t D)
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
            .c = dkv,
            .ldc = D,
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
        .c = dkv,
        .ldc = D,
        .mode = GEMM_CHAIN,
        .work = work->room.gemm,
    };
    FAST(gemm_bf16)(&product);
}

// The group against key block b, `keys_t` and `kv` of it. The first group that sees a key finds its
// gradient zero.
static void group_grad(const struct attention_grad_args *a, const struct grad_work *w,
                       const struct grad_item *item, const struct grad_group *g, int b,
                       const float *keys_t, struct attention_values kv)
{
    const int rows = g->len * a->shape.H, visible0 = g->first + 1 - b * KEYS,
              seen = visible0 + g->len - 1;
    const int keys = seen < KEYS ? seen : KEYS, D = a->shape.Dk;
    float *dkv = g->dkv + (size_t)(b - item->key_begin) * KEYS * (size_t)D;
    for (int row = 0; row < rows; row += GEMM_BF16_TILE) {
        const int m = rows - row < GEMM_BF16_TILE ? rows - row : GEMM_BF16_TILE;
        probabilities(a, w, g, keys_t, row, m, visible0);
    }
    for (int row = 0; row < rows && item->dq; row += GEMM_BF16_TILE) {
        const int m = rows - row < GEMM_BF16_TILE ? rows - row : GEMM_BF16_TILE;
        const int here = visible0 + (row + m - 1) / a->shape.H;
        if (here > 0)
            weigh_keys(w->ds + (size_t)row * KEYS, m, kv, here < KEYS ? here : KEYS, D,
                       g->dq + (size_t)row * (size_t)D, (size_t)D, b == 0, w->room);
    }
    if (item->dkv) {
        add_to_keys(w, w->ds, rows, keys, g->q.type, g->q_b, g->q.ld, D, dkv, (size_t)D);
        add_to_keys(w, w->p, rows, keys, g->dout.type, g->dout_b, g->dout.ld, a->shape.Dv, dkv,
                    (size_t)D);
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

// Queries [first, first + len) against the key blocks of the item that they see.
static void queries_grad(const struct attention_grad_args *a, const struct grad_work *w,
                         const struct grad_item *item, const struct attention_values *kv, int first,
                         int len)
{
    const size_t start = (size_t)a->seqs[item->seq].query, H = (size_t)a->shape.H,
                 R = (size_t)a->shape.Dv;
    const size_t D = (size_t)a->shape.Dk, base = (start + (size_t)first) * H;
    const int rows = len * a->shape.H;
    struct grad_group g = {.start = start, .base = base, .first = first, .len = len, .dq = w->dq};
    g.q = read_rows(a->q, a->type, base * D, D, rows, (int)D, w->q);
    g.dout = read_rows(a->dout, a->type, base * R, R, rows, a->shape.Dv, w->dout);
    if (item->dkv) {
        g.q_b = pack_rows(g.q, rows, (int)D, w->q_b);
        g.dout_b = pack_rows(g.dout, rows, a->shape.Dv, w->dout_b);
    }
    for (int i = 0; i < rows; i++)
        w->delta[i] = row_dot(a->dout, a->out, a->type, (base + (size_t)i) * R, R);
    if (a->dq_type == DTYPE_F32)
        g.dq = (float *)a->dq + base * D;
    g.dkv = a->dkv_type == DTYPE_F32
                ? (float *)a->dkv +
                      ((size_t)a->seqs[item->seq].key + (size_t)item->key_begin * KEYS) * D
                : w->dkv;
    for (int b = item->key_begin; b < item->key_end && b * KEYS < first + len; b++)
        group_grad(a, w, item, &g, b, w->keys_t + (size_t)(b - item->key_begin) * keys_floats(a),
                   kv[b - item->key_begin]);
    if (item->dq && a->dq_type != DTYPE_F32)
        copy_as(a->dq, a->dq_type, base * D, g.dq, DTYPE_F32, 0, (size_t)rows * D);
}

static void item_grad(const struct attention_grad_args *a, const struct grad_work *w,
                      const struct grad_item *item, struct attention_values *kv)
{
    const struct attention_grad_seq *seq = &a->seqs[item->seq];
    const int queries = queries_per_item(GROUP_ROWS, a->shape.H), D = a->shape.Dk;
    for (int b = item->key_begin; b < item->key_end; b++) {
        const int keys = seq->len - b * KEYS < KEYS ? seq->len - b * KEYS : KEYS;
        const size_t at = ((size_t)seq->key + (size_t)b * KEYS) * (size_t)D;
        const size_t place = (size_t)(b - item->key_begin) * keys_floats(a);
        const struct attention_rows rows =
            read_rows(a->kv, a->type, at, (size_t)D, keys, D, w->kv + place);
        FAST(transpose_keys)(rows, keys, D, w->keys_t + place);
        kv[b - item->key_begin] = (struct attention_values){pack_rows(rows, keys, D, w->kv + place),
                                                            rows.ld, keys, rows.type};
        if (item->dkv && a->dkv_type == DTYPE_F32)
            memset((float *)a->dkv + at, 0, (size_t)keys * (size_t)D * sizeof(float));
    }
    const int last = item->key_end * KEYS < seq->len ? item->key_end * KEYS : seq->len;
    const size_t rounded = item->dkv && a->dkv_type != DTYPE_F32
                               ? (size_t)(last - item->key_begin * KEYS) * (size_t)D
                               : 0;
    if (rounded > 0)
        memset(w->dkv, 0, rounded * sizeof(float));
    // Groups are counted from the first query of the sequence, in every item.
    for (int i = item->first; i < item->end; i += queries)
        queries_grad(a, w, item, kv, i, seq->len - i < queries ? seq->len - i : queries);
    copy_as(a->dkv, a->dkv_type, ((size_t)seq->key + (size_t)item->key_begin * KEYS) * (size_t)D,
            w->dkv, DTYPE_F32, 0, rounded);
}

static void attention_grad_share(void *arg, int rank, int size)
{
    const struct grad_job *job = arg;
    const struct attention_grad_args *a = job->a;
    const size_t D = (size_t)(a->shape.Dk), cols = round_up_cols(a->shape.Dk);
    const size_t rows = (size_t)(queries_per_item(GROUP_ROWS, a->shape.H) * a->shape.H) + 1;
    int begin, end, blocks = 0;
    cpu_share_by_cost(job->cost, job->num_items, rank, size, &begin, &end);
    for (int i = begin; i < end; i++) {
        const int here = job->items[i].key_end - job->items[i].key_begin;
        blocks = here > blocks ? here : blocks;
    }
    const size_t keys = (size_t)blocks * keys_floats(a);
    const size_t values = (size_t)blocks * sizeof(struct attention_values) / sizeof(float);
    const size_t dkv = a->dkv_type == DTYPE_F32 ? 0 : (size_t)blocks * KEYS * D;
    const size_t deepest = D > rows ? D : rows;
    const size_t gemm = gemm_bf16_work(deepest > KEYS ? (int)deepest : KEYS);
    float *scratch = cpu_scratch(job->dev, rank,
                                 gemm + dkv + 2 * keys + values +
                                     rows * (3 * D + 2 * cols + 3 * KEYS + 1) + 13 * SCRATCH_LINE);
    struct grad_work w;
    w.keys_t = take(&scratch, keys);
    w.kv = take(&scratch, keys);
    w.q = take(&scratch, rows * D);
    w.dout = take(&scratch, rows * D);
    w.q_b = take(&scratch, rows * cols);
    w.dout_b = take(&scratch, rows * cols);
    w.p = take(&scratch, rows * KEYS);
    w.ds = take(&scratch, rows * KEYS);
    w.room.half = (uint16_t *)(void *)take(&scratch, rows * KEYS);
    w.room.gemm = take(&scratch, gemm);
    w.delta = take(&scratch, rows);
    w.dq = take(&scratch, rows * D);
    w.dkv = take(&scratch, dkv);
    struct attention_values *kv = (struct attention_values *)(void *)take(&scratch, values);
    for (int i = begin; i < end; i++)
        item_grad(a, &w, &job->items[i], kv);
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
    const int queries = queries_per_item(GROUP_ROWS, job->a->shape.H);
    if (pairs(len) <= fair) {
        push_item(job, (struct grad_item){n, 0, blocks, 0, len, true, true}, pairs(len));
        return;
    }
    for (int b = 0; b < blocks; b++) {
        const int first = b * KEYS / queries * queries;
        push_item(job, (struct grad_item){n, b, b + 1, first, len, false, true},
                  0.6 * KEYS * (len - first));
    }
    for (int i = 0; i < len; i += QUERY_GROUPS * queries) {
        const int end = i + QUERY_GROUPS * queries < len ? i + QUERY_GROUPS * queries : len;
        push_item(job, (struct grad_item){n, 0, (end + KEYS - 1) / KEYS, i, end, true, false},
                  0.5 * (end - i) * (double)end);
    }
}

int FAST(attention_grad)(struct device *dev, const struct attention_grad_args *a)
{
    if (a->shape.kv_heads > 1 || a->shape.value_at > 0 || a->prefixes)
        return ref_attention_grad(dev, a);
    const int queries = queries_per_item(GROUP_ROWS, a->shape.H);
    size_t count = 0;
    double total = 0.0;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_grad_seq *seq = &a->seqs[n];
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
    cpu_run(dev, 10.0 * total * a->shape.H * (a->shape.Dk), attention_grad_share, &job);
    free(job.cost);
    free(job.items);
    return 0;
}
