// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/fast_gemm_bf16.h"
#include <assert.h>
#include <stdbool.h>

#if !GEMM_TILES

#define ALWAYS_INLINE inline __attribute__((always_inline))

// What a tile reads of A: the numbers themselves, or widened ones.
#if GEMM_DOTS
typedef uint16_t gemm_in;
#else
typedef float gemm_in;
#endif

struct tile {
    const gemm_in *a;
    const uint16_t *b; // a panel
    size_t a_row, a_depth;
    void *c;
    size_t ldc;
    int pairs, last; // last: lanes of the last vector
    bool odd;        // the last pair of A has one number
    enum dtype c_type;
    enum gemm_mode mode;
};

static ALWAYS_INLINE vec_bits load_pairs(const uint16_t *b)
{
#if defined(__AVX512F__)
    return _mm512_loadu_si512(b);
#else
    return _mm256_loadu_si256((const __m256i *)(const void *)b);
#endif
}

// acc += the products of one pair of rows of B.
#if GEMM_DOTS
static ALWAYS_INLINE void tile_step(vec acc[GEMM_ROWS][2], const gemm_in *const *a, size_t a_row,
                                    const uint16_t *b, const int rows, const int vecs)
{
    vec_bits y[2];
    for (int j = 0; j < vecs; j++)
        y[j] = load_pairs(b + (size_t)j * 2 * VEC_WIDTH);
    for (int i = 0; i < rows; i++) {
        int32_t pair;
        memcpy(&pair, a[i / 3] + (size_t)(i % 3) * a_row, sizeof pair);
        const __m512i x = _mm512_set1_epi32(pair);
        for (int j = 0; j < vecs; j++)
            acc[i][j] = _mm512_dpbf16_ps(acc[i][j], (__m512bh)x, (__m512bh)y[j]);
    }
}
#else
static ALWAYS_INLINE void tile_step(vec acc[GEMM_ROWS][2], const gemm_in *const *a, size_t a_row,
                                    const uint16_t *b, const int rows, const int vecs)
{
    for (int half = 0; half < 2; half++) {
        vec y[2];
        for (int j = 0; j < vecs; j++) {
            const vec_bits pairs = load_pairs(b + (size_t)j * 2 * VEC_WIDTH);
            y[j] = vec_as_floats(half ? vec_keep_upper(pairs) : vec_upper(pairs));
        }
        for (int i = 0; i < rows; i++) {
            const vec x = vec_set1(a[i / 3][(size_t)(i % 3) * a_row + (size_t)half]);
            for (int j = 0; j < vecs; j++)
                acc[i][j] = vec_fma(x, y[j], acc[i][j]);
        }
    }
}
#endif

// rows x vecs vectors of C in registers, over the whole depth.
static ALWAYS_INLINE void tile_run(const struct tile *t, const int rows, const int vecs)
{
    vec acc[GEMM_ROWS][2];
    const gemm_in *a[(GEMM_ROWS + 2) / 3];
    const uint16_t *b = t->b;
    const size_t a_row = t->a_row, a_depth = t->a_depth;
    for (int i = 0; i < (rows + 2) / 3; i++)
        a[i] = t->a + (size_t)i * 3 * a_row;
    for (int i = 0; i < rows && t->mode == GEMM_ADD; i++) // long before it is read
        for (int j = 0; j < vecs; j++)
            _mm_prefetch((const char *)t->c + ((size_t)i * t->ldc + (size_t)j * VEC_WIDTH) * 4,
                         _MM_HINT_T0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++)
            acc[i][j] =
                t->mode == GEMM_CHAIN
                    ? vec_load_as(t->c, t->c_type, (size_t)i * t->ldc + (size_t)j * VEC_WIDTH,
                                  j == vecs - 1 ? t->last : VEC_WIDTH)
                    : vec_zero();
    for (int p = t->pairs; p > 0; p--) {
        tile_step(acc, a, a_row, b, rows, vecs);
        b += 2 * GEMM_COLS;
        for (int i = 0; i < (rows + 2) / 3; i++)
            a[i] += a_depth;
    }
    if (t->odd) {
        gemm_in single[GEMM_ROWS][2];
        for (int i = 0; i < rows; i++) {
            single[i][0] = a[i / 3][(size_t)(i % 3) * a_row];
            single[i][1] = 0;
        }
        for (int i = 0; i < (rows + 2) / 3; i++)
            a[i] = single[i * 3];
        tile_step(acc, a, 2, b, rows, vecs);
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) {
            const size_t at = (size_t)i * t->ldc + (size_t)j * VEC_WIDTH;
            const int lanes = j == vecs - 1 ? t->last : VEC_WIDTH;
            if (t->mode == GEMM_ADD)
                acc[i][j] = vec_add(vec_load_as(t->c, t->c_type, at, lanes), acc[i][j]);
            vec_store_as(t->c, t->c_type, at, acc[i][j], lanes);
        }
}

