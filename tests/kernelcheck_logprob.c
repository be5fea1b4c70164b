// SPDX-License-Identifier: Apache-2.0
// Cases of the last product with log-probability and entropy, and of sampling.
#include "base/philox.h"
#include "kernels/cpu/element.h"
#include "tests/kernelcheck.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct span dense(int rows, int cols)
{
    return span_rows((size_t)rows, (size_t)cols, (size_t)cols);
}

struct logprob_shape {
    int T, C, V;
    bool no_entropy;
    int special;
    bool bf16; // hidden and weights
};

static enum element element_of(bool bf16) { return bf16 ? ELEMENT_BF16 : ELEMENT_F32; }
static enum dtype type_of(bool bf16) { return bf16 ? DTYPE_BF16 : DTYPE_F32; }

static int logprob_rows(const void *shape) { return ((const struct logprob_shape *)shape)->T; }

// Logits of a spread of about 2, whatever C is.
static double weight_spread(int C) { return C > 0 ? 2.0 / sqrt(C) : 1.0; }

static void build_tokens(struct call *c, const void *token, const void *tau,
                         const struct rows *rows, int V)
{
    static const float taus[] = {1.0f, 0.0f, 0.6f, 1.7f};
    int *tokens =
        array_ints(call_data(c, token, "token", ELEMENT_I32, sizeof(int), (size_t)rows->n));
    float *t = array_floats(call_data(c, tau, "tau", ELEMENT_F32, sizeof(float), (size_t)rows->n));
    for (int i = 0; i < rows->n; i++) {
        tokens[i] = (int)call_random(c, "token", rows->id[i], (uint32_t)V);
        t[i] = taus[call_random(c, "tau", rows->id[i], 4)];
    }
}

// A row of z = hidden W / tau in double, with the statistics of its softmax.
struct row_values {
    double *z, *magnitude;
    double max, log_total, entropy, most; // most: the largest magnitude of a logit
};

static void row_values(struct row_values *r, const float *hidden, const float *w, float tau, int C,
                       int V)
{
    const double inverse = tau == 0.0f ? 1.0 : 1.0 / (double)tau;
    double total = 0.0, weighted = 0.0;
    memset(r->z, 0, (size_t)V * sizeof *r->z);
    memset(r->magnitude, 0, (size_t)V * sizeof *r->magnitude);
    for (int i = 0; i < C; i++)
        for (int v = 0; v < V; v++) {
            const double x =
                (double)hidden[i] * (double)w[(size_t)i * (size_t)V + (size_t)v] * inverse;
            r->z[v] += x;
            r->magnitude[v] += fabs(x);
        }
    r->max = -HUGE_VAL;
    r->most = 0.0;
    for (int v = 0; v < V; v++) {
        r->max = fmax(r->max, r->z[v]);
        r->most = fmax(r->most, r->magnitude[v]);
    }
    for (int v = 0; v < V; v++) {
        total += exp(r->z[v] - r->max);
        weighted += exp(r->z[v] - r->max) * (r->z[v] - r->max);
    }
    r->log_total = log(total);
    r->entropy = r->log_total - weighted / total;
}

static struct row_values new_row(struct call *c, int V)
{
    return (struct row_values){.z = ARENA_ARRAY(&c->memory, double, V + 1),
                               .magnitude = ARENA_ARRAY(&c->memory, double, V + 1)};
}

