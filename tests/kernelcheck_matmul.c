// SPDX-License-Identifier: Apache-2.0
// Cases of the matrix products.
#include "kernels/block.h"
#include "kernels/device.h"
#include "tests/kernelcheck.h"
#include <math.h>
#include <stdlib.h>

// How the matrices of a batch lie: one after the other; side by side in each row (heads); or as
// segments of tall ones (experts).
enum layout { LAYOUT_BATCH, LAYOUT_HEADS, LAYOUT_SEGMENTS };

struct matmul_shape {
    int m, n, k, batch; // m: rows of all segments together
    enum layout layout;
    int pad; // floats between rows
    bool accumulate;
    bool overwrite; // of a weight gradient
    int special;
    enum { ALL_F32, SUMS_F32, ALL_BF16 } types; // the latter two: bfloat16 in
    bool plain;                                 // B as it lies, rows padded as well
};

static enum element input_element(const struct matmul_shape *s)
{
    return s->types == ALL_F32 ? ELEMENT_F32 : ELEMENT_BF16;
}

static enum dtype input_type(const struct matmul_shape *s)
{
    return s->types == ALL_F32 ? DTYPE_F32 : DTYPE_BF16;
}

static const char *types_name(const struct matmul_shape *s)
{
    static const char *const names[] = {"", " bfloat16 to float32", " bfloat16"};
    return names[s->types];
}

// The span of `batch` matrices of m rows and `cols` columns, and their leading dimension and
// stride.
static struct span matrices(const struct matmul_shape *s, int m, int cols, size_t *ld,
                            size_t *stride)
{
    const size_t rows = (size_t)m, width = (size_t)cols, count = (size_t)s->batch;
    const size_t pad = (size_t)s->pad;
    switch (s->layout) {
    case LAYOUT_HEADS:
        *stride = width + pad;
        *ld = count * *stride;
        return (struct span){rows, *ld, count, *stride, width};
    case LAYOUT_SEGMENTS:
        *stride = 0;
        *ld = width + pad;
        return span_rows(rows, *ld, width);
    case LAYOUT_BATCH:
    default:
        *ld = width + pad;
        *stride = rows * *ld + 3 * pad;
        if (s->batch == 1)
            return span_rows(rows, *ld, width);
        return (struct span){count, *stride, rows, *ld, width};
    }
}

// The group of a row in the segmented layout: every third group is empty, the first is large, and
// of the small ones some have a single row.
static int group_of(const struct call *c, const struct matmul_shape *s, int id)
{
    const int g = (int)call_random(c, "group", id, (uint32_t)s->batch);
    return s->batch > 2 && g % 3 == 1 ? 0 : g;
}

// Rows of tall matrices by group: *order [n + 2 lead] are their identities, -1 for `lead` rows
// before and after that belong to no group.
static int *segment_rows(struct call *c, const struct matmul_shape *s, const struct rows *rows,
                         int lead, struct array *segments)
{
    int *order = ARENA_ARRAY(&c->memory, int, rows->n + 2 * lead + 1), at = 0;
    for (; at < lead; at++)
        order[at] = -1;
    for (int g = 0; g < s->batch; g++) {
        array_ints(segments)[g] = at;
        for (int i = 0; i < rows->n; i++)
            if (group_of(c, s, rows->id[i]) == g)
                order[at++] = rows->id[i];
        array_ints(segments)[g + 1] = at;
    }
    for (int i = 0; i < lead; i++)
        order[at++] = -1;
    return order;
}

// What a product is summed of: A[i,l] B[g][l,j] at these places.
struct product {
    const struct array *a, *b, *c;
    const int *segments;
    size_t lda, stride_a, ldb, ldc, stride_c;
    int m, n, k, batch;
};

