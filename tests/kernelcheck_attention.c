// SPDX-License-Identifier: Apache-2.0
// Cases of attention. A row is one query of one sequence; a batch of rows is cut into chunks
// of consecutive queries, so that subsets of a batch are chunked prefills and decodes. Blocks lie
// scattered, each between guards that begin after the last row that some query sees.
#include "base/philox.h"
#include "tests/kernelcheck.h"
#include <math.h>
#include <stdio.h>
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
    int kv_heads;       // keys of R + Dr with values of R behind them; 0: latent rows
    int followers;      // backward: so many sequences continue each of `prefix` tokens
    int prefix;
};

static struct attention_shape shape_of(const struct attention_case *s)
{
    const int Dk = s->R + s->Dr;
    return (struct attention_shape){.H = s->H,
                                    .kv_heads = s->kv_heads > 0 ? s->kv_heads : 1,
                                    .Dk = Dk,
                                    .Dv = s->R,
                                    .value_at = s->kv_heads > 0 ? Dk : 0,
                                    .scale = (float)(1.0 / sqrt((double)(Dk > 0 ? Dk : 1)))};
}

static size_t row_of(const struct attention_case *s)
{
    const struct attention_shape shape = shape_of(s);
    return (size_t)attention_row(&shape);
}

// Where the part that serves a head begins in a row.
static size_t part_of(const struct attention_shape *shape, size_t head)
{
    return head / (size_t)(shape->H / shape->kv_heads) * (size_t)attention_part(shape);
}

// The widths of a case, for messages.
static void say_case(struct call *c, const struct attention_case *s, const char *what)
{
    char heads[32] = "";
    if (s->kv_heads > 0)
        snprintf(heads, sizeof heads, " of %d of keys", s->kv_heads);
    call_text(c, "%sH %d%s R %d Dr %d, %s", s->bf16 ? "bfloat16, " : "", s->H, heads, s->R, s->Dr,
              what);
}

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
    const size_t D = row_of(s), slots = (size_t)s->seqs * BLOCKS_MAX;
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
    const struct attention_shape *shape = &a->shape;
    const size_t Dv = (size_t)shape->Dv, Dk = (size_t)shape->Dk, H = (size_t)shape->H;
    const size_t keys_max = (size_t)s->max + 1;
    const float **key = arena_push0(&c->memory, keys_max * sizeof *key);
    double *weight = arena_push0(&c->memory, keys_max * sizeof *weight);
    for (int i = 0; i < p->num_chunks; i++) {
        const struct chunk *k = &p->chunks[i];
        for (size_t row = (size_t)k->query * H; row < (size_t)(k->query + k->len) * H; row++) {
            const size_t keys = (size_t)k->pos + row / H - (size_t)k->query + 1;
            for (size_t u = 0; u < keys; u++)
                key[u] = array_floats(p->block[block_of(s, k->seq, (int)u / ATTENTION_BLOCK)]) +
                         u % ATTENTION_BLOCK * row_of(s) + part_of(shape, row % H);
            const double most = weigh(q + row * Dk, key, keys, Dk, (double)shape->scale, weight);
            for (size_t u = 0; u < keys; u++)
                for (size_t d = 0; d < Dv; d++)
                    out[row * Dv + d] += weight[u] * fabs((double)key[u][shape->value_at + (int)d]);
            if (lse)
                lse[row] = 1.0 + most + log((double)keys);
        }
    }
}

