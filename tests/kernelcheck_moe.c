// SPDX-License-Identifier: Apache-2.0
// Cases of the mixture of experts.
#include "base/philox.h"
#include "tests/kernelcheck.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct span dense(int rows, int cols)
{
    return span_rows((size_t)rows, (size_t)cols, (size_t)cols);
}

// ---- routing

struct route_shape {
    int T, E, K, n_group, topk_group;
    enum moe_scoring scoring;
    enum moe_group_rank rank;
    bool bias, normalise;
    double scale;
    bool nan; // some rows hold a NaN
};

static int route_rows(const void *shape) { return ((const struct route_shape *)shape)->T; }

// What is chosen among: a value in double, and the numbers that it is computed from.
struct pick {
    double value, from[4];
    int index;
};

static int by_value(const void *x, const void *y)
{
    const struct pick *a = x, *b = y;
    if (a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->index - b->index;
}

// No two devices round alike, so a choice is the same on all of them only when what is chosen and
// what is not differ by more than rounding, or are computed from the same numbers.
static bool is_clear(const struct pick *sorted, int n, int chosen)
{
    for (int i = 0; i < chosen; i++)
        for (int j = chosen; j < n; j++) {
            const double in = sorted[i].value, out = sorted[j].value;
            if (in - out <= 1e-4 * fmax(fabs(in), fabs(out)) + 1e-30 &&
                memcmp(sorted[i].from, sorted[j].from, sizeof sorted[i].from) != 0)
                return false;
        }
    return true;
}

// Experts by what they are chosen by.
static void rank_experts(const struct route_shape *s, const float *logits, const float *bias,
                         struct pick *pick)
{
    double max = -HUGE_VAL, total = 0.0;
    for (int e = 0; e < s->E; e++)
        max = fmax(max, (double)logits[e]);
    for (int e = 0; e < s->E; e++)
        total += exp((double)logits[e] - max);
    for (int e = 0; e < s->E; e++) {
        const double l = (double)logits[e], b = bias ? (double)bias[e] : 0.0;
        const double a = s->scoring == MOE_SOFTMAX ? exp(l - max) / total : 1.0 / (1.0 + exp(-l));
        pick[e] = (struct pick){.value = a + b, .from = {l, b}, .index = e};
    }
}

static struct pick group_of(const struct route_shape *s, const struct pick *sorted, int n, int g)
{
    struct pick group = {sorted[0].value, {sorted[0].from[0], sorted[0].from[1]}, g};
    if (s->rank == MOE_GROUP_TOP2 && n > 1) {
        group.value += sorted[1].value;
        group.from[2] = sorted[1].from[0];
        group.from[3] = sorted[1].from[1];
    }
    return group;
}

// Whether the choices in a row are clear, groups first.
static bool route_is_clear(const struct route_shape *s, const float *logits, const float *bias)
{
    enum { EXPERTS_MAX = 256 };
    struct pick pick[EXPERTS_MAX], groups[EXPERTS_MAX], left[EXPERTS_MAX];
    const int size = s->E / s->n_group, kept = s->n_group > 1 ? s->topk_group : 1;
    int n = 0;
    assert(s->E <= EXPERTS_MAX);
    rank_experts(s, logits, bias, pick);
    for (int g = 0; g < s->n_group; g++) {
        qsort(pick + g * size, (size_t)size, sizeof *pick, by_value);
        groups[g] = group_of(s, pick + g * size, size, g);
    }
    qsort(groups, (size_t)s->n_group, sizeof *groups, by_value);
    for (int g = 0; g < kept; g++)
        for (int i = 0; i < size; i++)
            left[n++] = pick[groups[g].index * size + i];
    qsort(left, (size_t)n, sizeof *left, by_value);
    return is_clear(groups, s->n_group, kept) && is_clear(left, n, s->K);
}

// Logits on a grid, so that equal ones are frequent; in rows 2, 5, 8, ... of four values only.
static void draw_logits(const struct call *c, const struct route_shape *s, int id,
                        const float *bias, float *logits)
{
    struct philox_stream random = philox_stream(philox_mix(c->seed, 77), (uint64_t)id);
    do {
        for (int e = 0; e < s->E; e++)
            logits[e] = id % 3 == 2 ? (float)philox_below(&random, 4) - 1.5f
                                    : ((float)philox_below(&random, 640) - 320.0f) / 64.0f;
    } while (!route_is_clear(s, logits, bias));
    if (s->nan && id % 4 == 1 && s->E > 1)
        logits[1 + (int)philox_below(&random, (uint32_t)s->E - 1)] = NAN;
}

static void build_route(struct call *c, const void *shape, const struct rows *rows)
{
    const struct route_shape *s = shape;
    struct moe_route_args *a = call_args(c, sizeof *a);
    call_text(c, "T %d E %d K %d, %d of %d groups by %s, %s%s%s", rows->n, s->E, s->K,
              s->topk_group, s->n_group, s->rank == MOE_GROUP_MAX ? "largest" : "two largest",
              s->scoring == MOE_SOFTMAX ? "softmax" : "sigmoid", s->bias ? ", bias" : "",
              s->normalise ? ", normalised" : "");
    *a = (struct moe_route_args){.T = rows->n,
                                 .E = s->E,
                                 .K = s->K,
                                 .n_group = s->n_group,
                                 .topk_group = s->topk_group,
                                 .scoring = s->scoring,
                                 .group_rank = s->rank,
                                 .normalise = s->normalise,
                                 .scale = (float)s->scale};
    float *bias = NULL;
    if (s->bias) {
        bias = array_floats(call_in(c, &a->bias, "bias", span_flat((size_t)s->E), NULL, 0.0));
        for (int e = 0; e < s->E; e++)
            bias[e] = ((float)call_random(c, "bias", e, 9) - 4.0f) / 16.0f;
    }
    float *logits =
        array_floats(call_in(c, &a->logits, "logits", dense(rows->n, s->E), rows->id, 1.0));
    for (int t = 0; t < rows->n; t++)
        draw_logits(c, s, rows->id[t], bias, logits + (size_t)t * (size_t)s->E);
    call_out(c, &a->scores, "scores", ELEMENT_F32, dense(rows->n, s->E), rows->id);
    call_out(c, &a->experts, "experts", ELEMENT_I32, dense(rows->n, s->K), rows->id);
    call_out(c, &a->weights, "weights", ELEMENT_F32, dense(rows->n, s->K), rows->id);
    c->bytes = 8.0 * rows->n * (s->E + s->K);
}

// Group ranks and choices of DeepSeek-V2 (softmax, largest) and V3 (sigmoid, bias, two largest),
// and mixtures of them.
static const struct route_shape route_shapes[] = {
    {0, 8, 2, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {1, 1, 1, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {3, 1, 1, 1, 1, MOE_SIGMOID, MOE_GROUP_MAX, .scale = 1, .normalise = true},
    {30, 5, 1, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {9, 8, 3, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {9, 8, 8, 1, 1, MOE_SIGMOID, MOE_GROUP_MAX, .scale = 2, .normalise = true},
    {33, 12, 4, 4, 2, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 16},
    {33, 16, 4, 4, 2, MOE_SIGMOID, MOE_GROUP_TOP2, true, true, .scale = 2.5},
    {20, 6, 2, 6, 3, MOE_SIGMOID, MOE_GROUP_TOP2, true, true, .scale = 1},
    {20, 17, 5, 1, 1, MOE_SIGMOID, MOE_GROUP_TOP2, true, false, .scale = 1},
    {40, 33, 7, 3, 2, MOE_SOFTMAX, MOE_GROUP_TOP2, true, true, .scale = 1},
    {40, 31, 2, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, false, true, .scale = 0.5},
    {65, 64, 6, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {30, 160, 6, 8, 3, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 16},
    {30, 256, 8, 8, 4, MOE_SIGMOID, MOE_GROUP_TOP2, true, true, .scale = 2.5},
    {12, 256, 32, 4, 4, MOE_SIGMOID, MOE_GROUP_MAX, true, true, .scale = 1},
    {300, 64, 8, 8, 4, MOE_SIGMOID, MOE_GROUP_TOP2, true, true, .scale = 1},
    {13, 16, 4, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1, .nan = true},
    {13, 40, 4, 1, 1, MOE_SIGMOID, MOE_GROUP_MAX, true, .scale = 1, .nan = true},
};
static const struct route_shape route_cpu[] = {
    {16384, 16, 4, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1}};
static const struct route_shape route_gpu[] = {
    {16384, 64, 6, 1, 1, MOE_SOFTMAX, MOE_GROUP_MAX, .scale = 1},
    {16384, 256, 8, 8, 4, MOE_SIGMOID, MOE_GROUP_TOP2, true, true, .scale = 2.5}};

// ---- backward of routing

static void route_grad_scale(const struct moe_route_grad_args *a, const float *score,
                             const float *dweight, const int *experts, double *out)
{
    double total = 1e-20, mixed = 0.0, mean = 0.0;
    for (int k = 0; k < a->K; k++) {
        total += (double)score[experts[k]];
        mixed += fabs((double)dweight[k] * (double)score[experts[k]]);
    }
    for (int k = 0; k < a->K; k++) {
        const double d = fabs((double)dweight[k]);
        out[experts[k]] = (double)a->scale * (a->normalise ? (d + mixed / total) / total : d);
        mean += out[experts[k]] * (double)score[experts[k]];
    }
    for (int e = 0; e < a->E; e++)
        out[e] = (out[e] + (a->scoring == MOE_SOFTMAX ? mean : 0.0)) * (double)score[e];
}

// K distinct experts by ascending index.
static void draw_experts(struct philox_stream *random, int *experts, int K, int E)
{
    for (int e = 0, k = 0; k < K; e++)
        if ((int)philox_below(random, (uint32_t)(E - e)) < K - k)
            experts[k++] = e;
}

static void build_route_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct route_shape *s = shape;
    struct moe_route_grad_args *a = call_args(c, sizeof *a);
    const size_t E = (size_t)s->E, K = (size_t)s->K, T = (size_t)rows->n;
    call_text(c, "T %d E %d K %d %s%s", rows->n, s->E, s->K,
              s->scoring == MOE_SOFTMAX ? "softmax" : "sigmoid",
              s->normalise ? ", normalised" : "");
    *a = (struct moe_route_grad_args){.T = rows->n,
                                      .E = s->E,
                                      .K = s->K,
                                      .scoring = s->scoring,
                                      .normalise = s->normalise,
                                      .scale = (float)s->scale};
    float *scores =
        array_floats(call_in(c, &a->scores, "scores", dense(rows->n, s->E), rows->id, 1.0));
    float *weights =
        array_floats(call_in(c, &a->weights, "weights", dense(rows->n, s->K), rows->id, 1.0));
    const float *dweights =
        array_floats(call_in(c, &a->dweights, "dweights", dense(rows->n, s->K), rows->id, 1.0));
    int *experts =
        array_ints(call_data(c, &a->experts, "experts", ELEMENT_I32, sizeof(int), T * K));
    for (size_t t = 0; t < T; t++) {
        struct philox_stream random = philox_stream(c->seed, (uint64_t)rows->id[t]);
        double total = 0.0, chosen = 1e-20;
        for (size_t e = 0; e < E; e++)
            total += exp((double)scores[t * E + e]);
        for (size_t e = 0; e < E; e++) {
            const double x = exp((double)scores[t * E + e]);
            scores[t * E + e] = (float)(x / (s->scoring == MOE_SOFTMAX ? total : 1.0 + x));
        }
        draw_experts(&random, experts + t * K, s->K, s->E);
        for (size_t k = 0; k < K; k++)
            chosen += (double)scores[t * E + (size_t)experts[t * K + k]];
        for (size_t k = 0; k < K; k++)
            weights[t * K + k] = (float)((double)scores[t * E + (size_t)experts[t * K + k]] /
                                         (s->normalise ? chosen : 1.0) * s->scale);
    }
    struct array *out =
        call_out(c, &a->dlogits, "dlogits", ELEMENT_F32, dense(rows->n, s->E), rows->id);
    c->bytes = 8.0 * rows->n * (s->E + s->K);
    if (!c->scales)
        return;
    double *scale = call_scale(c, out);
    for (size_t t = 0; t < T; t++)
        route_grad_scale(a, scores + t * E, dweights + t * K, experts + t * K, scale + t * E);
}

// ---- balance: a row of the harness is a sequence with those that continue it

enum { CONTINUED = 3 }; // by at most so many

struct balance_shape {
    int families, min, max; // sequences of min to max tokens
    int E, K;
    enum moe_scoring scoring;
};

static int balance_rows(const void *shape)
{
    return ((const struct balance_shape *)shape)->families;
}

// The sequences of a batch, family by family, and the identities of sequences and tokens.
struct balance_batch {
    struct attention_grad_seq *seqs;
    int *seq, *token;
    int num_seqs, T;
};

static void add_sequence(struct balance_batch *b, const struct balance_shape *s, int id, int prefix)
{
    const int len = s->min + (id * 7 + 3) % (s->max - s->min + 1);
    b->seqs[b->num_seqs] = (struct attention_grad_seq){
        .query = b->T, .len = len, .pos = -1, .key = -1, .prefix = prefix};
    b->seq[b->num_seqs++] = id;
    for (int j = 0; j < len; j++)
        b->token[b->T++] = id * s->max + j;
}

static struct balance_batch balance_batch(struct call *c, const struct balance_shape *s,
                                          const struct rows *rows)
{
    const int most = rows->n * (CONTINUED + 1);
    struct balance_batch b = {.seqs = ARENA_ARRAY(&c->memory, struct attention_grad_seq, most + 1),
                              .seq = ARENA_ARRAY(&c->memory, int, most + 1),
                              .token = ARENA_ARRAY(&c->memory, int, most * s->max + 1)};
    for (int i = 0; i < rows->n; i++) {
        const int id = rows->id[i] * (CONTINUED + 1), root = b.num_seqs;
        add_sequence(&b, s, id, -1);
        for (int j = 0; j < rows->id[i] % (CONTINUED + 1); j++)
            add_sequence(&b, s, id + 1 + j, root);
    }
    return b;
}

// Positive scores; of MOE_SOFTMAX they sum to 1.
static void make_scores(float *scores, const struct balance_shape *s, int T)
{
    for (float *row = scores; row < scores + (size_t)T * (size_t)s->E; row += s->E) {
        double total = 0.0;
        for (int e = 0; e < s->E; e++)
            total += exp((double)row[e]);
        for (int e = 0; e < s->E; e++) {
            const double x = exp((double)row[e]);
            row[e] = (float)(x / (s->scoring == MOE_SOFTMAX ? total : 1.0 + x));
        }
    }
}

// The magnitudes that are summed in the gradients of a part of a sequence of n tokens, of which f
// [E] are the shares.
static void balance_scale(const struct moe_balance_args *a, const struct attention_grad_seq *part,
                          double n, const float *scores, const double *f, double *out)
{
    for (int t = part->query; t < part->query + part->len; t++) {
        const float *score = scores + (size_t)t * (size_t)a->E;
        double total = 0.0, d = 0.0;
        for (int e = 0; e < a->E; e++) {
            total += (double)score[e];
            d += f[e] * (double)score[e];
        }
        total = a->scoring == MOE_SOFTMAX ? 1.0 : total;
        for (int e = 0; e < a->E; e++)
            out[(size_t)t * (size_t)a->E + (size_t)e] +=
                (double)a->weight / n * (f[e] + d / total) * (double)score[e] / total;
    }
}

static void balance_scales(const struct moe_balance_args *a, const struct balance_batch *b,
                           const float *scores, const int *experts, double *f, double *out)
{
    const struct attention_grad_seq nothing = {0};
    for (int s = 0; s < b->num_seqs; s++) {
        const struct attention_grad_seq *own = &b->seqs[s];
        const struct attention_grad_seq *before =
            own->prefix < 0 ? &nothing : &b->seqs[own->prefix];
        const struct attention_grad_seq *parts[2] = {before, own};
        const double n = (double)(before->len + own->len);
        memset(f, 0, (size_t)a->E * sizeof *f);
        for (int i = 0; i < 2; i++)
            for (int p = parts[i]->query * a->K; p < (parts[i]->query + parts[i]->len) * a->K; p++)
                f[experts[p]] += (double)a->E / ((double)a->K * n);
        for (int i = 0; i < 2; i++)
            balance_scale(a, parts[i], n, scores, f, out);
    }
}

static void build_balance(struct call *c, const void *shape, const struct rows *rows)
{
    const struct balance_shape *s = shape;
    struct moe_balance_args *a = call_args(c, sizeof *a);
    const struct balance_batch b = balance_batch(c, s, rows);
    const size_t T = (size_t)b.T, K = (size_t)s->K;
    call_text(c, "%d sequences of %d to %d, E %d K %d %s", b.num_seqs, s->min, s->max, s->E, s->K,
              s->scoring == MOE_SOFTMAX ? "softmax" : "sigmoid");
    *a = (struct moe_balance_args){.num_seqs = b.num_seqs,
                                   .T = b.T,
                                   .E = s->E,
                                   .K = s->K,
                                   .scoring = s->scoring,
                                   .weight = 0.37f};
    struct attention_grad_seq *seqs =
        call_data(c, &a->seqs, "seqs", ELEMENT_BYTES, sizeof *seqs, (size_t)b.num_seqs)->before;
    if (b.num_seqs > 0)
        memcpy(seqs, b.seqs, (size_t)b.num_seqs * sizeof *seqs);
    float *scores = array_floats(call_in(c, &a->scores, "scores", dense(b.T, s->E), b.token, 1.0));
    make_scores(scores, s, b.T);
    int *experts =
        array_ints(call_data(c, &a->experts, "experts", ELEMENT_I32, sizeof(int), T * K));
    for (size_t t = 0; t < T; t++) {
        struct philox_stream random = philox_stream(c->seed, (uint64_t)b.token[t]);
        draw_experts(&random, experts + t * K, s->K, s->E);
    }
    call_out(c, &a->loss, "loss", ELEMENT_F32, span_rows((size_t)b.num_seqs, 1, 1), b.seq);
    struct array *dlogits = call_inout(c, &a->dlogits, "dlogits", dense(b.T, s->E), b.token);
    c->bytes = 4.0 * b.T * (6.0 * s->E + s->K);
    if (!c->scales)
        return;
    double *scale = call_scale(c, dlogits), *f = ARENA_ARRAY(&c->memory, double, s->E);
    for (size_t i = 0; i < T * (size_t)s->E; i++)
        scale[i] = fabs((double)array_floats(dlogits)[i]);
    balance_scales(a, &b, scores, experts, f, scale);
}

static const struct balance_shape balance_shapes[] = {
    {0, 1, 1, 4, 2, MOE_SOFTMAX},       {1, 1, 1, 1, 1, MOE_SOFTMAX},
    {1, 0, 0, 8, 2, MOE_SIGMOID},       {5, 0, 7, 8, 2, MOE_SOFTMAX},
    {5, 0, 7, 8, 2, MOE_SIGMOID},       {3, 40, 90, 12, 4, MOE_SOFTMAX},
    {3, 40, 90, 33, 5, MOE_SIGMOID},    {2, 300, 400, 64, 6, MOE_SOFTMAX},
    {2, 300, 400, 256, 8, MOE_SIGMOID}, {40, 1, 30, 16, 4, MOE_SIGMOID},
};
static const struct balance_shape balance_cpu[] = {{32, 128, 128, 16, 4, MOE_SIGMOID}};
static const struct balance_shape balance_gpu[] = {{32, 512, 512, 64, 6, MOE_SOFTMAX},
                                                   {32, 512, 512, 256, 8, MOE_SIGMOID}};

// ---- permutation

struct permute_shape {
    int T, K, C, E;
    bool in_place;
    int special;
    bool in16, out16; // the arrays of that side that have a type are bfloat16
};

static enum element element_of(bool narrow) { return narrow ? ELEMENT_BF16 : ELEMENT_F32; }
static enum dtype type_of(bool narrow) { return narrow ? DTYPE_BF16 : DTYPE_F32; }
static double size_of(bool narrow) { return narrow ? 2.0 : 4.0; }

static int permute_rows(const void *shape) { return ((const struct permute_shape *)shape)->T; }

static void permute_text(struct call *c, const struct permute_shape *s, const struct rows *rows)
{
    call_text(c, "T %d K %d C %d E %d%s%s%s", rows->n, s->K, s->C, s->E,
              s->in_place ? " in place" : "", s->in16 ? " from bfloat16" : "",
              s->out16 ? " to bfloat16" : "");
}

static void build_sort(struct call *c, const void *shape, const struct rows *rows)
{
    const struct permute_shape *s = shape;
    struct moe_sort_args *a = call_args(c, sizeof *a);
    const size_t pairs = (size_t)rows->n * (size_t)s->K;
    permute_text(c, s, rows);
    *a = (struct moe_sort_args){.T = rows->n, .K = s->K, .E = s->E};
    int *experts =
        array_ints(call_data(c, &a->experts, "experts", ELEMENT_I32, sizeof(int), pairs));
    for (int t = 0; t < rows->n; t++) {
        struct philox_stream random = philox_stream(c->seed, (uint64_t)rows->id[t]);
        // Half of the tokens choose among the first half of the experts: some are crowded.
        const int E = rows->id[t] % 2 && s->E / 2 >= s->K ? s->E / 2 : s->E;
        draw_experts(&random, experts + t * s->K, s->K, E);
    }
    call_out(c, &a->segments, "segments", ELEMENT_I32, span_flat((size_t)s->E + 1), NULL);
    call_out(c, &a->slot, "slot", ELEMENT_I32, span_flat(pairs), NULL);
    call_out(c, &a->pair, "pair", ELEMENT_I32, span_flat(pairs), NULL);
    c->bytes = 12.0 * (double)pairs;
}

// A permutation of the pairs of a batch, another one in every call: slot[p], and its inverse.
static void draw_slots(const struct call *c, int *slot, int *pair, int pairs)
{
    struct philox_stream random = philox_stream(philox_mix(c->seed, c->nonce), 5);
    for (int p = 0; p < pairs; p++)
        slot[p] = p;
    for (int p = pairs - 1; p > 0; p--) {
        const int other = (int)philox_below(&random, (uint32_t)p + 1), held = slot[p];
        slot[p] = slot[other];
        slot[other] = held;
    }
    for (int p = 0; p < pairs; p++)
        pair[slot[p]] = p;
}

// The slots of a batch, bound to `field` as slot or as pair, and the identity of the pair in each
// slot.
struct permutation {
    const int *slot, *id;
};

static struct permutation build_permutation(struct call *c, const void *field, const char *name,
                                            const struct permute_shape *s, const struct rows *rows)
{
    const int pairs = rows->n * s->K;
    int *bound = array_ints(call_data(c, field, name, ELEMENT_I32, sizeof(int), (size_t)pairs));
    int *other = ARENA_ARRAY(&c->memory, int, pairs + 1);
    int *id = ARENA_ARRAY(&c->memory, int, pairs + 1);
    int *slot = strcmp(name, "slot") == 0 ? bound : other;
    int *pair = slot == bound ? other : bound;
    draw_slots(c, slot, pair, pairs);
    for (int i = 0; i < pairs; i++)
        id[i] = rows->id[pair[i] / s->K] * s->K + pair[i] % s->K;
    return (struct permutation){slot, id};
}

static void build_gather(struct call *c, const void *shape, const struct rows *rows)
{
    const struct permute_shape *s = shape;
    struct moe_gather_args *a = call_args(c, sizeof *a);
    permute_text(c, s, rows);
    *a = (struct moe_gather_args){.T = rows->n, .K = s->K, .C = s->C};
    a->x_type = type_of(s->in16);
    a->xs_type = type_of(s->out16);
    c->special = s->special;
    call_in_as(c, &a->x, "x", element_of(s->in16), dense(rows->n, s->C), rows->id, 1.0);
    const struct permutation p = build_permutation(c, &a->pair, "pair", s, rows);
    call_out(c, &a->xs, "xs", element_of(s->out16), dense(rows->n * s->K, s->C), p.id)->exact =
        true;
    c->bytes = (size_of(s->in16) + size_of(s->out16)) * rows->n * s->K * s->C;
}

// out[t] = sum over k of weight[t,k] ys[slot[t,k]], in magnitudes; weights NULL: 1.
static void combine_scale(const struct permute_shape *s, const struct rows *rows, const float *ys,
                          const float *weights, const int *slot, const struct array *y,
                          double *scale)
{
    const size_t C = (size_t)s->C, K = (size_t)s->K;
    for (size_t t = 0; t < (size_t)rows->n; t++)
        for (size_t i = 0; i < C; i++) {
            scale[t * C + i] = fabs((double)array_floats(y)[t * C + i]);
            for (size_t k = 0; k < K; k++)
                scale[t * C + i] += fabs((weights ? (double)weights[t * K + k] : 1.0) *
                                         (double)ys[(size_t)slot[t * K + k] * C + i]);
        }
}

static void build_gather_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct permute_shape *s = shape;
    struct moe_gather_grad_args *a = call_args(c, sizeof *a);
    permute_text(c, s, rows);
    *a = (struct moe_gather_grad_args){.T = rows->n, .K = s->K, .C = s->C};
    const struct permutation p = build_permutation(c, &a->slot, "slot", s, rows);
    c->special = s->special;
    const struct array *dxs = call_in(c, &a->dxs, "dxs", dense(rows->n * s->K, s->C), p.id, 1.0);
    c->special = 0;
    struct array *dx = call_inout(c, &a->dx, "dx", dense(rows->n, s->C), rows->id);
    c->bytes = 4.0 * rows->n * (s->K + 2) * s->C;
    if (c->scales)
        combine_scale(s, rows, array_floats(dxs), NULL, p.slot, dx, call_scale(c, dx));
}

static void build_combine(struct call *c, const void *shape, const struct rows *rows)
{
    const struct permute_shape *s = shape;
    struct moe_combine_args *a = call_args(c, sizeof *a);
    permute_text(c, s, rows);
    *a = (struct moe_combine_args){.T = rows->n, .K = s->K, .C = s->C};
    a->ys_type = type_of(s->in16);
    const struct permutation p = build_permutation(c, &a->slot, "slot", s, rows);
    c->special = s->special;
    const struct array *ys =
        call_in_as(c, &a->ys, "ys", element_of(s->in16), dense(rows->n * s->K, s->C), p.id, 1.0);
    c->special = 0;
    const struct array *weights =
        call_in(c, &a->weights, "weights", dense(rows->n, s->K), rows->id, 1.0);
    struct array *y = call_inout(c, &a->y, "y", dense(rows->n, s->C), rows->id);
    c->bytes = (size_of(s->in16) * s->K + 8.0) * rows->n * s->C;
    if (c->scales)
        combine_scale(s, rows, array_floats(ys), array_floats(weights), p.slot, y,
                      call_scale(c, y));
}

static void build_combine_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct permute_shape *s = shape;
    struct moe_combine_grad_args *a = call_args(c, sizeof *a);
    const size_t C = (size_t)s->C, K = (size_t)s->K, pairs = (size_t)rows->n * K;
    permute_text(c, s, rows);
    *a = (struct moe_combine_grad_args){.T = rows->n, .K = s->K, .C = s->C};
    a->ys_type = type_of(s->in16);
    a->dys_type = type_of(s->out16);
    const struct permutation p = build_permutation(c, &a->slot, "slot", s, rows);
    c->special = s->special;
    struct array *ys =
        call_in_as(c, &a->ys, "ys", element_of(s->in16), dense((int)pairs, s->C), p.id, 1.0);
    c->special = 0;
    call_in(c, &a->weights, "weights", dense(rows->n, s->K), rows->id, 1.0);
    const struct array *dy = call_in(c, &a->dy, "dy", dense(rows->n, s->C), rows->id, 1.0);
    struct array *dys =
        call_out(c, &a->dys, "dys", element_of(s->out16), dense((int)pairs, s->C), p.id);
    dys->exact = true; // one product
    dys->alias = s->in_place ? ys : NULL;
    struct array *dweights =
        call_out(c, &a->dweights, "dweights", ELEMENT_F32, dense(rows->n, s->K), rows->id);
    c->bytes = (4.0 + size_of(s->in16) + size_of(s->out16)) * (double)pairs * s->C;
    if (!c->scales)
        return;
    double *scale = call_scale(c, dweights);
    for (size_t i = 0; i < pairs; i++)
        for (size_t j = 0; j < C; j++)
            scale[i] += fabs((double)array_floats(ys)[(size_t)p.slot[i] * C + j] *
                             (double)array_floats(dy)[i / K * C + j]);
}

static const struct permute_shape permute_shapes[] = {
    {0, 2, 8, 4},
    {1, 1, 1, 1},
    {3, 2, 0, 8},
    {1, 3, 7, 8, .in_place = true},
    {5, 1, 16, 3},
    {7, 3, 17, 8, .in_place = true},
    {9, 4, 33, 12},
    {31, 2, 15, 64},
    {33, 6, 48, 64, .in_place = true},
    {40, 8, 31, 256, .special = 60},
    {17, 4, 100, 16, .in_place = true},
    {2, 6, 2048, 64},
    {200, 4, 130, 16},
    {400, 8, 65, 40, .in_place = true},
    {7, 3, 17, 8, .out16 = true},
    {9, 4, 33, 12, .in16 = true},
    {33, 6, 48, 64, .in_place = true, .in16 = true, .out16 = true},
    {12, 8, 31, 256, .special = 60, .in16 = true, .out16 = true},
};
static const struct permute_shape permute_cpu[] = {{4096, 4, 512, 16},
                                                   {4096, 4, 512, 16, .in16 = true, .out16 = true}};
static const struct permute_shape permute_gpu[] = {
    {16384, 6, 2048, 64}, {16384, 6, 2048, 64, .in16 = true, .out16 = true}};

SLOT_CALL(moe_route, moe_route_args)
SLOT_CALL(moe_route_grad, moe_route_grad_args)
SLOT_CALL(moe_balance, moe_balance_args)
SLOT_CALL(moe_sort, moe_sort_args)
SLOT_CALL(moe_gather, moe_gather_args)
SLOT_CALL(moe_gather_grad, moe_gather_grad_args)
SLOT_CALL(moe_combine, moe_combine_args)
SLOT_CALL(moe_combine_grad, moe_combine_grad_args)

static const struct slot list[] = {
    {.name = "moe_route",
     .build = build_route,
     .run = run_moe_route,
     .rows = route_rows,
     SLOT_SHAPES(route_shapes, route_cpu, route_gpu),
     .tolerance = 32,
     .reason =
         "exponentials of up to 10 within 2 ulp, their sum, and two quotients; choices exact"},
    {.name = "moe_route_grad",
     .build = build_route_grad,
     .run = run_moe_route_grad,
     .rows = route_rows,
     SLOT_SHAPES(route_shapes, route_cpu, route_gpu),
     .tolerance = 16,
     .reason = "sums over the chosen experts, and a few products"},
    {.name = "moe_balance",
     .build = build_balance,
     .run = run_moe_balance,
     .rows = balance_rows,
     SLOT_SHAPES(balance_shapes, balance_cpu, balance_gpu),
     .tolerance = 8,
     .reason = "sums over E, and one over tokens"},
    {.name = "moe_sort",
     .build = build_sort,
     .run = run_moe_sort,
     .rows = permute_rows,
     SLOT_SHAPES(permute_shapes, permute_cpu, permute_gpu),
     .tolerance = 0,
     .reason = "whole numbers"},
    {.name = "moe_gather",
     .build = build_gather,
     .run = run_moe_gather,
     .rows = permute_rows,
     SLOT_SHAPES(permute_shapes, permute_cpu, permute_gpu),
     .tolerance = 0,
     .reason = "a copy"},
    {.name = "moe_gather_grad",
     .build = build_gather_grad,
     .run = run_moe_gather_grad,
     .rows = permute_rows,
     SLOT_SHAPES(permute_shapes, permute_cpu, permute_gpu),
     .tolerance = 4,
     .reason = "at most eight additions"},
    {.name = "moe_combine",
     .build = build_combine,
     .run = run_moe_combine,
     .rows = permute_rows,
     SLOT_SHAPES(permute_shapes, permute_cpu, permute_gpu),
     .tolerance = 6,
     .reason = "at most eight products and additions"},
    {.name = "moe_combine_grad",
     .build = build_combine_grad,
     .run = run_moe_combine_grad,
     .rows = permute_rows,
     SLOT_SHAPES(permute_shapes, permute_cpu, permute_gpu),
     .tolerance = 16,
     .reason = "a sum over C"},
};

const struct slots slots_moe = {list, sizeof list / sizeof *list};