static void product_scale(const struct product *p, double *scale)
{
    const size_t n = (size_t)p->n, k = (size_t)p->k;
    for (size_t g = 0; g < (size_t)p->batch; g++) {
        const size_t begin = p->segments ? (size_t)p->segments[g] : 0;
        const size_t end = p->segments ? (size_t)p->segments[g + 1] : (size_t)p->m;
        for (size_t i = begin; i < end; i++) {
            const float *a = array_floats(p->a) + g * p->stride_a + i * p->lda;
            double *out = scale + g * p->stride_c + i * p->ldc;
            for (size_t l = 0; l < k; l++)
                for (size_t j = 0; j < n; j++)
                    out[j] +=
                        fabs((double)a[l] * (double)array_floats(p->b)[(g * k + l) * p->ldb + j]);
        }
    }
}

static void add_magnitudes(const struct array *a, double *scale)
{
    for (size_t i = 0; i < a->count; i++)
        scale[i] += isnan(array_floats(a)[i]) ? 0.0 : fabs((double)array_floats(a)[i]);
}

static const char *layout_name(enum layout layout)
{
    static const char *const names[] = {"batch", "heads", "segments"};
    return names[layout];
}

// Weights of the rows [g k, (g + 1) k) of one tall matrix: B[g].
static const struct array *weights_of(struct call *c, struct matmul_args *a,
                                      const struct matmul_shape *s)
{
    a->ldb = (size_t)s->n;
    if (!s->plain)
        return call_packed_as(c, &a->b, "b", input_element(s), s->k, s->n, s->batch, 1.0);
    a->ldb += (size_t)s->pad;
    a->stride_b = (size_t)s->k * a->ldb;
    const size_t rows = (size_t)s->batch * (size_t)s->k;
    return call_in(c, &a->plain, "b", span_rows(rows, a->ldb, (size_t)s->n), NULL, 1.0);
}

// Devices that do not read plain matrices are given packed ones.
static int run_matmul(struct device *dev, const void *args)
{
    struct matmul_args a = *(const struct matmul_args *)args;
    if (!a.plain || dev->reads_plain)
        return dev->k->matmul(dev, &a);
    const size_t size = matmul_packed_size(dev, a.k, a.n) * (size_t)a.batch;
    void *packed = NULL;
    int rc = device_alloc_zero(dev, &packed, size * dtype_size(a.b_type) + 1);
    if (rc == 0)
        rc = dev->k->matmul_pack(dev, &(struct pack_args){.b = a.plain,
                                                          .ldb = a.ldb,
                                                          .stride_b = a.stride_b,
                                                          .k = a.k,
                                                          .n = a.n,
                                                          .count = a.batch,
                                                          .out = packed,
                                                          .out_type = a.b_type});
    a.b = packed;
    a.plain = NULL;
    rc = rc ? rc : dev->k->matmul(dev, &a);
    device_release(dev, packed);
    return rc;
}