// ---- attention

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
    char what[80];
    snprintf(what, sizeof what, "%d queries, %d sequences of %d to %d", rows->n, s->seqs, s->min,
             s->max);
    say_case(c, s, what);
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
    // Grouped heads of keys.
    {6, 16, 0, 3, 1, 150, .gap = 1, .kv_heads = 2},
    {4, 80, 0, 2, 63, 129, .tail = 20, .kv_heads = 4},
    {8, 128, 0, 2, 64, 70, .special = 300, .kv_heads = 1},
    {32, 64, 0, 6, 127, 200, .tail = 1, .shared = 1, .kv_heads = 8},
    {10, 13, 5, 3, 1, 70, .no_lse = true, .empty = true, .kv_heads = 5},
    {9, 7, 0, 2, 520, 560, .tail = 3, .kv_heads = 3},
    {6, 16, 0, 3, 1, 150, .kv_heads = 2, .bf16 = true},
    {4, 80, 0, 2, 63, 129, .tail = 20, .kv_heads = 4, .bf16 = true},
    {8, 128, 0, 2, 64, 70, .special = 300, .kv_heads = 1, .bf16 = true},
    {32, 64, 0, 6, 127, 200, .tail = 1, .shared = 1, .kv_heads = 8, .bf16 = true},
    {10, 13, 5, 3, 1, 70, .gap = 1, .empty = true, .kv_heads = 5, .bf16 = true},
    {9, 7, 0, 2, 520, 560, .tail = 3, .no_lse = true, .kv_heads = 3, .bf16 = true},
    {32, 64, 0, 2, 40, 600, .kv_heads = 8, .tail = 30, .bf16 = true},
};
static const struct attention_case attention_cpu[] = {
    {8, 128, 32, 8, 128, 128},
    {8, 128, 32, 256, 128, 128, .tail = 1},
    {8, 128, 32, 8, 128, 128, .bf16 = true},
    {8, 128, 32, 4, 256, 256, .bf16 = true},
    {8, 128, 32, 256, 128, 128, .tail = 1, .bf16 = true},
    {32, 64, 0, 8, 128, 128, .kv_heads = 8},
    {32, 64, 0, 256, 128, 128, .tail = 1, .kv_heads = 8},
    {32, 64, 0, 8, 128, 128, .kv_heads = 8, .bf16 = true},
    {32, 64, 0, 256, 128, 128, .tail = 1, .kv_heads = 8, .bf16 = true}};
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
    {8, 128, 32, 32, 512, 512, .bf16 = true},
    {32, 64, 0, 8, 1024, 1024, .kv_heads = 8, .bf16 = true},
    {32, 64, 0, 128, 1024, 1024, .tail = 1, .kv_heads = 8, .bf16 = true}};

// ---- backward: packed sequences; a row of the harness is a whole family: a sequence and those
// that continue it

static int attention_grad_rows(const void *shape)
{
    return ((const struct attention_case *)shape)->seqs;
}

// Member i of a family: its length, the tokens before it, and its own keys.
static int member_len(const struct attention_case *s, int family, int i)
{
    if (s->followers == 0)
        return length_of(s, family);
    return i == 0 ? s->prefix : length_of(s, family * s->followers + i - 1);
}
static int member_pos(const struct attention_case *s, int i) { return i == 0 ? 0 : s->prefix; }
static int member_keys(const struct attention_case *s, int family, int i)
{
    return member_pos(s, i) % ATTENTION_BLOCK + member_len(s, family, i);
}

// The sequences of a batch, and the identities of the rows of its arrays, counted over all families
// of the shape: of q, and of kv as inputs, where copies of a prefix's rows are what those are, and
// as outputs. `gap` rows of none are before each sequence.
struct packed {
    struct attention_grad_seq *seqs;
    int *token, *key, *key_out;
    int num_seqs, T, N;
};

static void pack_member(struct packed *p, const struct attention_case *s, int family, int i,
                        int token, int key, int prefix_key)
{
    const int pos = member_pos(s, i), len = member_len(s, family, i), gap = s->gap;
    const int copies = pos % ATTENTION_BLOCK;
    p->seqs[p->num_seqs] = (struct attention_grad_seq){.query = p->T + gap,
                                                       .len = len,
                                                       .pos = pos,
                                                       .key = p->N + gap,
                                                       .prefix = i == 0 ? -1 : p->num_seqs - i};
    for (int j = -gap; j < len; j++)
        p->token[p->T++] = j < 0 ? -1 : token + j;
    for (int j = -gap; j < copies + len; j++, p->N++) {
        p->key_out[p->N] = j < 0 ? -1 : key + j;
        p->key[p->N] = j < 0 ? -1 : j < copies ? prefix_key + pos - copies + j : key + j;
    }
    p->num_seqs++;
}

