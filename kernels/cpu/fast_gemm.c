// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/fast_gemm.h"
#include <assert.h>
#include <stdbool.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

// Depth and rows of a cache block: a panel of B of DEPTH_BLOCK x GEMM_COLS and the rows of A stay
// in the second-level cache.
#define DEPTH_BLOCK 512
#define ROW_BLOCK   96

struct tile {
    const float *a, *b;
    float *c;
    size_t a_row, a_depth, b_depth, ldc;
    int k;
    vec_mask last; // lanes of the last vector, when it is a part of one
    bool start_from_c, add_to_c;
};

// rows x vecs vectors of C in registers. Rows are addressed from every third one, so that the
// addresses fit the registers.
static ALWAYS_INLINE void tile_run(const struct tile *t, const int rows, const int vecs,
                                   const bool masked)
{
    vec acc[GEMM_ROWS][2];
    const float *a[(GEMM_ROWS + 2) / 3], *b = t->b;
    const size_t a_row = t->a_row, a_depth = t->a_depth, b_depth = t->b_depth;
    const vec_mask last = t->last;
    for (int i = 0; i < (rows + 2) / 3; i++)
        a[i] = t->a + (size_t)i * 3 * a_row;
    for (int i = 0; i < rows && t->add_to_c; i++) // long before it is read
        for (int j = 0; j < vecs; j++)
            _mm_prefetch((const char *)(t->c + (size_t)i * t->ldc + (size_t)j * VEC_WIDTH),
                         _MM_HINT_T0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) {
            const float *c = t->c + (size_t)i * t->ldc + (size_t)j * VEC_WIDTH;
            if (!t->start_from_c)
                acc[i][j] = vec_zero();
            else
                acc[i][j] = masked && j == vecs - 1 ? vec_load_mask(c, last) : vec_load(c);
        }
    for (int l = t->k; l > 0; l--) {
        vec y[2];
        for (int j = 0; j < vecs; j++)
            y[j] = masked && j == vecs - 1 ? vec_load_mask(b + j * VEC_WIDTH, last)
                                           : vec_load(b + j * VEC_WIDTH);
        b += b_depth;
        for (int i = 0; i < rows; i++) {
            const vec x = vec_set1(a[i / 3][(size_t)(i % 3) * a_row]);
            for (int j = 0; j < vecs; j++)
                acc[i][j] = vec_fma(x, y[j], acc[i][j]);
        }
        for (int i = 0; i < (rows + 2) / 3; i++)
            a[i] += a_depth;
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) {
            float *c = t->c + (size_t)i * t->ldc + (size_t)j * VEC_WIDTH;
            const bool part = masked && j == vecs - 1;
            if (t->add_to_c)
                acc[i][j] = vec_add(part ? vec_load_mask(c, last) : vec_load(c), acc[i][j]);
            if (part)
                vec_store_mask(c, acc[i][j], last);
            else
                vec_store(c, acc[i][j]);
        }
}

static ALWAYS_INLINE void tile_rows(const struct tile *t, int rows, const int vecs,
                                    const bool masked)
{
    // clang-format off
    switch (rows) {
    case 1: tile_run(t, 1, vecs, masked); break;
    case 2: tile_run(t, 2, vecs, masked); break;
    case 3: tile_run(t, 3, vecs, masked); break;
    case 4: tile_run(t, 4, vecs, masked); break;
    case 5: tile_run(t, 5, vecs, masked); break;
    case 6: tile_run(t, 6, vecs, masked); break;
#if GEMM_ROWS == 12
    case 7: tile_run(t, 7, vecs, masked); break;
    case 8: tile_run(t, 8, vecs, masked); break;
    case 9: tile_run(t, 9, vecs, masked); break;
    case 10: tile_run(t, 10, vecs, masked); break;
    case 11: tile_run(t, 11, vecs, masked); break;
    case 12: tile_run(t, 12, vecs, masked); break;
#endif
    default: assert(rows == 0);
    }
    // clang-format on
}

static void tile_two(const struct tile *t, int rows) { tile_rows(t, rows, 2, false); }
static void tile_two_masked(const struct tile *t, int rows) { tile_rows(t, rows, 2, true); }
static void tile_one(const struct tile *t, int rows) { tile_rows(t, rows, 1, false); }
static void tile_one_masked(const struct tile *t, int rows) { tile_rows(t, rows, 1, true); }

// One panel of GEMM_COLS columns or fewer, all rows of the block.
static void panel_run(struct tile *t, int m, int cols)
{
    const int part = cols % VEC_WIDTH;
    t->last = vec_mask_first(part);
    for (int i = 0; i < m; i += GEMM_ROWS) {
        const int rows = m - i < GEMM_ROWS ? m - i : GEMM_ROWS;
        if (cols > VEC_WIDTH)
            part ? tile_two_masked(t, rows) : tile_two(t, rows);
        else
            part ? tile_one_masked(t, rows) : tile_one(t, rows);
        t->a += (size_t)rows * t->a_row;
        t->c += (size_t)rows * t->ldc;
    }
}

void FAST(gemm)(const struct gemm *g)
{
    struct tile t = {.a_row = g->a_row,
                     .a_depth = g->a_depth,
                     .b_depth = g->b_depth,
                     .ldc = g->ldc,
                     .add_to_c = g->mode == GEMM_ADD};
    assert(g->mode != GEMM_ADD || g->k <= DEPTH_BLOCK);
    for (int i = 0; i < g->m; i += ROW_BLOCK) {
        const int m = g->m - i < ROW_BLOCK ? g->m - i : ROW_BLOCK;
        int l = 0;
        do {
            t.k = g->k - l < DEPTH_BLOCK ? g->k - l : DEPTH_BLOCK;
            t.start_from_c = g->mode == GEMM_CHAIN || l > 0;
            for (int j = 0; j < g->n; j += GEMM_COLS) {
                t.a = g->a + (size_t)i * g->a_row + (size_t)l * g->a_depth;
                t.b = g->b + (size_t)(j / GEMM_COLS) * g->b_panel + (size_t)l * g->b_depth;
                t.c = g->c + (size_t)i * g->ldc + (size_t)j;
                panel_run(&t, m, g->n - j < GEMM_COLS ? g->n - j : GEMM_COLS);
            }
            l += DEPTH_BLOCK;
        } while (l < g->k);
    }
}
