// SPDX-License-Identifier: Apache-2.0
// Cases of latent attention. A row is one query of one sequence; a batch of rows is cut into chunks
// of consecutive queries, so that subsets of a batch are chunked prefills and decodes. Blocks lie
// scattered, each between guards that begin after the last row that some query sees.
#include "base/philox.h"
#include "tests/kernelcheck.h"
#include <math.h>
#include <stdlib.h>

struct attention_case {
    int H, R, Dr;
    int seqs, min, max; // sequences, and the range of their lengths
    int tail;           // queries: the last ones of each sequence; 0: all
    int shared;         // leading blocks that every four sequences share
    int gap;       // rows that belong to no sequence: around the queries, or between packed ones
    double spread; // of queries; 0: 1
    bool no_lse, empty; // empty: one more sequence, without queries
    bool bf16;          // rows and outputs; backward: dq as well
    bool dkv16;         // backward: and dkv
    int special;        // in queries
};

static enum element element_of(const struct attention_case *s)
{
    return s->bf16 ? ELEMENT_BF16 : ELEMENT_F32;
}

// With bfloat16 rows the weights of the second products may be rounded to bfloat16, and the output
// is: 16 units are 2^-8 of a scale that counts every weight's magnitude.
static void set_unit(const struct attention_case *s, struct array *out)
{
    out->unit = s->bf16 ? 0x1p-12 : 0.0;
}

static int length_of(const struct attention_case *s, int seq)
{
    const uint32_t range = (uint32_t)(s->max - s->min) + 1;
    // The first ones are the longest and the shortest.
    if (seq < 2)
        return seq == 0 ? s->max : s->min;
    return s->min + (int)(philox4x32(7, (uint64_t)seq, range).v[0] % range);
}

static int queries_of(const struct attention_case *s, int seq)
{
    const int len = length_of(s, seq);
    return s->tail > 0 && s->tail < len ? s->tail : len;
}

static int attention_rows(const void *shape)
{
    const struct attention_case *s = shape;
    int n = 0;
    for (int i = 0; i < s->seqs; i++)
        n += queries_of(s, i);
    return n;
}

// Sequence and position of a row.
static int locate(const struct attention_case *s, int id, int *pos)
{
    int seq = 0;
    while (id >= queries_of(s, seq))
        id -= queries_of(s, seq++);
    *pos = length_of(s, seq) - queries_of(s, seq) + id;
    return seq;
}

// ---- blocks

enum { BLOCKS_MAX = 64, CHUNKS_MAX = 4096 };

struct chunk {
    int seq, query, len, pos;
};

// A batch of rows as chunks, and the blocks they see.
struct plan {
    struct chunk *chunks;
    int num_chunks;
    int *seen;            // [seqs,BLOCKS_MAX] keys of a block that some query sees
    struct array **block; // [seqs,BLOCKS_MAX]
};

// Sequences that share a block use that of the first of them.
static size_t block_of(const struct attention_case *s, int seq, int b)
{
    return (size_t)(b < s->shared ? seq / 4 * 4 : seq) * BLOCKS_MAX + (size_t)b;
}

static void plan_chunks(struct plan *p, const struct attention_case *s, const struct rows *rows,
                        uint64_t nonce)
{
    for (int t = 0; t < rows->n; t++) {
        int pos;
        const int seq = locate(s, rows->id[t], &pos);
        struct chunk *last = p->num_chunks > 0 ? &p->chunks[p->num_chunks - 1] : NULL;
        // Subsets are cut in more places than they need to be.
        const bool cut = nonce > 0 && philox4x32(nonce, (uint64_t)t, 3).v[0] % 5 == 0;
        if (last && last->seq == seq && last->pos + last->len == pos && !cut)
            last->len++;
        else
            p->chunks[p->num_chunks++] = (struct chunk){seq, s->gap + t, 1, pos};
    }
    for (int i = 0; i < p->num_chunks; i++) {
        const struct chunk *k = &p->chunks[i];
        for (int b = 0; b * ATTENTION_BLOCK < k->pos + k->len; b++) {
            const int keys = k->pos + k->len - b * ATTENTION_BLOCK;
            int *seen = &p->seen[block_of(s, k->seq, b)];
            const int here = keys < ATTENTION_BLOCK ? keys : ATTENTION_BLOCK;
            *seen = here > *seen ? here : *seen;
        }
    }
}