static struct packed pack_families(struct call *c, const struct attention_case *s,
                                   const struct rows *rows, const void *field)
{
    const int members = s->followers + 1;
    size_t room = 1;
    for (int i = 0; i < rows->n; i++)
        for (int j = 0; j < members; j++)
            room += (size_t)(member_keys(s, rows->id[i], j) + s->gap);
    const size_t count = (size_t)rows->n * (size_t)members;
    struct packed p = {
        .seqs = call_data(c, field, "seqs", ELEMENT_BYTES, sizeof *p.seqs, count)->before,
        .token = ARENA_ARRAY(&c->memory, int, room + (size_t)s->gap),
        .key = ARENA_ARRAY(&c->memory, int, room + (size_t)s->gap),
        .key_out = ARENA_ARRAY(&c->memory, int, room + (size_t)s->gap),
    };
    for (int i = 0; i < rows->n; i++) {
        // Whole batches have their families in order, subsets in reverse.
        const int family = rows->id[c->nonce % 2 ? rows->n - 1 - i : i];
        int token = 0, key = 0;
        for (int before = 0; before < family; before++)
            for (int j = 0; j < members; j++) {
                token += member_len(s, before, j);
                key += member_keys(s, before, j);
            }
        const int prefix_key = key;
        for (int j = 0; j < members; j++) {
            pack_member(&p, s, family, j, token, key, prefix_key);
            token += member_len(s, family, j);
            key += member_keys(s, family, j);
        }
    }
    for (int j = 0; j < s->gap; j++) {
        p.token[p.T++] = -1;
        p.key[p.N] = p.key_out[p.N] = -1;
        p.N++;
    }
    return p;
}

// Row of kv of the key at position u.
static size_t key_row(const struct packed *p, const struct attention_grad_seq *seq, size_t u)
{
    const size_t before = (size_t)(seq->pos / ATTENTION_BLOCK * ATTENTION_BLOCK);
    return u < before ? (size_t)p->seqs[seq->prefix].key + u : (size_t)seq->key + u - before;
}

struct grad_inputs {
    const float *q, *kv, *out, *dout, *lse;
};

// One head of query i of a sequence.
static void grad_scale_of_row(const struct attention_grad_args *a, const struct packed *packed,
                              const struct grad_inputs *in, const struct attention_grad_seq *seq,
                              size_t i, size_t head, double *dq, double *dkv)
{
    const struct attention_shape *s = &a->shape;
    const size_t Dv = (size_t)s->Dv, Dk = (size_t)s->Dk;
    const size_t row = ((size_t)seq->query + i) * (size_t)s->H + head;
    const float *q = in->q + row * Dk, *dout = in->dout + row * Dv;
    const double delta = dot_magnitude(dout, in->out + row * Dv, Dv), scale = (double)s->scale;
    for (size_t u = 0; u <= (size_t)seq->pos + i; u++) {
        const size_t at = key_row(packed, seq, u) * (size_t)attention_row(s) + part_of(s, head);
        const float *key = in->kv + at, *value = key + s->value_at;
        const double magnitude = scale * dot_magnitude(q, key, Dk) + fabs((double)in->lse[row]);
        const double p = exp(scale * dot(q, key, Dk) - (double)in->lse[row]) * (1.0 + magnitude);
        const double ds = scale * p * (dot_magnitude(dout, value, Dv) + delta);
        for (size_t d = 0; d < Dk; d++) {
            dq[row * Dk + d] += ds * fabs((double)key[d]);
            dkv[at + d] += ds * fabs((double)q[d]);
        }
        for (size_t d = 0; d < Dv; d++)
            dkv[at + (size_t)s->value_at + d] += p * fabs((double)dout[d]);
    }
}

static void grad_scales(const struct attention_grad_args *a, const struct packed *p,
                        const struct grad_inputs *in, double *dq, double *dkv)
{
    for (int n = 0; n < p->num_seqs; n++)
        for (size_t i = 0; i < (size_t)p->seqs[n].len; i++)
            for (size_t h = 0; h < (size_t)a->shape.H; h++)
                grad_scale_of_row(a, p, in, &p->seqs[n], i, h, dq, dkv);
}

