// SPDX-License-Identifier: Apache-2.0
// Cases of the heads of grouped-query attention. A row is a token.
#include "tests/kernelcheck.h"
#include <math.h>

struct heads_shape {
    int T, H, Hkv, D;
    bool norm, bf16;
    int special; // in x, or in the gradients
};

enum { POSITIONS = 50, HEADS_TOLERANCE = 16 };

static int heads_rows(const void *shape) { return ((const struct heads_shape *)shape)->T; }

static size_t row_of(const struct heads_shape *s)
{
    return (size_t)(s->H + 2 * s->Hkv) * (size_t)s->D;
}

static enum element element_of(const struct heads_shape *s)
{
    return s->bf16 ? ELEMENT_BF16 : ELEMENT_F32;
}

static enum dtype type_of(const struct heads_shape *s) { return s->bf16 ? DTYPE_BF16 : DTYPE_F32; }

// A bfloat16 result is the reference's or a neighbour of it, whatever the slot's tolerance is.
static void set_unit(struct array *out)
{
    out->unit = out->element == ELEMENT_BF16 ? 0x1p-7 / HEADS_TOLERANCE : 0.0;
}

static void describe(struct call *c, const struct heads_shape *s, int T)
{
    call_text(c, "T %d H %d Hkv %d D %d%s%s", T, s->H, s->Hkv, s->D, s->norm ? " norms" : "",
              s->bf16 ? " bfloat16" : "");
}

// What both directions read beside the rows, with magnitudes for the scales.
struct common {
    const float *x, *q_norm, *k_norm, *cos, *sin;
    const int *position;
};

static const float *in_floats(struct call *c, const void *field, const char *name, size_t n,
                              double spread)
{
    return array_floats(call_in(c, field, name, span_flat(n), NULL, spread));
}

static const int *build_positions(struct call *c, const void *field, const struct rows *rows)
{
    struct array *at = call_data(c, field, "position", ELEMENT_I32, sizeof(int), (size_t)rows->n);
    for (int t = 0; t < rows->n; t++)
        array_ints(at)[t] = (int)call_random(c, "position", rows->id[t], POSITIONS);
    return array_ints(at);
}

// Head h of a row of x: its norm (NULL: none, or a value's head).
static const float *norm_of(const struct heads_shape *s, const struct common *in, int h)
{
    return !s->norm || h >= s->H + s->Hkv ? NULL : h < s->H ? in->q_norm : in->k_norm;
}

// 1 / root mean square of a head; 1 without a norm.
static double rstd_of(const struct heads_shape *s, const float *x, const float *norm, float eps)
{
    double squares = 0.0;
    for (int i = 0; norm && i < s->D; i++)
        squares += (double)x[i] * (double)x[i];
    return norm ? 1.0 / sqrt(squares / s->D + (double)eps) : 1.0;
}

// The magnitude of what rotation makes element i of a head from those of x times w (NULL: 1). Both
// directions add the same two magnitudes.
static double turned(const struct heads_shape *s, const struct common *in, size_t t, const float *x,
                     const float *w, int i)
{
    const int half = s->D / 2, pair = i % half, other = i < half ? i + half : i - half;
    const size_t at = (size_t)in->position[t] * (size_t)half + (size_t)pair;
    const double own = w ? fabs((double)w[i]) : 1.0, beside = w ? fabs((double)w[other]) : 1.0;
    return fabs((double)in->cos[at] * (double)x[i]) * own +
           fabs((double)in->sin[at] * (double)x[other]) * beside;
}

// Where head h of token t stands among queries or kv rows; the array is that of kv when *kv.
static size_t outside_of(const struct heads_shape *s, size_t t, int h, bool *kv)
{
    const size_t D = (size_t)s->D;
    *kv = h >= s->H;
    if (!*kv)
        return (t * (size_t)s->H + (size_t)h) * D;
    const bool value = h >= s->H + s->Hkv;
    const int g = h - s->H - (value ? s->Hkv : 0);
    return (t * (size_t)s->Hkv + (size_t)g) * 2 * D + (value ? D : 0);
}