// Blocks in an order that has nothing to do with their sequences.
static void place_blocks(struct call *c, struct plan *p, const struct attention_case *s)
{
    const size_t D = (size_t)s->R + (size_t)s->Dr, slots = (size_t)s->seqs * BLOCKS_MAX;
    const size_t step = slots % 7919 == 0 ? 1 : 7919;
    for (size_t i = 0, at = c->nonce % slots; i < slots; i++, at = (at + step) % slots) {
        if (p->seen[at] == 0)
            continue;
        const int seen = p->seen[at];
        int *row = ARENA_ARRAY(&c->memory, int, seen);
        for (int u = 0; u < seen; u++)
            row[u] = (int)at * ATTENTION_BLOCK + u;
        p->block[at] =
            call_in_as(c, NULL, "block", element_of(s), span_rows((size_t)seen, D, D), row, 1.0);
    }
}

static struct plan make_plan(struct call *c, const struct attention_case *s,
                             const struct rows *rows)
{
    struct plan p = {
        .chunks = ARENA_ARRAY(&c->memory, struct chunk, rows->n + 1),
        .seen = ARENA_ARRAY(&c->memory, int, s->seqs *BLOCKS_MAX + 1),
        .block = ARENA_ARRAY(&c->memory, struct array *, s->seqs * BLOCKS_MAX + 1),
    };
    plan_chunks(&p, s, rows, c->nonce);
    if (s->seqs > 0)
        place_blocks(c, &p, s);
    return p;
}

// ---- what errors are measured by

static double dot_magnitude(const float *x, const float *y, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)x[i] * (double)y[i]);
    return sum;
}

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

// One query row against `keys` keys: p[keys] becomes its probabilities, each times 1 + the
// magnitude of its score: an error of a score is a relative error of its probability. Returns the
// largest of those magnitudes.
static double weigh(const float *q, const float *const *key, size_t keys, size_t D, double scale,
                    double *p)
{
    double max = -HUGE_VAL, total = 0.0, most = 0.0;
    for (size_t u = 0; u < keys; u++) {
        p[u] = scale * dot(q, key[u], D);
        max = fmax(max, p[u]);
    }
    for (size_t u = 0; u < keys; u++)
        total += exp(p[u] - max);
    for (size_t u = 0; u < keys; u++) {
        const double magnitude = scale * dot_magnitude(q, key[u], D);
        p[u] = exp(p[u] - max) / total * (1.0 + magnitude);
        most = fmax(most, magnitude);
    }
    return most;
}

static void attention_scale(struct call *c, const struct attention_args *a, const struct plan *p,
                            const struct attention_case *s, const float *q, double *out,
                            double *lse)
{
    const size_t R = (size_t)a->shape.Dv, D = (size_t)a->shape.Dk, H = (size_t)a->shape.H;
    const size_t keys_max = (size_t)s->max + 1;
    const float **key = arena_push0(&c->memory, keys_max * sizeof *key);
    double *weight = arena_push0(&c->memory, keys_max * sizeof *weight);
    for (int i = 0; i < p->num_chunks; i++) {
        const struct chunk *k = &p->chunks[i];
        for (size_t u = 0; u < (size_t)(k->pos + k->len); u++)
            key[u] = array_floats(p->block[block_of(s, k->seq, (int)u / ATTENTION_BLOCK)]) +
                     u % ATTENTION_BLOCK * D;
        for (size_t row = (size_t)k->query * H; row < (size_t)(k->query + k->len) * H; row++) {
            const size_t keys = (size_t)k->pos + row / H - (size_t)k->query + 1;
            const double most = weigh(q + row * D, key, keys, D, (double)a->shape.scale, weight);
            for (size_t u = 0; u < keys; u++)
                for (size_t r = 0; r < R; r++)
                    out[row * R + r] += weight[u] * fabs((double)key[u][r]);
            if (lse)
                lse[row] = 1.0 + most + log((double)keys);
        }
    }
}

// ---- attention