static void build_matmul(struct call *c, const void *shape, const struct rows *rows)
{
    const struct matmul_shape *s = shape;
    struct matmul_args *a = call_args(c, sizeof *a);
    const bool tall = s->layout == LAYOUT_SEGMENTS;
    const int lead = tall ? s->pad : 0, m = rows->n + 2 * lead;
    const int *order = s->layout == LAYOUT_HEADS || s->batch == 1 ? rows->id : NULL;
    struct array *segments = NULL;
    call_text(c, "m %d n %d k %d batch %d %s pad %d%s%s%s", rows->n, s->n, s->k, s->batch,
              layout_name(s->layout), s->pad, s->accumulate ? " accumulate" : "", types_name(s),
              s->plain ? " plain" : "");
    *a = (struct matmul_args){.n = s->n, .k = s->k, .batch = s->batch, .accumulate = s->accumulate};
    a->m = m;
    a->a_type = a->b_type = input_type(s);
    a->c_type = s->types == ALL_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if (tall) {
        segments =
            call_data(c, &a->segments, "segments", ELEMENT_I32, sizeof(int), (size_t)s->batch + 1);
        order = segment_rows(c, s, rows, lead, segments);
    }
    c->special = s->special;
    const struct array *x = call_in_as(c, &a->a, "a", input_element(s),
                                       matrices(s, m, s->k, &a->lda, &a->stride_a), order, 1.0);
    c->special = 0;
    const struct array *b = weights_of(c, a, s);
    const struct span span = matrices(s, m, s->n, &a->ldc, &a->stride_c);
    const enum element element = s->types == ALL_BF16 ? ELEMENT_BF16 : ELEMENT_F32;
    struct array *out = s->accumulate ? call_inout_as(c, &a->c, "c", element, span, order)
                                      : call_out(c, &a->c, "c", element, span, order);
    out->unit =
        s->types == ALL_BF16 ? 0x1p-12 : 0.0; // with the tolerance, one rounding to bfloat16
    c->flops = 2.0 * rows->n * s->n * s->k * (tall ? 1 : s->batch);
    c->bf16 = s->types != ALL_F32;
    if (!c->scales)
        return;
    const struct product p = {.a = x,
                              .b = b,
                              .c = out,
                              .segments = tall ? array_ints(segments) : NULL,
                              .lda = a->lda,
                              .stride_a = a->stride_a,
                              .ldb = a->ldb,
                              .ldc = a->ldc,
                              .stride_c = a->stride_c,
                              .m = m,
                              .n = s->n,
                              .k = s->k,
                              .batch = s->batch};
    double *scale = call_scale(c, out);
    product_scale(&p, scale);
    if (s->accumulate)
        add_magnitudes(out, scale);
}

static int matmul_rows(const void *shape) { return ((const struct matmul_shape *)shape)->m; }