// About what the scores' exponentials sum to.
static void raise_lse(const struct packed *p, size_t H, float *lse)
{
    for (int n = 0; n < p->num_seqs; n++)
        for (size_t j = 0; j < (size_t)p->seqs[n].len * H; j++)
            lse[(size_t)p->seqs[n].query * H + j] +=
                logf((float)p->seqs[n].pos + (float)(j / H) + 1.0f) + 0.5f;
}

static void build_attention_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct attention_case *s = shape;
    struct attention_grad_args *a = call_args(c, sizeof *a);
    const struct packed p = pack_families(c, s, rows, &a->seqs);
    const enum element element = element_of(s);
    char what[80];
    snprintf(what, sizeof what, "%d sequences of %d to %d, %d continue %d, gap %d", s->seqs, s->min,
             s->max, s->followers, s->prefix, s->gap);
    say_case(c, s, what);
    a->type = a->dq_type = s->bf16 ? DTYPE_BF16 : DTYPE_F32;
    a->dkv_type = s->dkv16 ? DTYPE_BF16 : DTYPE_F32;
    a->shape = shape_of(s);
    a->num_seqs = p.num_seqs;
    a->T = p.T;
    a->N = p.N;
    a->prefixes = s->followers > 0;
    const size_t T = (size_t)p.T, N = (size_t)p.N, H = (size_t)s->H, D = row_of(s);
    const size_t values = H * (size_t)a->shape.Dv, keys = H * (size_t)a->shape.Dk;
    const struct span out = span_rows(T, values, values), q = span_rows(T, keys, keys);
    struct grad_inputs in;
    in.q = array_floats(call_in_as(c, &a->q, "q", element, q, p.token, 1.0));
    in.kv = array_floats(call_in_as(c, &a->kv, "kv", element, span_rows(N, D, D), p.key, 1.0));
    in.out = array_floats(call_in_as(c, &a->out, "out", element, out, p.token, 1.0));
    in.dout = array_floats(call_in_as(c, &a->dout, "dout", element, out, p.token, 1.0));
    struct array *lse = call_in(c, &a->lse, "lse", span_rows(T, H, H), p.token, 0.3);
    raise_lse(&p, H, array_floats(lse));
    in.lse = array_floats(lse);
    struct array *dq = call_out(c, &a->dq, "dq", element, q, p.token);
    struct array *dkv = call_out(c, &a->dkv, "dkv", s->dkv16 ? ELEMENT_BF16 : ELEMENT_F32,
                                 span_rows(N, D, D), p.key_out);
    set_unit(s, dq);
    set_unit(s, dkv);
    double pairs = 0.0;
    for (int n = 0; n < p.num_seqs; n++)
        pairs += p.seqs[n].len * (p.seqs[n].pos + 0.5 * (p.seqs[n].len + 1));
    c->flops = 2.0 * pairs * s->H * (3 * a->shape.Dk + 2 * a->shape.Dv);
    c->bf16 = s->bf16;
    if (c->scales)
        grad_scales(a, &p, &in, call_scale(c, dq), call_scale(c, dkv));
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
    // Grouped heads of keys.
    {6, 16, 0, 3, 1, 150, .gap = 1, .kv_heads = 2},
    {4, 80, 0, 2, 1, 70, .kv_heads = 4},
    {4, 128, 0, 2, 5, 66, .kv_heads = 1},
    {32, 64, 0, 2, 1, 20, .kv_heads = 8},
    {10, 13, 5, 3, 0, 70, .gap = 2, .kv_heads = 5},
    {6, 16, 0, 3, 1, 150, .kv_heads = 2, .bf16 = true},
    {4, 80, 0, 2, 1, 70, .kv_heads = 4, .bf16 = true},
    {4, 128, 0, 2, 5, 66, .kv_heads = 1, .bf16 = true},
    {32, 64, 0, 2, 1, 20, .kv_heads = 8, .bf16 = true},
    {9, 13, 5, 3, 0, 70, .gap = 2, .kv_heads = 3, .bf16 = true, .dkv16 = true},
    // Sequences that continue others. The first of 0 tokens and the first of 1 are of such lengths.
    {4, 32, 8, 2, 0, 70, .followers = 3, .prefix = 0},
    {4, 32, 8, 2, 1, 20, .followers = 1, .prefix = 1},
    {5, 33, 7, 2, 0, 66, .followers = 4, .prefix = 63},
    {4, 32, 8, 2, 0, 66, .gap = 2, .followers = 3, .prefix = 64},
    {3, 24, 16, 2, 1, 20, .followers = 9, .prefix = 65},
    {2, 17, 3, 2, 0, 60, .gap = 1, .followers = 3, .prefix = 200},
    {6, 16, 0, 2, 0, 70, .gap = 1, .kv_heads = 2, .followers = 3, .prefix = 65},
    {4, 64, 0, 2, 1, 20, .kv_heads = 2, .followers = 2, .prefix = 66},
    {4, 80, 0, 2, 0, 40, .kv_heads = 4, .followers = 4, .prefix = 64},
    {5, 33, 7, 2, 0, 66, .followers = 4, .prefix = 63, .bf16 = true},
    {4, 32, 8, 2, 1, 66, .followers = 2, .prefix = 64, .bf16 = true},
    {3, 24, 16, 2, 0, 20, .gap = 1, .followers = 9, .prefix = 65, .bf16 = true, .dkv16 = true},
    {3, 512, 64, 2, 0, 9, .followers = 3, .prefix = 65, .bf16 = true},
    {6, 16, 0, 2, 0, 70, .gap = 1, .kv_heads = 2, .followers = 3, .prefix = 65, .bf16 = true},
    {4, 64, 0, 2, 1, 20, .kv_heads = 2, .followers = 2, .prefix = 66, .bf16 = true},
    {8, 128, 0, 2, 1, 40, .kv_heads = 1, .followers = 3, .prefix = 1, .bf16 = true, .dkv16 = true},
};
static const struct attention_case attention_grad_cpu[] = {
    {8, 128, 32, 8, 128, 128},
    {8, 128, 32, 8, 128, 128, .bf16 = true},
    {8, 128, 32, 4, 256, 256, .bf16 = true},
    {8, 128, 32, 1, 1024, 1024, .bf16 = true},
    {32, 64, 0, 8, 128, 128, .kv_heads = 8},
    {32, 64, 0, 8, 128, 128, .kv_heads = 8, .bf16 = true},
    {8, 128, 32, 1, 128, 128, .followers = 8, .prefix = 128},
    {8, 128, 32, 1, 128, 128, .followers = 8, .prefix = 128, .bf16 = true},
    {8, 128, 32, 8, 256, 256, .bf16 = true},
    {32, 64, 0, 1, 128, 128, .kv_heads = 8, .followers = 8, .prefix = 128, .bf16 = true}};