static void build_logprob(struct call *c, const void *shape, const struct rows *rows)
{
    const struct logprob_shape *s = shape;
    struct linear_logprob_args *a = call_args(c, sizeof *a);
    call_text(c, "T %d C %d V %d%s%s", rows->n, s->C, s->V, s->no_entropy ? " no entropy" : "",
              s->bf16 ? " bfloat16" : "");
    *a = (struct linear_logprob_args){.T = rows->n, .C = s->C, .V = s->V, .type = type_of(s->bf16)};
    c->special = s->special;
    const float *hidden = array_floats(call_in_as(c, &a->hidden, "hidden", element_of(s->bf16),
                                                  dense(rows->n, s->C), rows->id, 1.0));
    c->special = 0;
    const float *w = array_floats(
        call_packed_as(c, &a->w, "w", element_of(s->bf16), s->C, s->V, 1, weight_spread(s->C)));
    build_tokens(c, &a->token, &a->tau, rows, s->V);
    const float *tau = array_floats(c->arrays[c->num_arrays - 1]);
    struct array *logprob =
        call_out(c, &a->logprob, "logprob", ELEMENT_F32, dense(rows->n, 1), rows->id);
    struct array *entropy = s->no_entropy ? NULL
                                          : call_out(c, &a->entropy, "entropy", ELEMENT_F32,
                                                     dense(rows->n, 1), rows->id);
    c->flops = 2.0 * rows->n * s->C * s->V;
    c->bf16 = s->bf16;
    if (!c->scales)
        return;
    struct row_values r = new_row(c, s->V);
    double *lp = call_scale(c, logprob), *h = entropy ? call_scale(c, entropy) : NULL;
    for (int t = 0; t < rows->n; t++) {
        row_values(&r, hidden + (size_t)t * (size_t)s->C, w, tau[t], s->C, s->V);
        lp[t] = 1.0 + 2.0 * r.most + r.log_total;
        if (h)
            h[t] = (1.0 + r.most) * (1.0 + r.log_total);
    }
}

static const struct logprob_shape logprob_shapes[] = {
    {0, 8, 5},
    {1, 1, 1},
    {3, 5, 2},
    {1, 0, 3},
    {2, 48, 15},
    {5, 17, 16, .no_entropy = true},
    {7, 33, 17},
    {13, 48, 160},
    {25, 64, 33, .no_entropy = true},
    {12, 31, 1000},
    {4, 513, 97},
    {9, 24, 65, .special = 60},
    {3, 8, 20011},
    {260, 24, 4099},
    {1, 8, 5, .bf16 = true},
    {3, 0, 7, .bf16 = true},
    {17, 33, 129, .bf16 = true},
    {70, 64, 200, .no_entropy = true, .bf16 = true},
    {150, 72, 1000, .bf16 = true},
    {9, 24, 65, .special = 60, .bf16 = true},
    {130, 136, 513, .bf16 = true},
};
static const struct logprob_shape logprob_cpu[] = {{512, 512, 8192},
                                                   {512, 512, 8192, .bf16 = true}};
static const struct logprob_shape logprob_gpu[] = {{4096, 2048, 32768},
                                                   {8192, 2048, 32768, .bf16 = true}};

// ---- backward

enum { LOGPROB_GRAD_TOLERANCE = 128 };

// Adds the shares of one row: the magnitudes of its logits' gradient, times what they meet.
static void logprob_grad_scale(const struct linear_logprob_grad_args *a, struct row_values *r,
                               const float *hidden, const float *w, int token, float tau, double dl,
                               double de, double *dhidden, double *dw)
{
    const size_t C = (size_t)a->C, V = (size_t)a->V;
    row_values(r, hidden, w, tau, a->C, a->V);
    for (size_t v = 0; v < V; v++) {
        const double l = r->z[v] - r->max - r->log_total, p = exp(l);
        const double hit = (int)v == token ? 1.0 : 0.0;
        const double soft = p * (fabs(dl) + fabs(de) * (fabs(l) + r->entropy)) * (1.0 + r->most);
        const double d = (fabs(dl) * hit + soft) / (tau == 0.0f ? 1.0 : (double)tau);
        for (size_t i = 0; i < C; i++) {
            dhidden[i] += d * fabs((double)w[i * V + v]);
            dw[v * C + i] += d * fabs((double)hidden[i]);
        }
    }
}

// Changes a number of an input, of a BF16 one to a number that BF16 has.
static void array_set(struct array *a, size_t i, float x)
{
    array_floats(a)[i] = x;
    if (a->element == ELEMENT_BF16)
        ((uint16_t *)a->before)[i] = bf16_round(x);
}