// Sizes on both sides of the vectors, tiles and blocks of the variants.
static const struct matmul_shape matmul_shapes[] = {
    {0, 5, 7, 1},
    {5, 0, 7, 1},
    {5, 7, 0, 1},
    {5, 7, 0, 1, .accumulate = true},
    {5, 7, 3, 0},
    {1, 1, 1, 1},
    {1, 17, 31, 1},
    {2, 31, 16, 1, .pad = 3},
    {3, 32, 17, 1, .accumulate = true},
    {5, 33, 64, 1, .pad = 1, .accumulate = true},
    {7, 63, 40, 2, .pad = 5},
    {13, 65, 48, 3, LAYOUT_HEADS},
    {11, 15, 9, 5, LAYOUT_HEADS, .pad = 2, .accumulate = true},
    {4, 16, 128, 16, LAYOUT_HEADS, .pad = 4},
    {64, 64, 64, 1},
    {17, 128, 511, 1},
    {12, 48, 512, 1, .accumulate = true},
    {6, 40, 513, 1, .pad = 7},
    {97, 31, 1030, 1},
    {129, 127, 65, 1, .accumulate = true},
    {200, 136, 96, 2, LAYOUT_HEADS},
    {61, 260, 33, 1, LAYOUT_HEADS},
    {1, 512, 512, 1, LAYOUT_HEADS},
    {23, 20, 24, 4, LAYOUT_HEADS, .special = 97},
    {0, 8, 8, 3, LAYOUT_SEGMENTS},
    {1, 9, 5, 7, LAYOUT_SEGMENTS},
    {40, 0, 5, 3, LAYOUT_SEGMENTS},
    {40, 7, 0, 3, LAYOUT_SEGMENTS},
    {37, 48, 48, 8, LAYOUT_SEGMENTS, .pad = 1},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .accumulate = true},
    {64, 24, 16, 64, LAYOUT_SEGMENTS},
    {300, 96, 48, 16, LAYOUT_SEGMENTS, .pad = 2, .accumulate = true},
    {150, 130, 70, 1, LAYOUT_SEGMENTS},
    {5, 7, 0, 1, .types = SUMS_F32},
    {5, 7, 0, 1, .accumulate = true, .types = ALL_BF16},
    {1, 1, 1, 1, .types = ALL_BF16},
    {1, 136, 200, 1, .types = SUMS_F32},
    {9, 33, 129, 1, .pad = 1, .accumulate = true, .types = ALL_BF16},
    {70, 130, 72, 2, .pad = 8, .types = SUMS_F32},
    {13, 65, 48, 3, LAYOUT_HEADS, .types = ALL_BF16},
    {97, 31, 1030, 1, .pad = 2, .types = SUMS_F32},
    {129, 264, 64, 1, .accumulate = true, .types = SUMS_F32},
    {300, 520, 130, 1, .pad = 6, .types = ALL_BF16},
    {23, 20, 24, 4, LAYOUT_HEADS, .special = 97, .types = SUMS_F32},
    {0, 8, 8, 3, LAYOUT_SEGMENTS, .types = ALL_BF16},
    {1, 9, 5, 7, LAYOUT_SEGMENTS, .types = SUMS_F32},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .accumulate = true, .types = ALL_BF16},
    {64, 24, 16, 64, LAYOUT_SEGMENTS, .types = SUMS_F32},
    {300, 264, 72, 3, LAYOUT_SEGMENTS, .pad = 8, .types = ALL_BF16},
    {5, 7, 0, 1, .plain = true},
    {1, 1, 1, 1, .plain = true},
    {9, 33, 129, 1, .pad = 1, .accumulate = true, .plain = true},
    {13, 65, 48, 3, LAYOUT_HEADS, .plain = true},
    {130, 200, 513, 1, .pad = 3, .plain = true},
    {20, 24, 5000, 1, .plain = true},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .pad = 2, .accumulate = true, .plain = true},
    {1, 1, 1, 1, .types = ALL_BF16, .plain = true},
    {13, 65, 47, 3, LAYOUT_HEADS, .types = ALL_BF16, .plain = true},
    {130, 200, 513, 1, .pad = 3, .types = SUMS_F32, .plain = true},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .pad = 2, .types = SUMS_F32, .plain = true},
};
static const struct matmul_shape matmul_cpu[] = {
    {1, 512, 512, 1},
    {1024, 512, 512, 1},
    {1024, 512, 512, 1, .plain = true},
    {4096, 512, 512, 16, LAYOUT_SEGMENTS},
    {4096, 512, 512, 16, LAYOUT_SEGMENTS, .plain = true},
    {1, 512, 512, 1, .types = ALL_BF16},
    {8, 512, 512, 1, .types = ALL_BF16},
    {16, 512, 512, 1, .types = ALL_BF16},
    {32, 512, 512, 1, .types = ALL_BF16},
    {64, 512, 512, 1, .types = ALL_BF16},
    {64, 2048, 2048, 1, .types = ALL_BF16},
    {1024, 512, 512, 1, .types = ALL_BF16},
    {1024, 512, 512, 1, .types = ALL_BF16, .plain = true},
    {1024, 1024, 1024, 1, .types = ALL_BF16},
    {4096, 512, 512, 16, LAYOUT_SEGMENTS, .types = ALL_BF16},
    {1024, 128, 64, 8, LAYOUT_HEADS, .types = ALL_BF16},
    {1024, 512, 512, 256, LAYOUT_SEGMENTS, .types = ALL_BF16}}; // weights from memory
static const struct matmul_shape matmul_gpu[] = {
    {1, 4096, 4096, 1},
    {64, 4096, 4096, 1},
    {4096, 4096, 4096, 1},
    {4096, 512, 128, 16, LAYOUT_HEADS},
    {512 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS},
    {1, 4096, 4096, 1, .types = ALL_BF16},
    {64, 4096, 4096, 1, .types = ALL_BF16},
    {8192, 8192, 8192, 1, .types = ALL_BF16},
    {3 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS, .types = ALL_BF16},
    {512 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS, .types = ALL_BF16},
    {512 * 64, 2048, 1408, 64, LAYOUT_SEGMENTS, .types = ALL_BF16}};

// ---- weight gradients