static ALWAYS_INLINE void tile_rows(const struct tile *t, int rows, const int vecs)
{
    // clang-format off
    switch (rows) {
    case 1: tile_run(t, 1, vecs); break;
    case 2: tile_run(t, 2, vecs); break;
    case 3: tile_run(t, 3, vecs); break;
    case 4: tile_run(t, 4, vecs); break;
    case 5: tile_run(t, 5, vecs); break;
    case 6: tile_run(t, 6, vecs); break;
#if GEMM_ROWS == 12
    case 7: tile_run(t, 7, vecs); break;
    case 8: tile_run(t, 8, vecs); break;
    case 9: tile_run(t, 9, vecs); break;
    case 10: tile_run(t, 10, vecs); break;
    case 11: tile_run(t, 11, vecs); break;
    case 12: tile_run(t, 12, vecs); break;
#endif
    default: assert(rows == 0);
    }
    // clang-format on
}

static void tile_two(const struct tile *t, int rows) { tile_rows(t, rows, 2); }
static void tile_one(const struct tile *t, int rows) { tile_rows(t, rows, 1); }

// One panel, all m rows of a block, in tiles of about the same height.
static void panel_run(struct tile *t, int m, int cols)
{
    const size_t c_size = dtype_size(t->c_type);
    int tiles = (m + GEMM_ROWS - 1) / GEMM_ROWS;
    t->last = cols > VEC_WIDTH ? cols - VEC_WIDTH : cols;
    for (int left = m; left > 0; tiles--) {
        const int rows = (left + tiles - 1) / tiles;
        cols > VEC_WIDTH ? tile_two(t, rows) : tile_one(t, rows);
        t->a += (size_t)rows * t->a_row;
        t->c = (char *)t->c + (size_t)rows * t->ldc * c_size;
        left -= rows;
    }
}

// Rows [i, i + m) of A as tiles read them.
static void set_rows(struct tile *t, const struct gemm_bf16 *g, int i, int m)
{
    const uint16_t *a = g->a + (size_t)i * g->a_row;
#if GEMM_DOTS
    (void)m;
    t->a = a;
    t->a_row = g->a_row;
    t->a_depth = g->a_depth;
#else
    const size_t k = (size_t)g->k;
    assert(g->a_depth == 2);
    t->a = g->work;
    t->a_row = 2 * gemm_pairs(g->k);
    t->a_depth = 2;
    for (size_t r = 0; r < (size_t)m; r++)
        for (size_t l = 0; l < k; l += VEC_WIDTH) {
            const int n = vec_lanes_at(k, l);
            vec_store_n(g->work + r * t->a_row + l, vec_load_bf16(a + r * g->a_row + l, n), n);
        }
#endif
}

void FAST(gemm_bf16)(const struct gemm_bf16 *g)
{
    const size_t panel = g->b_panel ? g->b_panel : gemm_bf16_panel(g->k);
    const size_t c_size = dtype_size(g->c_type);
    struct tile t = {
        .pairs = g->k / 2, .odd = g->k % 2, .ldc = g->ldc, .c_type = g->c_type, .mode = g->mode};
    for (int i = 0; i < g->m; i += GEMM_BF16_ROWS) {
        const int m = g->m - i < GEMM_BF16_ROWS ? g->m - i : GEMM_BF16_ROWS;
        set_rows(&t, g, i, m);
        const gemm_in *a = t.a;
        for (int j = 0; j < g->n; j += GEMM_COLS) {
            t.a = a;
            t.b = g->b + (size_t)(j / GEMM_COLS) * panel;
            t.c = (char *)g->c + ((size_t)i * g->ldc + (size_t)j) * c_size;
            panel_run(&t, m, g->n - j < GEMM_COLS ? g->n - j : GEMM_COLS);
        }
    }
}

#endif

void FAST(gemm_bf16_pack)(const uint16_t *x, size_t ldx, int k, int n, uint16_t *out)
{
    static const uint16_t zeros[VEC_WIDTH];
    for (int j = 0; j < n; j += GEMM_COLS)
        for (int l = 0; l < k; l += 2)
            for (int v = 0; v < GEMM_COLS; v += VEC_WIDTH, out += 2 * VEC_WIDTH) {
                const int lanes = n - j - v < VEC_WIDTH ? n - j - v : VEC_WIDTH;
                const uint16_t *first = x + (size_t)l * ldx + (size_t)(j + v);
                uint32_t *to = (uint32_t *)(void *)out;
                if (lanes > 0)
                    vec_store_bits(to,
                                   vec_load_pair(first, l + 1 < k ? first + ldx : zeros, lanes));
                else
                    vec_store_bits(to, vec_as_bits(vec_zero()));
            }
}
