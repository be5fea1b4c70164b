// SPDX-License-Identifier: Apache-2.0
// Cases of the optimiser's operations.
#include "tests/kernelcheck.h"
#include <math.h>

struct optimiser_shape {
    int n, step;
    double lr, beta2, weight_decay, grad_scale;
};

static void build_sum_squares(struct call *c, const void *shape, const struct rows *unused)
{
    const struct optimiser_shape *s = shape;
    (void)unused;
    struct sum_squares_args *a = call_args(c, sizeof *a);
    call_text(c, "n %d", s->n);
    a->n = (size_t)s->n;
    call_in(c, &a->x, "x", span_flat(a->n), NULL, 1.0);
    call_out(c, &a->out, "out", ELEMENT_F64, span_flat(1), NULL);
    c->bytes = 4.0 * s->n;
}

static void adamw_scale(const struct adamw_args *a, const float *p, const float *m, const float *v,
                        const float *g, double *scale[3])
{
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    const double correct1 = 1.0 - pow(beta1, a->step), correct2 = 1.0 - pow(beta2, a->step);
    for (size_t i = 0; i < a->n; i++) {
        const double gradient = fabs((double)g[i] * (double)a->grad_scale);
        scale[1][i] = beta1 * fabs((double)m[i]) + (1.0 - beta1) * gradient;
        scale[2][i] = beta2 * (double)v[i] + (1.0 - beta2) * gradient * gradient;
        scale[0][i] = fabs((double)p[i]) +
                      lr * scale[1][i] / correct1 / (sqrt(scale[2][i] / correct2) + (double)a->eps);
    }
}

static void build_adamw(struct call *c, const void *shape, const struct rows *unused)
{
    const struct optimiser_shape *s = shape;
    (void)unused;
    struct adamw_args *a = call_args(c, sizeof *a);
    const struct span span = span_flat((size_t)s->n);
    call_text(c, "n %d step %d lr %g beta2 %g decay %g grad_scale %g", s->n, s->step, s->lr,
              s->beta2, s->weight_decay, s->grad_scale);
    *a = (struct adamw_args){.n = (size_t)s->n,
                             .lr = (float)s->lr,
                             .beta1 = 0.9f,
                             .beta2 = (float)s->beta2,
                             .eps = 1e-8f,
                             .weight_decay = (float)s->weight_decay,
                             .grad_scale = (float)s->grad_scale,
                             .step = s->step};
    struct array *state[] = {call_inout(c, &a->p, "p", span, NULL),
                             call_inout(c, &a->m, "m", span, NULL),
                             call_inout(c, &a->v, "v", span, NULL)};
    for (size_t i = 0; i < a->n; i++) {
        float *m = array_floats(state[1]), *v = array_floats(state[2]);
        m[i] = s->step == 1 ? 0.0f : 0.1f * m[i];
        v[i] = s->step == 1 ? 0.0f : v[i] * v[i];
    }
    const struct array *g = call_in(c, &a->g, "g", span, NULL, 1.0);
    c->bytes = 28.0 * s->n;
    if (!c->scales)
        return;
    double *scale[3];
    for (int i = 0; i < 3; i++)
        scale[i] = call_scale(c, state[i]);
    adamw_scale(a, array_floats(state[0]), array_floats(state[1]), array_floats(state[2]),
                array_floats(g), scale);
}

static const struct optimiser_shape optimiser_shapes[] = {
    {0, 1, 1e-3, 0.95, 0, 1},        {1, 1, 1e-3, 0.95, 0, 1},
    {7, 1, 1e-3, 0.95, 0.1, 1},      {8, 2, 1e-3, 0.999, 0, 0.5},
    {9, 3, 0, 0.95, 0.1, 1},         {15, 10, 1e-3, 0.95, 0, 1e-3},
    {17, 1000, 1e-5, 0.999, 0.1, 1}, {33, 5, 1e-2, 0.5, 0, 0},
    {999, 7, 3e-4, 0.95, 0.1, 0.1},  {4095, 1, 1e-3, 0.999, 0.01, 1e-6},
    {4096, 2, 1e-3, 0.95, 0, 1},     {4097, 100000, 1e-3, 0.999, 0.1, 1},
    {300007, 4, 1e-3, 0.95, 0.1, 1},
};
static const struct optimiser_shape optimiser_cpu[] = {{1 << 24, 1, 1e-4, 0.95, 0.1, 1}};
static const struct optimiser_shape optimiser_gpu[] = {{1 << 26, 1, 1e-4, 0.95, 0.1, 1}};

SLOT_CALL(sum_squares, sum_squares_args)
SLOT_CALL(adamw, adamw_args)

static const struct slot list[] = {
    {.name = "sum_squares",
     .build = build_sum_squares,
     .run = run_sum_squares,
     SLOT_SHAPES(optimiser_shapes, optimiser_cpu, optimiser_gpu),
     .tolerance = 4096,
     .reason = "the plain sum of 300,000 terms of the reference is itself off by about 1000"},
    {.name = "adamw",
     .build = build_adamw,
     .run = run_adamw,
     SLOT_SHAPES(optimiser_shapes, optimiser_cpu, optimiser_gpu),
     .tolerance = 8,
     .reason = "about ten roundings, of which those of the update count by the update"},
};

const struct slots slots_optimiser = {list, sizeof list / sizeof *list};