static void build_logprob_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct logprob_shape *s = shape;
    struct linear_logprob_grad_args *a = call_args(c, sizeof *a);
    const size_t C = (size_t)s->C, V = (size_t)s->V;
    const enum element element = element_of(s->bf16);
    call_text(c, "T %d C %d V %d%s%s", rows->n, s->C, s->V, s->no_entropy ? " no entropy" : "",
              s->bf16 ? " bfloat16" : "");
    *a = (struct linear_logprob_grad_args){
        .T = rows->n, .C = s->C, .V = s->V, .type = type_of(s->bf16)};
    const float *hidden = array_floats(
        call_in_as(c, &a->hidden, "hidden", element, dense(rows->n, s->C), rows->id, 1.0));
    const float *w =
        array_floats(call_packed_as(c, &a->w, "w", element, s->C, s->V, 1, weight_spread(s->C)));
    struct array *w_t = call_packed_as(c, &a->w_t, "w_t", element, s->V, s->C, 1, 1.0);
    for (size_t v = 0; v < V; v++)
        for (size_t i = 0; i < C; i++)
            array_set(w_t, v * C + i, w[i * V + v]);
    build_tokens(c, &a->token, &a->tau, rows, s->V);
    const int *token = array_ints(c->arrays[c->num_arrays - 2]);
    const float *tau = array_floats(c->arrays[c->num_arrays - 1]);
    const float *dl =
        array_floats(call_in(c, &a->dlogprob, "dlogprob", dense(rows->n, 1), rows->id, 1.0));
    const float *de =
        s->no_entropy
            ? NULL
            : array_floats(call_in(c, &a->dentropy, "dentropy", dense(rows->n, 1), rows->id, 0.3));
    struct array *dhidden =
        call_out(c, &a->dhidden, "dhidden", ELEMENT_F32, dense(rows->n, s->C), rows->id);
    struct array *dw = call_inout(c, &a->dw, "dw", dense(s->V, s->C), NULL);
    // The gradient of a logit is rounded to bfloat16, and what it is made of may be before.
    dhidden->unit = dw->unit = s->bf16 ? 0x1p-7 / LOGPROB_GRAD_TOLERANCE : 0.0;
    c->flops = 6.0 * rows->n * s->C * s->V;
    c->bf16 = s->bf16;
    if (!c->scales)
        return;
    struct row_values r = new_row(c, s->V);
    double *dhidden_scale = call_scale(c, dhidden), *dw_scale = call_scale(c, dw);
    for (size_t i = 0; i < dw->count; i++)
        dw_scale[i] = fabs((double)array_floats(dw)[i]);
    for (size_t t = 0; t < (size_t)rows->n; t++)
        logprob_grad_scale(a, &r, hidden + t * C, w, token[t], tau[t], (double)dl[t],
                           de ? (double)de[t] : 0.0, dhidden_scale + t * C, dw_scale);
}

static const struct logprob_shape logprob_grad_shapes[] = {
    {0, 8, 5},
    {1, 1, 1},
    {3, 5, 2},
    {2, 48, 15},
    {5, 17, 16, .no_entropy = true},
    {7, 33, 17},
    {13, 48, 160},
    {25, 64, 33, .no_entropy = true},
    {12, 31, 1000},
    {4, 513, 97},
    {300, 16, 129},
    {3, 8, 20011},
    {260, 12, 4099},
    {1, 8, 5, .bf16 = true},
    {17, 33, 129, .bf16 = true},
    {70, 64, 200, .no_entropy = true, .bf16 = true},
    {130, 72, 1000, .bf16 = true},
};

// ---- sampling

struct sample_shape {
    int B, V;
    int C;             // the logits are a product of this depth; 0: they are on a grid
    bool no_truncated; // and no truncation, when the logits are a product
    bool bf16;         // of bfloat16 rows and weights
};

