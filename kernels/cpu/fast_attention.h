// SPDX-License-Identifier: Apache-2.0
// What attention and its backward share. A row is one head of one query: row i of a sequence is
// head i % H of query i / H, and H (R + Dr) floats apart are the queries, so rows lie one after the
// other.
#ifndef KERNELS_CPU_FAST_ATTENTION_H
#define KERNELS_CPU_FAST_ATTENTION_H

#include "kernels/cpu/fast.h"

#define KEYS ATTENTION_BLOCK

// Queries of a work item: as many as make about `rows` rows.
static inline int queries_per_item(int rows, int H) { return rows / H > 1 ? rows / H : 1; }

static inline int round_up_lanes(int keys)
{
    return (keys + VEC_WIDTH - 1) / VEC_WIDTH * VEC_WIDTH;
}

// out[m,KEYS] = x[m, 0..depth) keys_t[0..depth), for the first `keys` keys (whole vectors of them
// are written); rows of x are ldx apart.
static inline void score_rows(const float *x, size_t ldx, int m, const float *keys_t, int depth,
                              int keys, float *out)
{
    const struct gemm product = {
        .m = m,
        .n = round_up_lanes(keys),
        .k = depth,
        .a = x,
        .a_row = ldx,
        .a_depth = 1,
        .b = keys_t,
        .b_depth = KEYS,
        .b_panel = GEMM_COLS,
        .c = out,
        .ldc = KEYS,
        .mode = GEMM_SET,
    };
    FAST(gemm)(&product);
}

// out[m,n] = or += p[m, 0..keys) kv[0..keys)[0,n), the chain over keys ascending; rows of kv are D
// apart.
static inline void weigh_keys(const float *p, int m, const float *kv, size_t D, int keys, int n,
                              float *out, size_t ldo, bool first)
{
    const struct gemm product = {
        .m = m,
        .n = n,
        .k = keys,
        .a = p,
        .a_row = KEYS,
        .a_depth = 1,
        .b = kv,
        .b_depth = D,
        .b_panel = GEMM_COLS,
        .c = out,
        .ldc = ldo,
        .mode = first ? GEMM_SET : GEMM_CHAIN,
    };
    FAST(gemm)(&product);
}

#endif