static struct attention_shape shape_of(const struct attention_case *s)
{
    const int Dk = s->R + s->Dr;
    return (struct attention_shape){.H = s->H,
                                    .kv_heads = 1,
                                    .Dk = Dk,
                                    .Dv = s->R,
                                    .scale = (float)(1.0 / sqrt((double)(Dk > 0 ? Dk : 1)))};
}

static void build_seqs(struct call *c, const void *field, const void *blocks_field,
                       const struct attention_case *s, const struct plan *p, int *num_seqs)
{
    int entries = 0, at = 0;
    for (int i = 0; i < p->num_chunks; i++)
        entries += (p->chunks[i].pos + p->chunks[i].len - 1) / ATTENTION_BLOCK + 1;
    *num_seqs = p->num_chunks + s->empty;
    struct attention_seq *seqs =
        call_data(c, field, "seqs", ELEMENT_BYTES, sizeof *seqs, (size_t)*num_seqs)->before;
    struct array **table =
        call_data(c, blocks_field, "kv_blocks", ELEMENT_ADDRESS, sizeof(void *), (size_t)entries)
            ->before;
    for (int i = 0; i < p->num_chunks; i++) {
        // Whole batches list their sequences in order, subsets in reverse.
        const struct chunk *k = &p->chunks[c->nonce % 2 ? p->num_chunks - 1 - i : i];
        seqs[i] = (struct attention_seq){k->query, k->len, k->pos, at};
        for (int b = 0; b * ATTENTION_BLOCK < k->pos + k->len; b++)
            table[at++] = p->block[block_of(s, k->seq, b)];
    }
}

static double visible_pairs(const struct plan *p)
{
    double sum = 0.0;
    for (int i = 0; i < p->num_chunks; i++)
        sum += p->chunks[i].len * (p->chunks[i].pos + 0.5 * (p->chunks[i].len + 1));
    return sum;
}

static void build_attention(struct call *c, const void *shape, const struct rows *rows)
{
    const struct attention_case *s = shape;
    struct attention_args *a = call_args(c, sizeof *a);
    const size_t H = (size_t)s->H, R = (size_t)s->R, D = R + (size_t)s->Dr;
    const size_t T = (size_t)rows->n + 2 * (size_t)s->gap;
    int *id = ARENA_ARRAY(&c->memory, int, T + 1);
    for (size_t t = 0; t < T; t++)
        id[t] = -1;
    for (int t = 0; t < rows->n; t++)
        id[s->gap + t] = rows->id[t];
    call_text(c, "%sH %d R %d Dr %d, %d queries, %d sequences of %d to %d",
              s->bf16 ? "bfloat16, " : "", s->H, s->R, s->Dr, rows->n, s->seqs, s->min, s->max);
    a->type = s->bf16 ? DTYPE_BF16 : DTYPE_F32;
    a->shape = shape_of(s);
    c->special = s->special;
    const struct array *q = call_in_as(c, &a->q, "q", element_of(s), span_rows(T, H * D, H * D), id,
                                       s->spread > 0 ? s->spread : 1.0);
    c->special = 0;
    struct plan p = make_plan(c, s, rows);
    build_seqs(c, &a->seqs, &a->kv_blocks, s, &p, &a->num_seqs);
    a->T = (int)T;
    for (int i = 0; i < p.num_chunks; i++) {
        const int keys = p.chunks[i].pos + p.chunks[i].len;
        a->max_keys = keys > a->max_keys ? keys : a->max_keys;
    }
    struct array *out = call_out(c, &a->out, "out", element_of(s), span_rows(T, H * R, H * R), id);
    set_unit(s, out);
    struct array *lse =
        s->no_lse ? NULL : call_out(c, &a->lse, "lse", ELEMENT_F32, span_rows(T, H, H), id);
    c->flops = 2.0 * visible_pairs(&p) * s->H * (2 * s->R + s->Dr);
    c->bf16 = s->bf16;
    if (c->scales)
        attention_scale(c, a, &p, s, array_floats(q), call_scale(c, out),
                        lse ? call_scale(c, lse) : NULL);
}