static void grad_scale(const struct matmul_grad_args *a, const struct array *dy,
                       const struct array *x, const int *segments, double *scale)
{
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    for (size_t g = 0; g < (size_t)a->batch; g++) {
        const size_t begin = segments ? (size_t)segments[g] : 0;
        const size_t end = segments ? (size_t)segments[g + 1] : (size_t)a->m;
        for (size_t t = begin; t < end; t++)
            for (size_t i = 0; i < n; i++) {
                const double d = (double)array_floats(dy)[g * a->stride_dy + t * a->lddy + i];
                const float *row = array_floats(x) + g * a->stride_x + t * a->ldx;
                for (size_t j = 0; j < k; j++)
                    scale[g * a->stride_dw + i * k + j] += fabs(d * (double)row[j]);
            }
    }
}

static void build_matmul_grad(struct call *c, const void *shape, const struct rows *unused)
{
    const struct matmul_shape *s = shape;
    (void)unused;
    struct matmul_grad_args *a = call_args(c, sizeof *a);
    const bool tall = s->layout == LAYOUT_SEGMENTS;
    const int lead = tall ? s->pad : 0, m = s->m + 2 * lead;
    const int *order = NULL;
    struct array *segments = NULL;
    call_text(c, "m %d n %d k %d batch %d %s pad %d%s%s", s->m, s->n, s->k, s->batch,
              layout_name(s->layout), s->pad, s->overwrite ? " overwrite" : "", types_name(s));
    *a = (struct matmul_grad_args){
        .n = s->n, .k = s->k, .batch = s->batch, .overwrite = s->overwrite};
    a->m = m;
    a->dy_type = a->x_type = input_type(s);
    if (tall) {
        int *ids = ARENA_ARRAY(&c->memory, int, s->m + 1);
        for (int i = 0; i < s->m; i++)
            ids[i] = i;
        segments =
            call_data(c, &a->segments, "segments", ELEMENT_I32, sizeof(int), (size_t)s->batch + 1);
        order = segment_rows(c, s, &(struct rows){ids, s->m}, lead, segments);
    }
    c->special = s->special;
    const enum element element = input_element(s);
    const struct array *dy = call_in_as(c, &a->dy, "dy", element,
                                        matrices(s, m, s->n, &a->lddy, &a->stride_dy), order, 1.0);
    c->special = 0;
    const struct array *x =
        call_in_as(c, &a->x, "x", element, matrices(s, m, s->k, &a->ldx, &a->stride_x), order, 1.0);
    const size_t size = (size_t)s->n * (size_t)s->k;
    a->stride_dw = size + (size_t)s->pad;
    const struct span span = span_rows((size_t)s->batch, a->stride_dw, size);
    struct array *dw = s->overwrite ? call_out(c, &a->dw, "dw", ELEMENT_F32, span, NULL)
                                    : call_inout(c, &a->dw, "dw", span, NULL);
    c->flops = 2.0 * s->m * s->n * s->k * (tall ? 1 : s->batch);
    c->bf16 = s->types != ALL_F32;
    if (!c->scales)
        return;
    double *scale = call_scale(c, dw);
    grad_scale(a, dy, x, tall ? array_ints(segments) : NULL, scale);
    if (!s->overwrite)
        add_magnitudes(dw, scale);
}