static const struct attention_case attention_grad_gpu[] = {
    {16, 512, 64, 8, 1024, 1024},
    {8, 128, 32, 32, 512, 512},
    {16, 512, 64, 8, 1024, 1024, .bf16 = true},
    {8, 128, 32, 32, 512, 512, .bf16 = true},
    {32, 64, 0, 8, 1024, 1024, .kv_heads = 8, .bf16 = true},
    {32, 64, 0, 1, 512, 512, .kv_heads = 8, .followers = 8, .prefix = 512, .bf16 = true}};

SLOT_CALL(attention, attention_args)
SLOT_CALL(attention_grad, attention_grad_args)

static const struct slot list[] = {
    {.name = "attention",
     .build = build_attention,
     .run = run_attention,
     .rows = attention_rows,
     SLOT_SHAPES(attention_shapes, attention_cpu, attention_gpu),
     .tolerance = 16,
     .reason = "chains over the width and over the keys; errors of scores count in the scale"},
    {.name = "attention_grad",
     .build = build_attention_grad,
     .run = run_attention_grad,
     .rows = attention_grad_rows,
     SLOT_SHAPES(attention_grad_shapes, attention_grad_cpu, attention_grad_gpu),
     .tolerance = 16,
     .reason = "as attention, and sums over the queries"},
};

const struct slots slots_attention = {list, sizeof list / sizeof *list};