static const struct attention_case attention_shapes[] = {
    {4, 32, 8, 0, 1, 1},
    {1, 1, 1, 1, 1, 1},
    {1, 16, 0, 2, 1, 3, .empty = true},
    {3, 7, 2, 3, 1, 65, .gap = 2},
    {4, 32, 8, 3, 1, 150},
    {4, 32, 8, 4, 1, 70, .special = 300},
    {4, 32, 8, 40, 1, 12, .empty = true, .gap = 1},
    {4, 32, 8, 5, 64, 64, .no_lse = true},
    {5, 33, 7, 3, 63, 129, .tail = 20},
    {8, 24, 16, 6, 127, 200, .tail = 1, .shared = 1},
    {2, 17, 3, 9, 129, 260, .tail = 3, .shared = 2},
    {4, 32, 8, 2, 100, 130, .spread = 30, .tail = 40},
    {8, 128, 32, 2, 20, 70, .tail = 30},
    {16, 512, 64, 2, 66, 140, .tail = 3},
    {16, 512, 64, 3, 1, 9},
    {128, 16, 8, 2, 3, 5},
    {300, 4, 2, 1, 3, 3},
    {1, 64, 64, 1, 1000, 1000, .tail = 10},
    {1, 1, 2, 1, 1, 1, .bf16 = true},
    {3, 7, 2, 3, 1, 65, .bf16 = true},
    {5, 33, 7, 3, 63, 129, .tail = 20, .bf16 = true},
    {8, 24, 16, 6, 127, 200, .tail = 1, .shared = 1, .bf16 = true},
    {8, 128, 32, 2, 20, 70, .tail = 30, .bf16 = true},
    {16, 512, 64, 2, 66, 140, .tail = 3, .bf16 = true},
    {128, 16, 8, 2, 3, 5, .bf16 = true},
    {2, 64, 64, 2, 600, 1300, .tail = 40, .bf16 = true},
    {16, 512, 64, 2, 1, 70, .bf16 = true},
    {16, 512, 64, 4, 500, 1100, .tail = 2, .shared = 2, .bf16 = true},
    {128, 512, 64, 2, 60, 580, .tail = 1, .bf16 = true},
    {16, 512, 64, 5, 60, 1100, .tail = 1, .shared = 2, .bf16 = true},
    {16, 512, 64, 7, 30, 1160, .tail = 1, .bf16 = true},
    {3, 512, 64, 3, 1, 600, .tail = 1, .bf16 = true, .empty = true, .no_lse = true},
    // Several queries a sequence, and of their subsets one: not the same kernel.
    {5, 512, 64, 2, 600, 1290, .tail = 3, .bf16 = true},
    {16, 512, 64, 2, 1040, 1100, .tail = 2, .spread = 30, .bf16 = true},
};
static const struct attention_case attention_cpu[] = {
    {8, 128, 32, 8, 128, 128},
    {8, 128, 32, 256, 128, 128, .tail = 1},
    {8, 128, 32, 8, 128, 128, .bf16 = true},
    {8, 128, 32, 4, 256, 256, .bf16 = true},
    {8, 128, 32, 256, 128, 128, .tail = 1, .bf16 = true}};
static const struct attention_case attention_gpu[] = {
    {16, 512, 64, 8, 1024, 1024},
    {16, 512, 64, 128, 1024, 1024, .tail = 1},
    {16, 512, 64, 64, 4000, 4000, .tail = 1},
    {8, 128, 32, 32, 512, 512},
    {16, 512, 64, 8, 1024, 1024, .bf16 = true},
    {16, 512, 64, 128, 1024, 1024, .tail = 1, .bf16 = true},
    {16, 512, 64, 1, 4000, 4000, .tail = 1, .bf16 = true},
    {16, 512, 64, 64, 4000, 4000, .tail = 1, .bf16 = true},
    {16, 512, 64, 256, 4000, 4000, .tail = 1, .bf16 = true},
    {128, 512, 64, 64, 4000, 4000, .tail = 1, .bf16 = true},
    {8, 128, 32, 32, 512, 512, .bf16 = true}};

// ---- backward: packed sequences; a row of the harness is a whole one

static int attention_grad_rows(const void *shape)
{
    return ((const struct attention_case *)shape)->seqs;
}

