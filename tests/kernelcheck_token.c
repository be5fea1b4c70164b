// SPDX-License-Identifier: Apache-2.0
// Cases of the token-wise operations.
#include "tests/kernelcheck.h"
#include <math.h>

struct token_shape {
    int T, C; // RoPE: C is D; SwiGLU: F; add and convert: n
    int pad_in, pad_out;
    int heads; // RoPE
    int add;   // rmsnorm: 1 to another array, 2 over x, 3 over the addend
    bool in_place, accumulate, halves, inverse, no_rstd;
    bool extreme;     // SwiGLU: gates far beyond where exponentials end
    bool in16, out16; // the arrays of that side that have a type are bfloat16
    int special;
};

static enum element element_of(bool narrow) { return narrow ? ELEMENT_BF16 : ELEMENT_F32; }
static enum dtype type_of(bool narrow) { return narrow ? DTYPE_BF16 : DTYPE_F32; }
static double size_of(bool narrow) { return narrow ? 2.0 : 4.0; }

// A bfloat16 result is the reference's or a neighbour of it, whatever the slot's tolerance is.
static void set_unit(struct array *out, double tolerance)
{
    out->unit = out->element == ELEMENT_BF16 ? 0x1p-7 / tolerance : 0.0;
}

static const char *types_text(const struct token_shape *s)
{
    return s->in16 ? s->out16 ? " bfloat16" : " from bfloat16" : s->out16 ? " to bfloat16" : "";
}

static int token_rows(const void *shape) { return ((const struct token_shape *)shape)->T; }

static struct span dense(int rows, int cols)
{
    return span_rows((size_t)rows, (size_t)cols, (size_t)cols);
}

enum { RMSNORM_TOLERANCE = 16, ROPE_TOLERANCE = 3, SWIGLU_TOLERANCE = 16 };

// ---- embedding

enum { TABLE_ROWS = 37 };

static void build_ids(struct call *c, const void *field, const char *name, const struct rows *rows,
                      int below)
{
    struct array *ids = call_data(c, field, name, ELEMENT_I32, sizeof(int), (size_t)rows->n);
    for (int t = 0; t < rows->n; t++)
        array_ints(ids)[t] = (int)call_random(c, name, rows->id[t], (uint32_t)below);
}

static void build_embed(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct embed_args *a = call_args(c, sizeof *a);
    call_text(c, "T %d C %d%s", rows->n, s->C, types_text(s));
    *a = (struct embed_args){
        .T = rows->n, .C = s->C, .table_type = type_of(s->in16), .out_type = type_of(s->out16)};
    c->special = s->special;
    call_in_as(c, &a->table, "table", element_of(s->in16), dense(TABLE_ROWS, s->C), NULL, 1.0);
    build_ids(c, &a->ids, "ids", rows, TABLE_ROWS);
    call_out(c, &a->out, "out", element_of(s->out16), dense(rows->n, s->C), rows->id)->exact = true;
    c->bytes = (size_of(s->in16) + size_of(s->out16)) * rows->n * s->C;
}

static void build_embed_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct embed_grad_args *a = call_args(c, sizeof *a);
    const size_t C = (size_t)s->C;
    call_text(c, "T %d C %d", rows->n, s->C);
    *a = (struct embed_grad_args){.T = rows->n, .C = s->C};
    c->special = s->special;
    const float *dout = array_floats(call_in(c, &a->dout, "dout", dense(rows->n, s->C), NULL, 1.0));
    c->special = 0;
    build_ids(c, &a->ids, "ids", rows, TABLE_ROWS);
    struct array *out = call_inout(c, &a->dtable, "dtable", dense(TABLE_ROWS, s->C), NULL);
    c->bytes = 12.0 * rows->n * s->C;
    if (!c->scales)
        return;
    double *scale = call_scale(c, out);
    for (size_t i = 0; i < out->count; i++)
        scale[i] = fabs((double)array_floats(out)[i]);
    for (int t = 0; t < rows->n; t++) {
        const size_t id = call_random(c, "ids", rows->id[t], TABLE_ROWS);
        for (size_t i = 0; i < C; i++)
            scale[id * C + i] += fabs((double)dout[(size_t)t * C + i]);
    }
}

