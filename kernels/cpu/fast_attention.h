// SPDX-License-Identifier: Apache-2.0
// What attention and its backward share. Each part of the keys is on its own: a row is one of the
// G = H / kv_heads heads that it serves, of one query, and row i of some queries is head i % G of
// query i / G. With one part the rows lie one after the other in memory; else they are copied
// together. Products read bfloat16 as it is where there are dot products of it (then probabilities
// and their gradients are rounded to it), else float32, to which bfloat16 is widened first.
#ifndef KERNELS_CPU_FAST_ATTENTION_H
#define KERNELS_CPU_FAST_ATTENTION_H

#include "kernels/cpu/fast.h"

#define KEYS ATTENTION_BLOCK

// Query heads that a part serves.
static inline int heads_per_part(const struct attention_shape *s) { return s->H / s->kv_heads; }

// Queries of a work item: as many as make about `rows` rows.
static inline int queries_per_item(int rows, const struct attention_shape *s)
{
    const int G = heads_per_part(s);
    return rows / G > 1 ? rows / G : 1;
}

// Rows of all heads of queries before row i of the queries from `query` on.
static inline size_t row_of(const struct attention_shape *s, size_t query, int part, int i)
{
    const int G = heads_per_part(s);
    return (query + (size_t)(i / G)) * (size_t)s->H + (size_t)(part * G + i % G);
}

static inline int round_up_lanes(int keys)
{
    return (keys + VEC_WIDTH - 1) / VEC_WIDTH * VEC_WIDTH;
}

static inline size_t round_up_cols(int n)
{
    return ((size_t)n + GEMM_COLS - 1) / GEMM_COLS * GEMM_COLS;
}

// The next part of a scratch, which has a line of SCRATCH_LINE floats to spare for each.
#define SCRATCH_LINE 16
static inline float *take(float **scratch, size_t floats)
{
    float *part = *scratch;
    *scratch += (floats + SCRATCH_LINE - 1) / SCRATCH_LINE * SCRATCH_LINE;
    return part;
}

// Rows as products read them.
struct attention_rows {
    const void *data; // [rows,n], ld apart
    size_t ld;
    enum dtype type;
};

// Rows of n elements, ld apart, from the at-th element of x on: where they lie, or widened into
// work [rows,n].
static inline struct attention_rows read_rows(const void *x, enum dtype type, size_t at, size_t ld,
                                              int rows, int n, float *work)
{
    if (type == DTYPE_F32)
        return (struct attention_rows){(const float *)x + at, ld, type};
    if (GEMM_DOTS)
        return (struct attention_rows){(const uint16_t *)x + at, ld, type};
    for (size_t i = 0; i < (size_t)rows; i++)
        copy_as(work, DTYPE_F32, i * (size_t)n, x, type, at + i * ld, (size_t)n);
    return (struct attention_rows){work, (size_t)n, DTYPE_F32};
}

// The rows of x, n elements each, that are some queries' from `query` on: where they lie, or in
// work [rows,n].
static inline struct attention_rows read_heads(const struct attention_shape *s, const void *x,
                                               enum dtype type, size_t query, int part, int rows,
                                               int n, float *work)
{
    const size_t width = (size_t)n, G = (size_t)heads_per_part(s);
    if (s->kv_heads == 1)
        return read_rows(x, type, query * G * width, width, rows, n, work);
    const struct attention_rows out = {work, width, GEMM_DOTS ? type : DTYPE_F32};
    for (size_t i = 0; i < (size_t)rows; i += G)
        copy_as(work, out.type, i * width, x, type, row_of(s, query, part, (int)i) * width,
                G * width);
    return out;
}

// x from row `rows` and column `columns` on.
static inline struct attention_rows skip(struct attention_rows x, int rows, int columns)
{
    const size_t bytes = ((size_t)rows * x.ld + (size_t)columns) * dtype_size(x.type);
    return (struct attention_rows){(const char *)x.data + bytes, x.ld, x.type};
}