static const struct matmul_shape matmul_grad_shapes[] = {
    {0, 5, 7, 1},
    {5, 0, 7, 1},
    {5, 7, 0, 1},
    {5, 7, 3, 0},
    {1, 1, 1, 1},
    {1, 17, 31, 1},
    {2, 12, 33, 2, .pad = 3},
    {7, 13, 16, 3, LAYOUT_HEADS, .pad = 1},
    {31, 32, 32, 4, LAYOUT_HEADS},
    {64, 33, 48, 1},
    {255, 6, 40, 1, .pad = 5},
    {256, 24, 17, 1},
    {257, 25, 64, 1},
    {600, 31, 65, 1},
    {129, 96, 96, 2, LAYOUT_HEADS, .pad = 2},
    {40, 130, 260, 1},
    {90, 20, 24, 1, .special = 997},
    {0, 8, 8, 3, LAYOUT_SEGMENTS},
    {1, 9, 5, 7, LAYOUT_SEGMENTS},
    {37, 48, 48, 8, LAYOUT_SEGMENTS, .pad = 1},
    {65, 33, 129, 12, LAYOUT_SEGMENTS},
    {64, 24, 16, 64, LAYOUT_SEGMENTS, .pad = 3},
    {900, 48, 96, 16, LAYOUT_SEGMENTS},
    {150, 130, 70, 1, LAYOUT_SEGMENTS},
    {0, 5, 7, 2, .overwrite = true},
    {300, 33, 48, 2, .pad = 3, .overwrite = true},
    {600, 31, 65, 1, .overwrite = true},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .overwrite = true},
    {1, 17, 31, 1, .types = SUMS_F32},
    {7, 13, 16, 3, LAYOUT_HEADS, .pad = 1, .types = SUMS_F32},
    {64, 40, 48, 2, .pad = 8, .types = SUMS_F32},
    {600, 31, 65, 1, .types = SUMS_F32},
    {2100, 72, 264, 1, .types = SUMS_F32},
    {90, 20, 24, 1, .special = 997, .types = SUMS_F32},
    {65, 33, 129, 12, LAYOUT_SEGMENTS, .types = SUMS_F32},
    {64, 24, 16, 64, LAYOUT_SEGMENTS, .pad = 3, .types = SUMS_F32},
    {300, 136, 264, 3, LAYOUT_SEGMENTS, .pad = 8, .types = SUMS_F32},
    {0, 72, 8, 2, .overwrite = true, .types = SUMS_F32},
    {600, 31, 65, 1, .overwrite = true, .types = SUMS_F32},
    {65, 136, 132, 12, LAYOUT_SEGMENTS, .overwrite = true, .types = SUMS_F32},
};
static const struct matmul_shape matmul_grad_cpu[] = {
    {1024, 512, 512, 1},
    {4096, 512, 512, 16, LAYOUT_SEGMENTS},
    {1024, 512, 512, 1, .types = SUMS_F32},
    {4096, 512, 512, 16, LAYOUT_SEGMENTS, .types = SUMS_F32},
    {1024, 128, 64, 8, LAYOUT_HEADS, .types = SUMS_F32}};
static const struct matmul_shape matmul_grad_gpu[] = {
    {4096, 4096, 4096, 1},
    {512 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS},
    {8192, 4096, 4096, 1, .types = SUMS_F32},
    {512 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS, .types = SUMS_F32},
    {512 * 64, 2816, 2048, 64, LAYOUT_SEGMENTS, .overwrite = true, .types = SUMS_F32}};

// ---- packing: what is packed is seen through a product with the identity

struct pack_shape {
    int k, n, count;
    bool transposed;
    int pad;
    bool bf16; // packed
};

struct pack_probe {
    struct pack_args pack;
    struct matmul_args probe;
};

static int run_pack(struct device *dev, const void *args)
{
    const struct pack_probe *p = args;
    const int rc = dev->k->matmul_pack(dev, &p->pack);
    struct matmul_args probe = p->probe;
    probe.b = p->pack.out;
    return rc == 0 ? dev->k->matmul(dev, &probe) : rc;
}

static int time_pack(struct device *dev, const void *args)
{
    return dev->k->matmul_pack(dev, &((const struct pack_probe *)args)->pack);
}