static const struct token_shape embed_shapes[] = {
    {0, 8},
    {3, 0},
    {1, 1},
    {1, 48},
    {5, 7},
    {17, 33},
    {200, 17},
    {64, 64},
    {129, 100, .special = 50},
    {700, 200},
    {13, 35, .out16 = true},
    {40, 64, .out16 = true, .special = 50},
    {29, 21, .in16 = true},
    {200, 160, .in16 = true, .out16 = true, .special = 50},
};
static const struct token_shape embed_cpu[] = {{16384, 512}, {16384, 512, .out16 = true}};
static const struct token_shape embed_gpu[] = {{16384, 2048}, {16384, 2048, .out16 = true}};

// ---- rows of a cache

// Of every two rows of the pages one is written, from the last pair to the first.
static void build_kv_store(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct kv_store_args *a = call_args(c, sizeof *a);
    const int n = rows->n, num_places = 2 * n + 3;
    call_text(c, "T %d D %d%s", n, s->C, s->out16 ? " bfloat16" : "");
    *a = (struct kv_store_args){.T = n, .D = s->C, .type = type_of(s->out16)};
    c->special = s->special;
    call_in_as(c, &a->rows, "rows", element_of(s->out16), dense(n, s->C), rows->id, 1.0);
    c->special = 0;
    struct array *place =
        call_data(c, &a->place, "place", ELEMENT_BYTES, sizeof(size_t), (size_t)n);
    int *id = arena_push(&c->memory, (size_t)num_places * sizeof *id);
    for (int i = 0; i < num_places; i++)
        id[i] = -1;
    for (int t = 0; t < n; t++) {
        const int at = 2 * (n - 1 - t) + (int)call_random(c, "place", t, 2);
        ((size_t *)place->before)[t] = (size_t)at;
        id[at] = rows->id[t];
    }
    call_inout_as(c, &a->pages, "pages", element_of(s->out16), dense(num_places, s->C), id)->exact =
        true;
    c->bytes = 2.0 * size_of(s->out16) * n * s->C;
}

// ---- RMSNorm

static void build_rmsnorm(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct rmsnorm_args *a = call_args(c, sizeof *a);
    const size_t T = (size_t)rows->n, C = (size_t)s->C;
    call_text(c, "T %d C %d pads %d %d add %d%s%s", rows->n, s->C, s->pad_in, s->pad_out, s->add,
              s->no_rstd ? " no rstd" : "", types_text(s));
    *a = (struct rmsnorm_args){
        .ldx = C + (size_t)s->pad_in, .ldy = C + (size_t)s->pad_out, .eps = 1e-2f};
    a->y_type = type_of(s->out16);
    a->T = rows->n;
    a->C = s->C;
    c->special = s->special;
    struct array *x = call_in(c, &a->x, "x", span_rows(T, a->ldx, C), rows->id, 2.0);
    if (s->add > 0) {
        struct array *add = call_in(c, &a->add, "add", dense(rows->n, s->C), rows->id, 1.0);
        struct array *sum =
            call_out(c, &a->sum, "sum", ELEMENT_F32, dense(rows->n, s->C), rows->id);
        sum->exact = true;
        sum->alias = s->add == 2 ? x : s->add == 3 ? add : NULL;
    }
    c->special = 0;
    call_in(c, &a->w, "w", span_flat(C), NULL, 1.0);
    set_unit(call_out(c, &a->y, "y", element_of(s->out16), span_rows(T, a->ldy, C), rows->id),
             RMSNORM_TOLERANCE);
    if (!s->no_rstd)
        call_out(c, &a->rstd, "rstd", ELEMENT_F32, dense(rows->n, 1), rows->id);
    c->bytes = ((s->add ? 12.0 : 4.0) + size_of(s->out16)) * rows->n * s->C;
}