// Rows of the sequences of a batch one after the other, `gap` rows of none before each. Identities
// are counted over all sequences of the shape.
static int *token_rows_of(struct call *c, const struct attention_case *s, const struct rows *rows,
                          struct attention_grad_seq *seqs, int *T)
{
    int total = s->gap, at = 0;
    for (int i = 0; i < rows->n; i++)
        total += length_of(s, rows->id[i]) + s->gap;
    int *row = ARENA_ARRAY(&c->memory, int, total + 1);
    for (int i = 0; i < rows->n; i++) {
        const int len = length_of(s, rows->id[i]);
        int first = 0;
        for (int j = 0; j < rows->id[i]; j++)
            first += length_of(s, j);
        for (int j = 0; j < s->gap; j++)
            row[at++] = -1;
        seqs[c->nonce % 2 ? rows->n - 1 - i : i] =
            (struct attention_grad_seq){.query = at, .len = len, .key = at, .prefix = -1};
        for (int j = 0; j < len; j++)
            row[at++] = first + j;
    }
    for (int j = 0; j < s->gap; j++)
        row[at++] = -1;
    *T = total;
    return row;
}

struct grad_inputs {
    const float *q, *kv, *out, *dout, *lse;
};

static void grad_scale_of_row(const struct attention_grad_args *a, const struct grad_inputs *in,
                              size_t first, size_t row, size_t keys, double *dq, double *dkv)
{
    const size_t R = (size_t)a->shape.Dv, D = (size_t)a->shape.Dk;
    const float *q = in->q + row * D, *dout = in->dout + row * R;
    const double delta = dot_magnitude(dout, in->out + row * R, R), scale = (double)a->shape.scale;
    for (size_t u = 0; u < keys; u++) {
        const float *kv = in->kv + (first + u) * D;
        const double magnitude = scale * dot_magnitude(q, kv, D) + fabs((double)in->lse[row]);
        const double p = exp(scale * dot(q, kv, D) - (double)in->lse[row]) * (1.0 + magnitude);
        const double ds = scale * p * (dot_magnitude(dout, kv, R) + delta);
        for (size_t d = 0; d < D; d++) {
            dq[row * D + d] += ds * fabs((double)kv[d]);
            dkv[(first + u) * D + d] +=
                ds * fabs((double)q[d]) + (d < R ? p * fabs((double)dout[d]) : 0.0);
        }
    }
}

static void build_attention_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct attention_case *s = shape;
    struct attention_grad_args *a = call_args(c, sizeof *a);
    struct attention_grad_seq *seqs =
        call_data(c, &a->seqs, "seqs", ELEMENT_BYTES, sizeof *seqs, (size_t)rows->n)->before;
    const int *id = token_rows_of(c, s, rows, seqs, &a->T);
    const size_t T = (size_t)a->T, H = (size_t)s->H, R = (size_t)s->R, D = R + (size_t)s->Dr;
    double pairs = 0.0;
    call_text(c, "%sH %d R %d Dr %d, %d sequences of %d to %d, gap %d", s->bf16 ? "bfloat16, " : "",
              s->H, s->R, s->Dr, s->seqs, s->min, s->max, s->gap);
    const enum element element = element_of(s);
    a->type = a->dq_type = s->bf16 ? DTYPE_BF16 : DTYPE_F32;
    a->dkv_type = s->dkv16 ? DTYPE_BF16 : DTYPE_F32;
    a->num_seqs = rows->n;
    a->N = a->T;
    a->shape = shape_of(s);
    struct grad_inputs in;
    const struct span values = span_rows(T, H * R, H * R), row = span_rows(T, H * D, H * D);
    in.q = array_floats(call_in_as(c, &a->q, "q", element, row, id, 1.0));
    in.kv = array_floats(call_in_as(c, &a->kv, "kv", element, span_rows(T, D, D), id, 1.0));
    in.out = array_floats(call_in_as(c, &a->out, "out", element, values, id, 1.0));
    in.dout = array_floats(call_in_as(c, &a->dout, "dout", element, values, id, 1.0));
    struct array *lse = call_in(c, &a->lse, "lse", span_rows(T, H, H), id, 0.3);
    // About what the scores' exponentials sum to.
    for (int i = 0; i < rows->n; i++)
        for (size_t j = 0; j < (size_t)seqs[i].len * H; j++)
            array_floats(lse)[(size_t)seqs[i].query * H + j] += logf((float)(j / H) + 1.0f) + 0.5f;
    in.lse = array_floats(lse);
    struct array *dq = call_out(c, &a->dq, "dq", element, row, id);
    struct array *dkv =
        call_out(c, &a->dkv, "dkv", s->dkv16 ? ELEMENT_BF16 : ELEMENT_F32, span_rows(T, D, D), id);
    set_unit(s, dq);
    set_unit(s, dkv);
    for (int i = 0; i < rows->n; i++)
        pairs += 0.5 * seqs[i].len * (seqs[i].len + 1);
    c->flops = 2.0 * pairs * s->H * (5 * s->R + 3 * s->Dr);
    c->bf16 = s->bf16;
    if (!c->scales)
        return;
    double *dq_scale = call_scale(c, dq), *dkv_scale = call_scale(c, dkv);
    for (int i = 0; i < rows->n; i++)
        for (size_t j = 0; j < (size_t)seqs[i].len * H; j++)
            grad_scale_of_row(a, &in, (size_t)seqs[i].query, (size_t)seqs[i].query * H + j,
                              j / H + 1, dq_scale, dkv_scale);
}