static void build_heads(struct call *c, const void *shape, const struct rows *rows)
{
    const struct heads_shape *s = shape;
    struct heads_args *a = call_args(c, sizeof *a);
    const size_t T = (size_t)rows->n, D = (size_t)s->D, row = row_of(s);
    const size_t table = POSITIONS * D / 2, q_row = (size_t)s->H * D, kv_row = row - q_row;
    struct common in = {0};
    describe(c, s, rows->n);
    *a = (struct heads_args){.T = rows->n, .H = s->H, .Hkv = s->Hkv, .D = s->D, .eps = 1e-2f};
    a->type = type_of(s);
    c->special = s->special;
    in.x = array_floats(call_in(c, &a->x, "x", span_rows(T, row, row), rows->id, 2.0));
    c->special = 0;
    if (s->norm) {
        in.q_norm = in_floats(c, &a->q_norm, "q_norm", D, 1.0);
        in.k_norm = in_floats(c, &a->k_norm, "k_norm", D, 1.0);
    }
    in.cos = in_floats(c, &a->cos, "cos", table, 0.7);
    in.sin = in_floats(c, &a->sin, "sin", table, 0.7);
    in.position = build_positions(c, &a->position, rows);
    struct array *q = call_out(c, &a->q, "q", element_of(s), span_rows(T, q_row, q_row), rows->id);
    struct array *kv =
        call_out(c, &a->kv, "kv", element_of(s), span_rows(T, kv_row, kv_row), rows->id);
    set_unit(q);
    set_unit(kv);
    c->bytes = (4.0 + (s->bf16 ? 2.0 : 4.0)) * (double)(T * row);
    if (!c->scales)
        return;
    double *scales[2] = {call_scale(c, q), call_scale(c, kv)};
    for (size_t t = 0; t < T; t++)
        for (int h = 0; h < s->H + 2 * s->Hkv; h++) {
            const float *x = in.x + t * row + (size_t)h * D, *norm = norm_of(s, &in, h);
            const double rstd = rstd_of(s, x, norm, a->eps);
            bool of_kv;
            const size_t at = outside_of(s, t, h, &of_kv);
            for (int i = 0; i < s->D; i++)
                scales[of_kv][at + (size_t)i] =
                    h >= s->H + s->Hkv ? fabs((double)x[i]) : rstd * turned(s, &in, t, x, norm, i);
        }
}

// Of the gradient of head h of token t, and of its norm's weights, from the magnitudes of their
// terms.
static void grad_scale(const struct heads_shape *s, const struct common *in, size_t t, int h,
                       float eps, const float *dy, double *dx, double *dw)
{
    const float *norm = norm_of(s, in, h);
    const float *x = norm ? in->x + t * row_of(s) + (size_t)h * (size_t)s->D : NULL;
    const double rstd = rstd_of(s, x, norm, eps);
    double mean = 0.0;
    for (int i = 0; norm && i < s->D; i++) {
        const double gn = turned(s, in, t, dy, NULL, i) * fabs((double)x[i]) * rstd;
        mean += fabs((double)norm[i]) * gn / s->D;
        dw[i] += gn;
    }
    for (int i = 0; i < s->D; i++) {
        const bool value = h >= s->H + s->Hkv;
        const double g = value ? fabs((double)dy[i]) : turned(s, in, t, dy, NULL, i);
        dx[i] = norm ? rstd * (fabs((double)norm[i]) * g + fabs((double)x[i]) * rstd * mean) : g;
    }
}