static const struct token_shape rmsnorm_shapes[] = {
    {0, 8},
    {1, 1},
    {3, 1, .add = 1},
    {1, 7},
    {2, 16, .add = 1},
    {5, 17, .pad_in = 3, .add = 1},
    {7, 31, .pad_out = 5, .no_rstd = true},
    {9, 33, .pad_in = 1, .pad_out = 2},
    {33, 48, .add = 2},
    {31, 64, .add = 3, .pad_in = 4},
    {20, 100, .special = 211},
    {20, 100, .add = 1, .special = 211},
    {17, 512, .add = 1},
    {5, 1023},
    {3, 2048, .add = 2},
    {2, 7168, .pad_in = 64},
    {400, 257, .add = 1, .pad_out = 1},
    {9, 33, .pad_out = 2, .out16 = true},
    {17, 512, .add = 1, .out16 = true},
    {3, 2048, .add = 2, .out16 = true},
};
static const struct token_shape rmsnorm_cpu[] = {{16384, 512, .add = 1},
                                                 {16384, 512, .add = 1, .out16 = true}};
static const struct token_shape rmsnorm_gpu[] = {
    {16384, 2048, .add = 1}, {16384, 512}, {16384, 2048, .add = 1, .out16 = true}};

// Of dx and dw from the magnitudes of their terms, with n = x rstd.
static void norm_grad_scale(const struct rmsnorm_grad_args *a, const float *x, const float *w,
                            const float *dy, const float *rstd, double *dx, double *dw)
{
    for (size_t t = 0; t < (size_t)a->T; t++) {
        const double r = (double)rstd[t];
        double mean = 0.0;
        for (size_t i = 0; i < (size_t)a->C; i++) {
            const double dyn = fabs((double)dy[t * a->lddy + i] * (double)x[t * a->ldx + i] * r);
            mean += fabs((double)w[i]) * dyn / a->C;
            dw[i] += dyn;
        }
        for (size_t i = 0; i < (size_t)a->C; i++)
            dx[t * a->lddx + i] += r * (fabs((double)w[i] * (double)dy[t * a->lddy + i]) +
                                        fabs((double)x[t * a->ldx + i]) * r * mean);
    }
}

static void add_before(const struct array *a, double *scale)
{
    for (size_t i = 0; a->role == ROLE_INOUT && i < a->count; i++)
        scale[i] += fabs((double)array_floats(a)[i]);
}

static void build_rmsnorm_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct rmsnorm_grad_args *a = call_args(c, sizeof *a);
    const size_t T = (size_t)rows->n, C = (size_t)s->C;
    call_text(c, "T %d C %d pads %d %d%s%s", rows->n, s->C, s->pad_in, s->pad_out,
              s->accumulate ? " accumulate" : "", s->in_place ? " in place" : "");
    *a = (struct rmsnorm_grad_args){.ldx = C + (size_t)s->pad_in,
                                    .lddy = C + (size_t)s->pad_out,
                                    .lddx = C + (size_t)s->pad_out};
    a->T = rows->n;
    a->C = s->C;
    a->accumulate = s->accumulate;
    const float *x = array_floats(call_in(c, &a->x, "x", span_rows(T, a->ldx, C), rows->id, 2.0));
    const float *w = array_floats(call_in(c, &a->w, "w", span_flat(C), NULL, 1.0));
    struct array *dy = call_in(c, &a->dy, "dy", span_rows(T, a->lddy, C), rows->id, 1.0);
    struct array *rstd = call_in(c, &a->rstd, "rstd", dense(rows->n, 1), rows->id, 1.0);
    for (size_t t = 0; t < T; t++) {
        double squares = 0.0;
        for (size_t i = 0; i < C; i++)
            squares += (double)x[t * a->ldx + i] * (double)x[t * a->ldx + i];
        array_floats(rstd)[t] = (float)(1.0 / sqrt(squares / s->C + 1e-5));
    }
    const struct span span = span_rows(T, a->lddx, C);
    struct array *dx = s->accumulate ? call_inout(c, &a->dx, "dx", span, rows->id)
                                     : call_out(c, &a->dx, "dx", ELEMENT_F32, span, rows->id);
    dx->alias = s->in_place ? dy : NULL;
    struct array *dw = call_inout(c, &a->dw, "dw", span_flat(C), NULL);
    c->bytes = 12.0 * rows->n * s->C;
    if (!c->scales)
        return;
    double *dx_scale = call_scale(c, dx), *dw_scale = call_scale(c, dw);
    norm_grad_scale(a, x, w, array_floats(dy), array_floats(rstd), dx_scale, dw_scale);
    add_before(dx, dx_scale);
    add_before(dw, dw_scale);
}