static const struct attention_case attention_grad_shapes[] = {
    {4, 32, 8, 0, 1, 1},
    {1, 1, 1, 1, 1, 1},
    {1, 16, 0, 2, 1, 3, .gap = 2},
    {3, 7, 2, 3, 1, 65},
    {4, 32, 8, 3, 1, 150},
    {4, 32, 8, 40, 0, 12, .gap = 1},
    {4, 32, 8, 2, 64, 64},
    {5, 33, 7, 2, 63, 129},
    {2, 17, 3, 2, 30, 260, .gap = 3},
    {8, 128, 32, 2, 10, 40},
    {16, 512, 64, 3, 2, 12},
    {128, 16, 8, 2, 3, 5},
    {300, 4, 2, 1, 3, 3},
    {1, 1, 2, 1, 1, 1, .bf16 = true},
    {3, 7, 2, 3, 1, 65, .bf16 = true},
    {5, 33, 7, 2, 63, 129, .gap = 1, .bf16 = true},
    {8, 128, 32, 2, 10, 40, .bf16 = true},
    {16, 512, 64, 3, 2, 12, .bf16 = true},
    {2, 64, 64, 2, 60, 200, .bf16 = true},
    {3, 24, 9, 3, 1, 150, .gap = 2, .bf16 = true, .dkv16 = true},
    {16, 512, 64, 2, 40, 90, .gap = 1, .bf16 = true},
    {128, 512, 64, 2, 3, 20, .bf16 = true},
};
static const struct attention_case attention_grad_cpu[] = {
    {8, 128, 32, 8, 128, 128},
    {8, 128, 32, 8, 128, 128, .bf16 = true},
    {8, 128, 32, 4, 256, 256, .bf16 = true},
    {8, 128, 32, 1, 1024, 1024, .bf16 = true}};
static const struct attention_case attention_grad_gpu[] = {
    {16, 512, 64, 8, 1024, 1024},
    {8, 128, 32, 32, 512, 512},
    {16, 512, 64, 8, 1024, 1024, .bf16 = true},
    {8, 128, 32, 32, 512, 512, .bf16 = true}};

SLOT_CALL(attention, attention_args)
SLOT_CALL(attention_grad, attention_grad_args)

static const struct slot list[] = {
    {.name = "attention",
     .build = build_attention,
     .run = run_attention,
     .rows = attention_rows,
     SLOT_SHAPES(attention_shapes, attention_cpu, attention_gpu),
     .tolerance = 16,
     .reason = "chains over R + Dr and over the keys; errors of scores count in the scale"},
    {.name = "attention_grad",
     .build = build_attention_grad,
     .run = run_attention_grad,
     .rows = attention_grad_rows,
     SLOT_SHAPES(attention_grad_shapes, attention_grad_cpu, attention_grad_gpu),
     .tolerance = 16,
     .reason = "as attention, and sums over the queries"},
};

const struct slots slots_attention = {list, sizeof list / sizeof *list};