static int sample_rows(const void *shape) { return ((const struct sample_shape *)shape)->B; }

// sample on given logits; or on the logits of a product, with linear_logprob after it, which must
// give the same bits.
struct sample_probe {
    struct sample_args sample;
    struct matmul_args product;
    struct linear_logprob_args fused;
    bool with_product;
};

static int run_sample(struct device *dev, const void *args)
{
    const struct sample_probe *p = args;
    struct sample_args sample = p->sample;
    struct linear_logprob_args fused = p->fused;
    int rc = 0;
    if (!p->with_product)
        return dev->k->sample(dev, &sample);
    rc = dev->k->matmul(dev, &p->product);
    sample.logits = p->product.c;
    rc = rc == 0 ? dev->k->sample(dev, &sample) : rc;
    fused.hidden = p->product.a;
    fused.w = p->product.b;
    fused.token = sample.token;
    return rc == 0 ? dev->k->linear_logprob(dev, &fused) : rc;
}

static void draw_row(struct philox_stream *random, struct sample_row *row, int V)
{
    const float temperatures[] = {1.0f, 0.0f, 0.7f, 1.3f};
    const float top_ps[] = {1.0f, 1.0f, 0.9f, 0.5f, 1e-6f}, min_ps[] = {0.0f, 0.0f, 0.05f, 0.4f};
    const int top_ks[] = {0, 0, 1, 5, V, V + 3};
    *row = (struct sample_row){.temperature = temperatures[philox_below(random, 4)],
                               .top_k = top_ks[philox_below(random, 6)],
                               .top_p = top_ps[philox_below(random, 5)],
                               .min_p = min_ps[philox_below(random, 4)],
                               .given = philox_below(random, 5) == 0,
                               .token = (int)philox_below(random, (uint32_t)V),
                               .u = philox_next_unit(random)};
}

// Whether the reference chooses the same token with every parameter a little higher or lower: then
// so does a device that rounds differently.
static bool sample_is_clear(const struct call *c, const float *logits, int V,
                            const struct sample_row *row)
{
    enum { TRIES = 9 };
    static const int moves[TRIES][3] = {{0, 0, 0}, {1, 0, 0},  {-1, 0, 0}, {0, 1, 0},   {0, -1, 0},
                                        {0, 0, 1}, {0, 0, -1}, {1, 1, 1},  {-1, -1, -1}};
    const double step = 2e-5;
    struct sample_row rows[TRIES];
    int token[TRIES];
    float logprob[TRIES], entropy[TRIES];
    bool truncated[TRIES], clear = true;
    float *copies = mem_alloc((size_t)TRIES * (size_t)V * sizeof *copies);
    for (int i = 0; i < TRIES; i++) {
        memcpy(copies + (size_t)i * (size_t)V, logits, (size_t)V * sizeof *copies);
        rows[i] = *row;
        rows[i].u = fmin(fmax(row->u + step * moves[i][0], 1e-12), 1.0 - 1e-12);
        if (row->top_p < 1.0f)
            rows[i].top_p = fmaxf(row->top_p + (float)(step * moves[i][1]), 0.0f);
        rows[i].min_p = row->min_p * (float)(1.0 + step * moves[i][2]);
    }
    const struct sample_args a = {copies, rows, token, logprob, entropy, truncated, TRIES, V};
    clear = c->reference->k->sample(c->reference, &a) == 0;
    for (int i = 1; i < TRIES; i++)
        clear = clear && token[i] == token[0] && truncated[i] == truncated[0];
    free(copies);
    return clear;
}

// Logits on a grid: equal ones are frequent, unequal ones differ by more than rounding.
static void draw_logits(const struct call *c, int id, float *logits, int V)
{
    struct philox_stream random = philox_stream(philox_mix(c->seed, 78), (uint64_t)id);
    for (int v = 0; v < V; v++)
        logits[v] = ((float)philox_below(&random, 512) - 256.0f) / 32.0f;
    if (id % 3 == 1) // the largest twice
        logits[philox_below(&random, (uint32_t)V)] = logits[philox_below(&random, (uint32_t)V)] =
            8.0f;
}