static const struct token_shape rmsnorm_grad_shapes[] = {
    {0, 8},
    {1, 1},
    {1, 7, .accumulate = true},
    {5, 17, .pad_in = 3},
    {7, 31, .pad_out = 5, .accumulate = true},
    {9, 33, .pad_in = 1, .pad_out = 2, .in_place = true},
    {33, 48, .in_place = true},
    {255, 16},
    {256, 24, .accumulate = true},
    {257, 65},
    {5, 1023},
    {3, 2048, .in_place = true},
    {2, 7168, .pad_in = 64},
    {900, 100, .accumulate = true, .pad_out = 1},
};
static const struct token_shape rmsnorm_grad_cpu[] = {{16384, 512}};
static const struct token_shape rmsnorm_grad_gpu[] = {{16384, 2048}};

// ---- RoPE

enum { POSITIONS = 50 };

static void rope_scale(const struct rope_args *a, const float *x, const float *cos,
                       const float *sin, const int *position, double *scale)
{
    const size_t half = (size_t)a->D / 2;
    const size_t step = a->halves ? 1 : 2, apart = a->halves ? half : 1;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t h = 0; h < (size_t)a->heads; h++)
            for (size_t i = 0; i < half; i++) {
                const float *from = x + t * a->ldx + h * a->stride_x + step * i;
                double *to = scale + t * a->ldy + h * a->stride_y + step * i;
                const double u = fabs((double)from[0]), v = fabs((double)from[apart]);
                const double cosine = fabs((double)cos[(size_t)position[t] * half + i]);
                const double sine = fabs((double)sin[(size_t)position[t] * half + i]);
                to[0] = u * cosine + v * sine;
                to[apart] = u * sine + v * cosine;
            }
}

static void build_rope(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct rope_args *a = call_args(c, sizeof *a);
    const size_t T = (size_t)rows->n, heads = (size_t)s->heads, D = (size_t)s->C;
    call_text(c, "T %d heads %d D %d pads %d %d%s%s%s%s", rows->n, s->heads, s->C, s->pad_in,
              s->pad_out, s->halves ? " halves" : "", s->inverse ? " inverse" : "",
              s->in_place ? " in place" : "", types_text(s));
    *a = (struct rope_args){.stride_x = D + (size_t)s->pad_in, .stride_y = D + (size_t)s->pad_out};
    a->ldx = heads * a->stride_x + (size_t)s->pad_in;
    a->ldy = heads * a->stride_y + (size_t)s->pad_out;
    a->T = rows->n;
    a->heads = s->heads;
    a->D = s->C;
    a->halves = s->halves;
    a->inverse = s->inverse;
    a->x_type = type_of(s->in16);
    a->y_type = type_of(s->out16);
    c->special = s->special;
    struct array *x = call_in_as(c, &a->x, "x", element_of(s->in16),
                                 (struct span){T, a->ldx, heads, a->stride_x, D}, rows->id, 1.0);
    c->special = 0;
    const struct array *cos = call_in(c, &a->cos, "cos", dense(POSITIONS, s->C / 2), NULL, 0.7);
    const struct array *sin = call_in(c, &a->sin, "sin", dense(POSITIONS, s->C / 2), NULL, 0.7);
    build_ids(c, &a->position, "position", rows, POSITIONS);
    const int *position = array_ints(c->arrays[c->num_arrays - 1]);
    struct array *y = call_out(c, &a->y, "y", element_of(s->out16),
                               (struct span){T, a->ldy, heads, a->stride_y, D}, rows->id);
    y->alias = s->in_place ? x : NULL;
    set_unit(y, ROPE_TOLERANCE);
    c->bytes = (size_of(s->in16) + size_of(s->out16)) * rows->n * s->heads * s->C;
    if (c->scales)
        rope_scale(a, array_floats(x), array_floats(cos), array_floats(sin), position,
                   call_scale(c, y));
}