static void build_pack(struct call *c, const void *shape, const struct rows *unused)
{
    const struct pack_shape *s = shape;
    (void)unused;
    struct pack_probe *a = call_args(c, sizeof *a);
    const size_t k = (size_t)s->k, n = (size_t)s->n, count = (size_t)s->count;
    const size_t rows = s->transposed ? n : k, cols = s->transposed ? k : n;
    call_text(c, "k %d n %d count %d pad %d%s%s", s->k, s->n, s->count, s->pad,
              s->transposed ? " transposed" : "", s->bf16 ? " to bfloat16" : "");
    a->pack = (struct pack_args){.ldb = cols + (size_t)s->pad,
                                 .k = s->k,
                                 .n = s->n,
                                 .count = s->count,
                                 .transposed = s->transposed,
                                 .out_type = s->bf16 ? DTYPE_BF16 : DTYPE_F32};
    a->pack.stride_b = rows * a->pack.ldb + (size_t)s->pad;
    call_in(c, &a->pack.b, "b", (struct span){count, a->pack.stride_b, rows, a->pack.ldb, cols},
            NULL, 1.0);
    call_opaque(c, &a->pack.out, "packed", s->k, s->n, s->count);
    a->probe = (struct matmul_args){
        .lda = k, .ldc = n, .stride_c = k * n, .m = s->k, .n = s->n, .k = s->k, .batch = s->count};
    a->probe.a_type = a->probe.b_type = a->pack.out_type;
    const uint16_t one_bf16 = 0x3f80;
    struct array *unit =
        s->bf16 ? call_data(c, &a->probe.a, "unit", ELEMENT_BF16, sizeof one_bf16, k * k)
                : call_data(c, &a->probe.a, "unit", ELEMENT_F32, sizeof(float), k * k);
    for (size_t i = 0; i < k; i++) {
        if (s->bf16)
            ((uint16_t *)unit->before)[i * k + i] = one_bf16;
        else
            array_floats(unit)[i * k + i] = 1.0f;
    }
    struct array *out =
        call_out(c, &a->probe.c, "seen", ELEMENT_F32, span_rows(count, k * n, k * n), NULL);
    out->exact = true;
    c->bytes = 8.0 * s->k * s->n * s->count;
}

static const struct pack_shape pack_shapes[] = {
    {0, 5, 1},
    {5, 0, 1},
    {5, 3, 0},
    {1, 1, 1},
    {1, 33, 2},
    {16, 31, 1, .pad = 3},
    {31, 16, 1, true},
    {48, 48, 3},
    {33, 65, 2, true, .pad = 5},
    {64, 128, 1, true},
    {129, 97, 1},
    {128, 100, 2, .pad = 1},
    {17, 513, 1, true},
    {200, 257, 1},
    {96, 64, 8, true},
    {1, 33, 2, .bf16 = true},
    {64, 72, 1, .bf16 = true},
    {33, 65, 2, true, .pad = 5, .bf16 = true},
    {200, 257, 1, true, .bf16 = true},
};
static const struct pack_shape pack_cpu[] = {{512, 4096, 1, true}};
static const struct pack_shape pack_gpu[] = {{4096, 8192, 1, true}};

SLOT_CALL(matmul_grad, matmul_grad_args)

static const struct slot list[] = {
    {.name = "matmul_pack",
     .build = build_pack,
     .run = run_pack,
     .time = time_pack,
     SLOT_SHAPES(pack_shapes, pack_cpu, pack_gpu),
     .tolerance = 0,
     .reason = "a product with the identity adds zeros"},
    {.name = "matmul",
     .build = build_matmul,
     .run = run_matmul,
     .rows = matmul_rows,
     SLOT_SHAPES(matmul_shapes, matmul_cpu, matmul_gpu),
     .tolerance = 16,
     .reason = "roundings of about a thousand partial sums, each at most the sum of magnitudes"},
    {.name = "matmul_grad",
     .build = build_matmul_grad,
     .run = run_matmul_grad,
     SLOT_SHAPES(matmul_grad_shapes, matmul_grad_cpu, matmul_grad_gpu),
     .tolerance = 16,
     .reason = "as matmul, over tokens"},
};

const struct slots slots_matmul = {list, sizeof list / sizeof *list};