static void build_heads_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct heads_shape *s = shape;
    struct heads_grad_args *a = call_args(c, sizeof *a);
    const size_t T = (size_t)rows->n, D = (size_t)s->D, row = row_of(s);
    const size_t table = POSITIONS * D / 2, q_row = (size_t)s->H * D, kv_row = row - q_row;
    struct common in = {0};
    struct array *dw[2] = {NULL, NULL};
    describe(c, s, rows->n);
    *a = (struct heads_grad_args){.T = rows->n, .H = s->H, .Hkv = s->Hkv, .D = s->D, .eps = 1e-2f};
    a->type = type_of(s);
    if (s->norm) {
        in.x = array_floats(call_in(c, &a->x, "x", span_rows(T, row, row), rows->id, 2.0));
        in.q_norm = in_floats(c, &a->q_norm, "q_norm", D, 1.0);
        in.k_norm = in_floats(c, &a->k_norm, "k_norm", D, 1.0);
        dw[0] = call_inout(c, &a->dq_norm, "dq_norm", span_flat(D), NULL);
        dw[1] = call_inout(c, &a->dk_norm, "dk_norm", span_flat(D), NULL);
    }
    in.cos = in_floats(c, &a->cos, "cos", table, 0.7);
    in.sin = in_floats(c, &a->sin, "sin", table, 0.7);
    in.position = build_positions(c, &a->position, rows);
    const struct array *dq =
        call_in_as(c, &a->dq, "dq", element_of(s), span_rows(T, q_row, q_row), rows->id, 1.0);
    const struct array *dkv =
        call_in(c, &a->dkv, "dkv", span_rows(T, kv_row, kv_row), rows->id, 1.0);
    struct array *dx = call_out(c, &a->dx, "dx", element_of(s), span_rows(T, row, row), rows->id);
    set_unit(dx);
    c->bytes = (s->norm ? 12.0 : 8.0) * (double)(T * row);
    if (!c->scales)
        return;
    double *scale = call_scale(c, dx), *of_dw[2] = {NULL, NULL};
    for (int i = 0; s->norm && i < 2; i++) {
        of_dw[i] = call_scale(c, dw[i]);
        for (size_t j = 0; j < D; j++)
            of_dw[i][j] = fabs((double)array_floats(dw[i])[j]);
    }
    for (size_t t = 0; t < T; t++)
        for (int h = 0; h < s->H + 2 * s->Hkv; h++) {
            bool kv;
            const size_t at = outside_of(s, t, h, &kv);
            grad_scale(s, &in, t, h, a->eps, array_floats(kv ? dkv : dq) + at,
                       scale + t * row + (size_t)h * D, of_dw[kv]);
        }
}

static const struct heads_shape heads_shapes[] = {
    {0, 2, 1, 4},
    {1, 1, 1, 2},
    {3, 3, 3, 6, .norm = true},
    {5, 4, 2, 16},
    {7, 6, 2, 8, .norm = true},
    {9, 4, 1, 34, .norm = true},
    {33, 2, 2, 64, .special = 97},
    {17, 8, 2, 128, .norm = true},
    {64, 2, 1, 20, .norm = true},
    {65, 2, 1, 20},
    {200, 3, 1, 12, .norm = true},
    {3, 1, 1, 256, .norm = true},
    {9, 4, 2, 16, .bf16 = true},
    {19, 6, 3, 14, .norm = true, .bf16 = true},
    {130, 8, 2, 64, .norm = true, .bf16 = true},
};
static const struct heads_shape heads_cpu[] = {{4096, 8, 2, 64, .bf16 = true},
                                               {4096, 8, 2, 64, .norm = true},
                                               {4096, 8, 2, 64, .norm = true, .bf16 = true}};
static const struct heads_shape heads_gpu[] = {{16384, 32, 8, 128, .bf16 = true},
                                               {16384, 32, 8, 128, .norm = true, .bf16 = true}};

SLOT_CALL(heads, heads_args)
SLOT_CALL(heads_grad, heads_grad_args)

static const struct slot list[] = {
    {.name = "heads",
     .build = build_heads,
     .run = run_heads,
     .rows = heads_rows,
     SLOT_SHAPES(heads_shapes, heads_cpu, heads_gpu),
     .tolerance = HEADS_TOLERANCE,
     .reason = "a sum of squares, which are positive, a root, products and a sum of two"},
    {.name = "heads_grad",
     .build = build_heads_grad,
     .run = run_heads_grad,
     .rows = heads_rows,
     SLOT_SHAPES(heads_shapes, heads_cpu, heads_gpu),
     .tolerance = HEADS_TOLERANCE,
     .reason = "as heads, and sums of hundreds of terms"},
};

const struct slots slots_heads = {list, sizeof list / sizeof *list};