static const struct token_shape rope_shapes[] = {
    {0, 8, .heads = 4},
    {3, 8, .heads = 0},
    {3, 0, .heads = 2},
    {1, 2, .heads = 1},
    {1, 2, .heads = 1, .halves = true},
    {5, 6, .heads = 3, .pad_in = 1, .pad_out = 3},
    {7, 8, .heads = 4, .halves = true, .inverse = true, .pad_in = 32},
    {9, 16, .heads = 1, .inverse = true, .in_place = true},
    {33, 8, .heads = 4, .halves = true, .in_place = true, .pad_in = 5, .pad_out = 5},
    {17, 34, .heads = 5},
    {17, 62, .heads = 5, .halves = true, .pad_out = 7},
    {64, 64, .heads = 16, .in_place = true, .pad_in = 128, .pad_out = 128},
    {65, 64, .heads = 16, .halves = true, .inverse = true},
    {12, 32, .heads = 3, .special = 97},
    {9, 10, .heads = 3, .out16 = true, .pad_out = 1},
    {9, 10, .heads = 3, .halves = true, .in16 = true},
    {17, 64, .heads = 5, .in16 = true, .out16 = true, .in_place = true},
    {7, 34, .heads = 2, .inverse = true, .in16 = true, .out16 = true, .special = 97},
};
static const struct token_shape rope_cpu[] = {{8192, 32, .heads = 8},
                                              {8192, 32, .heads = 8, .in16 = true, .out16 = true}};
static const struct token_shape rope_gpu[] = {
    {16384, 64, .heads = 16}, {16384, 64, .heads = 16, .in16 = true, .out16 = true}};

// ---- SwiGLU

// Beside the results, which may be as small as float32 goes: fast exponentials return 0 for what is
// below its normal range, where the result is at most that times the other factors.
static const double tiny = 1e-30;

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static void build_swiglu(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct swiglu_args *a = call_args(c, sizeof *a);
    const size_t F = (size_t)s->C;
    call_text(c, "T %d F %d%s", rows->n, s->C, types_text(s));
    *a = (struct swiglu_args){.T = rows->n, .F = s->C};
    a->gate_up_type = type_of(s->in16);
    a->h_type = type_of(s->out16);
    c->special = s->special;
    const float *in =
        array_floats(call_in_as(c, &a->gate_up, "gate_up", element_of(s->in16),
                                dense(rows->n, 2 * s->C), rows->id, s->extreme ? 60.0 : 4.0));
    struct array *h = call_out(c, &a->h, "h", element_of(s->out16), dense(rows->n, s->C), rows->id);
    set_unit(h, SWIGLU_TOLERANCE);
    c->bytes = (2 * size_of(s->in16) + size_of(s->out16)) * rows->n * s->C;
    if (!c->scales)
        return;
    double *scale = call_scale(c, h);
    for (size_t t = 0; t < (size_t)rows->n; t++)
        for (size_t i = 0; i < F; i++) {
            const double gate = (double)in[t * 2 * F + i], up = (double)in[t * 2 * F + F + i];
            scale[t * F + i] = fabs(gate * up) * (sigmoid(gate) + tiny);
        }
}