static const struct sample_row *build_sample_rows(struct call *c, const void *field,
                                                  const struct sample_shape *s,
                                                  const struct rows *rows, const float *logits,
                                                  float *tau)
{
    struct sample_row *row =
        call_data(c, field, "rows", ELEMENT_BYTES, sizeof *row, (size_t)rows->n)->before;
    for (int b = 0; b < rows->n; b++) {
        struct philox_stream random = philox_stream(c->seed, (uint64_t)rows->id[b]);
        do {
            draw_row(&random, &row[b], s->V);
            if (s->C > 0) {
                row[b].top_k = 0;
                row[b].top_p = 1.0f;
                row[b].min_p = 0.0f;
            }
        } while (!sample_is_clear(c, logits + (size_t)b * (size_t)s->V, s->V, &row[b]));
        if (tau)
            tau[b] = row[b].temperature;
    }
    return row;
}

// The product that gives the logits, and the fused operation on the same rows. Returns the logits
// as they are but for rounding, and adds the magnitude of the largest of each row to `most`.
static const float *build_product(struct call *c, struct sample_probe *a,
                                  const struct sample_shape *s, const struct rows *rows,
                                  float **tau, double *most)
{
    const size_t B = (size_t)rows->n, C = (size_t)s->C, V = (size_t)s->V;
    a->with_product = true;
    a->product =
        (struct matmul_args){.lda = C, .ldc = V, .m = rows->n, .n = s->V, .k = s->C, .batch = 1};
    a->fused = (struct linear_logprob_args){.T = rows->n, .C = s->C, .V = s->V};
    a->fused.type = a->product.a_type = a->product.b_type = type_of(s->bf16);
    const enum element element = element_of(s->bf16);
    const float *hidden = array_floats(
        call_in_as(c, &a->product.a, "hidden", element, dense(rows->n, s->C), rows->id, 1.0));
    const float *w = array_floats(
        call_packed_as(c, &a->product.b, "w", element, s->C, s->V, 1, weight_spread(s->C)));
    struct array *out =
        call_out(c, &a->product.c, "logits", ELEMENT_F32, dense(rows->n, s->V), rows->id);
    *tau = array_floats(call_data(c, &a->fused.tau, "tau", ELEMENT_F32, sizeof(float), B));
    float *logits = ARENA_ARRAY(&c->memory, float, B *V + 1);
    double *scale = call_scale(c, out);
    struct row_values r = new_row(c, s->V);
    for (size_t b = 0; b < B; b++) {
        row_values(&r, hidden + b * C, w, 1.0f, s->C, s->V);
        for (size_t v = 0; v < V; v++) {
            logits[b * V + v] = (float)r.z[v];
            scale[b * V + v] = r.magnitude[v];
        }
        most[b] = r.most;
    }
    return logits;
}

// logprob and entropy of rows whose logits, or the terms of their product, are at most `most`.
static void set_sample_scales(struct call *c, const struct sample_row *rows, const double *most,
                              int V, struct array *logprob, struct array *entropy)
{
    call_scale(c, logprob);
    call_scale(c, entropy);
    for (size_t b = 0; b < logprob->count; b++) {
        const double t = rows[b].temperature == 0.0f ? 1.0 : (double)rows[b].temperature;
        logprob->scale[b] = 1.0 + 2.0 * most[b] / t + log(V);
        entropy->scale[b] = (1.0 + most[b] / t) * (1.0 + log(V));
    }
}