// Keys (or values) of a block as B of a product: rows of D as its columns, in panels of GEMM_COLS.
// Columns of the last vector past `keys` repeat the last key. out: [D,KEYS] floats.
void FAST(transpose_keys)(struct attention_rows kv, int keys, int D, float *out);

// Rows as B of a product over them: float32 where it is, bfloat16 packed by pairs of rows into work
// (rows, rounded up to pairs, times round_up_cols(n) elements).
static inline const void *pack_rows(struct attention_rows x, int rows, int n, void *work)
{
    if (x.type == DTYPE_F32)
        return x.data;
    FAST(gemm_bf16_pack)(x.data, x.ld, rows, n, work);
    return work;
}

// Scratch of the products.
struct attention_room {
    uint16_t *half; // [rows,KEYS]
    float *gemm;    // gemm_bf16_work of the deepest
};

// out[m,KEYS] = x[m, 0..depth) keys_t[0..depth) for the first `keys` keys (whole vectors of them
// are written), of keys of D.
static inline void score_rows(struct attention_rows x, int m, const float *keys_t, int D, int depth,
                              int keys, float *out, struct attention_room room)
{
    if (x.type == DTYPE_BF16) {
        const struct gemm_bf16 product = {
            .m = m,
            .n = round_up_lanes(keys),
            .k = depth,
            .a = x.data,
            .a_row = x.ld,
            .a_depth = 2,
            .b = (const uint16_t *)(const void *)keys_t,
            .b_panel = gemm_bf16_panel(D),
            .c = out,
            .ldc = KEYS,
            .mode = GEMM_SET,
            .work = room.gemm,
        };
        FAST(gemm_bf16)(&product);
    } else {
        const struct gemm product = {
            .m = m,
            .n = round_up_lanes(keys),
            .k = depth,
            .a = x.data,
            .a_row = x.ld,
            .a_depth = 1,
            .b = keys_t,
            .b_depth = GEMM_COLS,
            .b_panel = (size_t)D * GEMM_COLS,
            .c = out,
            .ldc = KEYS,
            .mode = GEMM_SET,
        };
        FAST(gemm)(&product);
    }
}

// The rows of a key block, `packed` of them, as B of a product over keys: pack_rows' result.
struct attention_values {
    const void *data;
    size_t ld; // of float32
    int packed;
    enum dtype type;
};

// out[m,n] = or += p[m, 0..keys) kv[0..keys)[0,n), the chain over keys ascending. p is 0 from
// `keys` on to the end of a vector; half: scratch of m KEYS elements.
static inline void weigh_keys(const float *p, int m, struct attention_values kv, int keys, int n,
                              float *out, size_t ldo, bool first, struct attention_room room)
{
    const enum gemm_mode mode = first ? GEMM_SET : GEMM_CHAIN;
    if (kv.type == DTYPE_BF16) {
        for (int i = 0; i < m; i++)
            for (int u = 0; u < keys; u += VEC_WIDTH)
                vec_store_bf16(room.half + i * KEYS + u, vec_load(p + i * KEYS + u), VEC_WIDTH);
        const struct gemm_bf16 product = {
            .m = m,
            .n = n,
            .k = (keys + 1) / 2 * 2,
            .a = room.half,
            .a_row = KEYS,
            .a_depth = 2,
            .b = kv.data,
            .b_panel = gemm_bf16_panel(kv.packed),
            .c = out,
            .ldc = ldo,
            .mode = mode,
            .work = room.gemm,
        };
        FAST(gemm_bf16)(&product);
        return;
    }
    const struct gemm product = {
        .m = m,
        .n = n,
        .k = keys,
        .a = p,
        .a_row = KEYS,
        .a_depth = 1,
        .b = kv.data,
        .b_depth = kv.ld,
        .b_panel = GEMM_COLS,
        .c = out,
        .ldc = ldo,
        .mode = mode,
    };
    FAST(gemm)(&product);
}

#endif