static void build_swiglu_grad(struct call *c, const void *shape, const struct rows *rows)
{
    const struct token_shape *s = shape;
    struct swiglu_grad_args *a = call_args(c, sizeof *a);
    const size_t F = (size_t)s->C;
    call_text(c, "T %d F %d%s%s", rows->n, s->C, s->in_place ? " in place" : "", types_text(s));
    *a = (struct swiglu_grad_args){.T = rows->n, .F = s->C};
    a->gate_up_type = type_of(s->in16);
    a->dgate_up_type = type_of(s->out16);
    c->special = s->special;
    struct array *in = call_in_as(c, &a->gate_up, "gate_up", element_of(s->in16),
                                  dense(rows->n, 2 * s->C), rows->id, s->extreme ? 60.0 : 4.0);
    const float *dh = array_floats(call_in(c, &a->dh, "dh", dense(rows->n, s->C), rows->id, 1.0));
    struct array *out = call_out(c, &a->dgate_up, "dgate_up", element_of(s->out16),
                                 dense(rows->n, 2 * s->C), rows->id);
    out->alias = s->in_place ? in : NULL;
    set_unit(out, SWIGLU_TOLERANCE);
    c->bytes = (4.0 + 2 * size_of(s->in16) + 2 * size_of(s->out16)) * rows->n * s->C;
    if (!c->scales)
        return;
    double *scale = call_scale(c, out);
    for (size_t t = 0; t < (size_t)rows->n; t++)
        for (size_t i = 0; i < F; i++) {
            const float *row = array_floats(in) + t * 2 * F;
            const double gate = (double)row[i], up = (double)row[F + i];
            const double d = fabs((double)dh[t * F + i]);
            const double x = sigmoid(gate) + tiny;
            scale[t * 2 * F + i] = d * fabs(up) * x * (1 + fabs(gate));
            scale[t * 2 * F + F + i] = d * fabs(gate) * x;
        }
}

static const struct token_shape swiglu_shapes[] = {
    {0, 8},
    {3, 0},
    {1, 1},
    {2, 7},
    {3, 8, .in_place = true},
    {5, 15, .special = 60},
    {4, 17, .extreme = true},
    {33, 24, .in_place = true, .extreme = true},
    {40, 31, .special = 60},
    {7, 64},
    {9, 257, .in_place = true},
    {150, 128},
    {3, 1408, .in_place = true},
    {5, 19, .out16 = true},
    {5, 19, .in16 = true, .extreme = true},
    {33, 66, .in16 = true, .out16 = true, .in_place = true, .special = 60},
};
static const struct token_shape swiglu_cpu[] = {{16384, 512},
                                                {16384, 512, .in16 = true, .out16 = true}};
static const struct token_shape swiglu_gpu[] = {{16384, 1408},
                                                {16384, 1408, .in16 = true, .out16 = true}};

// ---- addition

static void build_add(struct call *c, const void *shape, const struct rows *unused)
{
    const struct token_shape *s = shape;
    (void)unused;
    struct add_args *a = call_args(c, sizeof *a);
    call_text(c, "n %d", s->C);
    a->n = (size_t)s->C;
    c->special = s->special;
    call_in(c, &a->x, "x", span_flat(a->n), NULL, 1.0);
    call_inout(c, &a->y, "y", span_flat(a->n), NULL)->exact = true;
    c->bytes = 12.0 * s->C;
}

static const struct token_shape add_shapes[] = {
    {0, 0},      {0, 1},  {0, 3},  {0, 7},  {0, 8},   {0, 15},  {0, 16},
    {0, 17},     {0, 31}, {0, 33}, {0, 97}, {0, 128}, {0, 999}, {0, 4097, .special = 50},
    {0, 300007},
};
static const struct token_shape add_cpu[] = {{0, 1 << 24}};
static const struct token_shape add_gpu[] = {{0, 1 << 26}};

// ---- conversion

static void build_convert(struct call *c, const void *shape, const struct rows *unused)
{
    const struct token_shape *s = shape;
    (void)unused;
    struct convert_args *a = call_args(c, sizeof *a);
    call_text(c, "n %d%s", s->C, types_text(s));
    *a = (struct convert_args){
        .n = (size_t)s->C, .x_type = type_of(s->in16), .y_type = type_of(s->out16)};
    c->special = s->special;
    call_in_as(c, &a->x, "x", element_of(s->in16), span_flat(a->n), NULL, 1.0);
    call_out(c, &a->y, "y", element_of(s->out16), span_flat(a->n), NULL)->exact = true;
    c->bytes = (size_of(s->in16) + size_of(s->out16)) * s->C;
}