static void build_sample(struct call *c, const void *shape, const struct rows *rows)
{
    const struct sample_shape *s = shape;
    struct sample_probe *a = call_args(c, sizeof *a);
    const struct span one = dense(rows->n, 1);
    const float *logits;
    float *tau = NULL;
    double *most = ARENA_ARRAY(&c->memory, double, rows->n + 1);
    call_text(c, "B %d V %d%s%s%s", rows->n, s->V, s->C > 0 ? " of a product" : "",
              s->no_truncated ? " no truncated" : "", s->bf16 ? " bfloat16" : "");
    a->sample = (struct sample_args){.B = rows->n, .V = s->V};
    if (s->C > 0) {
        logits = build_product(c, a, s, rows, &tau, most);
    } else {
        float *grid = array_floats(
            call_in(c, &a->sample.logits, "logits", dense(rows->n, s->V), rows->id, 1.0));
        for (int b = 0; b < rows->n; b++) {
            draw_logits(c, rows->id[b], grid + (size_t)b * (size_t)s->V, s->V);
            most[b] = 8.0;
        }
        logits = grid;
    }
    const struct sample_row *row = build_sample_rows(c, &a->sample.rows, s, rows, logits, tau);
    call_out(c, &a->sample.token, "token", ELEMENT_I32, one, rows->id);
    struct array *logprob = call_out(c, &a->sample.logprob, "logprob", ELEMENT_F32, one, rows->id);
    struct array *entropy = call_out(c, &a->sample.entropy, "entropy", ELEMENT_F32, one, rows->id);
    if (!s->no_truncated)
        call_out(c, &a->sample.truncated, "truncated", ELEMENT_BOOL, one, rows->id);
    set_sample_scales(c, row, most, s->V, logprob, entropy);
    if (s->C > 0) {
        struct array *p =
            call_out(c, &a->fused.logprob, "fused logprob", ELEMENT_F32, one, rows->id);
        struct array *h =
            call_out(c, &a->fused.entropy, "fused entropy", ELEMENT_F32, one, rows->id);
        set_sample_scales(c, row, most, s->V, p, h);
        p->twin = logprob;
        h->twin = entropy;
    }
    c->bytes = 4.0 * rows->n * s->V;
}

static const struct sample_shape sample_shapes[] = {
    {0, 8},
    {1, 1},
    {5, 2},
    {9, 7, .no_truncated = true},
    {17, 8},
    {20, 15},
    {20, 16},
    {20, 17},
    {40, 33},
    {30, 64},
    {30, 65},
    {60, 160},
    {30, 1000},
    {3, 20011},
    {19, 17, .C = 24},
    {40, 160, .C = 48},
    {9, 1000, .C = 70, .no_truncated = true},
    {19, 17, .C = 24, .bf16 = true},
    {140, 300, .C = 72, .bf16 = true},
};
static const struct sample_shape sample_cpu[] = {{64, 8192}};
static const struct sample_shape sample_gpu[] = {{128, 102400}};

SLOT_CALL(linear_logprob, linear_logprob_args)
SLOT_CALL(linear_logprob_grad, linear_logprob_grad_args)

static const struct slot list[] = {
    {.name = "linear_logprob",
     .build = build_logprob,
     .run = run_linear_logprob,
     .rows = logprob_rows,
     SLOT_SHAPES(logprob_shapes, logprob_cpu, logprob_gpu),
     .tolerance = 16,
     .reason = "as matmul; errors of logits count in the scale"},
    {.name = "linear_logprob_grad",
     .build = build_logprob_grad,
     .run = run_linear_logprob_grad,
     .rows = logprob_rows,
     SLOT_SHAPES(logprob_grad_shapes, logprob_cpu, logprob_gpu),
     .tolerance = LOGPROB_GRAD_TOLERANCE,
     .reason =
         "a chain over V, thousands of terms after the one of the token, which is the largest"},
    {.name = "sample",
     .build = build_sample,
     .run = run_sample,
     .rows = sample_rows,
     SLOT_SHAPES(sample_shapes, sample_cpu, sample_gpu),
     .tolerance = 16,
     .reason = "as linear_logprob; tokens and truncation exact"},
};

const struct slots slots_logprob = {list, sizeof list / sizeof *list};