static const struct token_shape convert_shapes[] = {
    {0, 0, .out16 = true},
    {0, 1, .out16 = true},
    {0, 3, .in16 = true},
    {0, 17, .out16 = true},
    {0, 33, .in16 = true},
    {0, 999, .out16 = true},
    {0, 4097, .out16 = true, .special = 50},
    {0, 4099, .in16 = true, .special = 50},
    {0, 300007, .out16 = true},
};
static const struct token_shape convert_cpu[] = {{0, 1 << 24, .out16 = true}};
static const struct token_shape convert_gpu[] = {{0, 1 << 26, .out16 = true}};

SLOT_CALL(embed, embed_args)
SLOT_CALL(embed_grad, embed_grad_args)
SLOT_CALL(kv_store, kv_store_args)
SLOT_CALL(rmsnorm, rmsnorm_args)
SLOT_CALL(rmsnorm_grad, rmsnorm_grad_args)
SLOT_CALL(rope, rope_args)
SLOT_CALL(swiglu, swiglu_args)
SLOT_CALL(swiglu_grad, swiglu_grad_args)
SLOT_CALL(add, add_args)
SLOT_CALL(convert, convert_args)

static const struct slot list[] = {
    {.name = "embed",
     .build = build_embed,
     .run = run_embed,
     .rows = token_rows,
     SLOT_SHAPES(embed_shapes, embed_cpu, embed_gpu),
     .tolerance = 0,
     .reason = "a copy"},
    {.name = "embed_grad",
     .build = build_embed_grad,
     .run = run_embed_grad,
     .rows = token_rows,
     SLOT_SHAPES(embed_shapes, embed_cpu, embed_gpu),
     .tolerance = 8,
     .reason = "at most a few tens of additions to one element"},
    {.name = "kv_store",
     .build = build_kv_store,
     .run = run_kv_store,
     .rows = token_rows,
     SLOT_SHAPES(embed_shapes, embed_cpu, embed_gpu),
     .tolerance = 0,
     .reason = "a copy"},
    {.name = "rmsnorm",
     .build = build_rmsnorm,
     .run = run_rmsnorm,
     .rows = token_rows,
     SLOT_SHAPES(rmsnorm_shapes, rmsnorm_cpu, rmsnorm_gpu),
     .tolerance = RMSNORM_TOLERANCE,
     .reason = "a sum of squares, which are positive, a root and three products"},
    {.name = "rmsnorm_grad",
     .build = build_rmsnorm_grad,
     .run = run_rmsnorm_grad,
     .rows = token_rows,
     SLOT_SHAPES(rmsnorm_grad_shapes, rmsnorm_grad_cpu, rmsnorm_grad_gpu),
     .tolerance = 16,
     .reason = "a few products, and sums of hundreds of terms"},
    {.name = "rope",
     .build = build_rope,
     .run = run_rope,
     .rows = token_rows,
     SLOT_SHAPES(rope_shapes, rope_cpu, rope_gpu),
     .tolerance = ROPE_TOLERANCE,
     .reason = "two products and a sum"},
    {.name = "swiglu",
     .build = build_swiglu,
     .run = run_swiglu,
     .rows = token_rows,
     SLOT_SHAPES(swiglu_shapes, swiglu_cpu, swiglu_gpu),
     .tolerance = SWIGLU_TOLERANCE,
     .reason = "an exponential within 2 ulp, a quotient and products"},
    {.name = "swiglu_grad",
     .build = build_swiglu_grad,
     .run = run_swiglu_grad,
     .rows = token_rows,
     SLOT_SHAPES(swiglu_shapes, swiglu_cpu, swiglu_gpu),
     .tolerance = SWIGLU_TOLERANCE,
     .reason = "as swiglu"},
    {.name = "add",
     .build = build_add,
     .run = run_add,
     SLOT_SHAPES(add_shapes, add_cpu, add_gpu),
     .tolerance = 0,
     .reason = "one rounding"},
    {.name = "convert",
     .build = build_convert,
     .run = run_convert,
     SLOT_SHAPES(convert_shapes, convert_cpu, convert_gpu),
     .tolerance = 0,
     .reason = "one rounding"},
};

const struct slots slots_token = {list, sizeof list / sizeof *list};
