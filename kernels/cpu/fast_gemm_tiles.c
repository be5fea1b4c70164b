// SPDX-License-Identifier: Apache-2.0
// The product of bfloat16 numbers by AMX tiles.
//
// Theory of operation. A step multiplies up to 32 rows of A by a panel of 32 columns, 32 deep: two
// tiles of A, two of B, four of C, which is all there are. Tiles of B are read as they are packed.
// Those of A are rows of the matrix where whole steps of them lie in it, else they are laid out
// anew for a block of rows, with zeros to the end of the last step. A step sums its products from
// zero and is then added to C, so an element is the chain of the steps of its own row and column.
#include "kernels/cpu/fast_gemm_bf16.h"

#if GEMM_TILES

#include "kernels/cpu/tiles.h"
#include <assert.h>
#include <stdbool.h>

#define STEP       32 // deep
#define STEP_BYTES 64 // of a row of A

// Rows of A as tiles are loaded from: whole steps.
struct tile_rows {
    const char *data;
    size_t row_bytes;
};

struct tile_block {
    struct tile_rows a;
    const uint16_t *b; // a panel
    int rows, cols, pairs;
    void *c;
    size_t ldc;
    enum dtype c_type;
    enum gemm_mode mode;
};

// Tiles 0 to 3 are C, upper row first; 4 and 5 A; 6 and 7 B.
static void configure(int rows)
{
    struct tiles_config c = {.palette = 1};
    const int upper = rows < 16 ? rows : 16, lower = rows - upper;
    for (int t = 0; t < 8; t++) {
        const int here = t >= 6 ? 16 : (t < 2 || t == 4) ? upper : lower;
        c.rows[t] = (uint8_t)here;
        c.row_bytes[t] = here > 0 ? STEP_BYTES : 0;
    }
    tiles_fence(&c);
    tiles_configure(&c);
}

// One step of both operands.
static inline void step_run(const struct tile_block *t, size_t step, const char *b)
{
    const char *a = t->a.data + step * STEP_BYTES;
    const size_t b_row = 2 * GEMM_COLS * sizeof(uint16_t);
    const bool lower = t->rows > 16, right = t->cols > 16;
    tile_load(6, b, b_row);
    if (right)
        tile_load(7, b + STEP_BYTES, b_row);
    tile_load(4, a, t->a.row_bytes);
    tile_dot(0, 4, 6);
    if (right)
        tile_dot(1, 4, 7);
    if (!lower)
        return;
    tile_load(5, a + 16 * t->a.row_bytes, t->a.row_bytes);
    tile_dot(2, 5, 6);
    if (right)
        tile_dot(3, 5, 7);
}

static void store_sums(const struct tile_block *t, float sums[32][GEMM_COLS])
{
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j += VEC_WIDTH) {
            const size_t at = (size_t)i * t->ldc + (size_t)j;
            const int lanes = vec_lanes_at((size_t)t->cols, (size_t)j);
            vec x = vec_load(&sums[i][j]);
            if (t->mode != GEMM_SET)
                x = vec_add(vec_load_as(t->c, t->c_type, at, lanes), x);
            vec_store_as(t->c, t->c_type, at, x, lanes);
        }
}

static void block_run(const struct tile_block *t)
{
    float sums[32][GEMM_COLS];
    uint16_t rest[16 * 2 * GEMM_COLS];
    const size_t steps = (size_t)t->pairs / 16, left = (size_t)t->pairs % 16;
    const size_t sum_row = sizeof sums[0], b_step = 16 * 2 * GEMM_COLS;
    tile_zero(0);
    tile_zero(1);
    if (t->rows > 16) {
        tile_zero(2);
        tile_zero(3);
    }
    for (size_t s = 0; s < steps; s++)
        step_run(t, s, (const char *)(t->b + s * b_step));
    if (left > 0) {
        memset(rest, 0, sizeof rest);
        memcpy(rest, t->b + steps * b_step, left * 2 * GEMM_COLS * sizeof *rest);
        tiles_fence(rest);
        step_run(t, steps, (const char *)rest);
    }
    tile_store(0, sums[0], sum_row);
    tile_store(1, &sums[0][16], sum_row);
    if (t->rows > 16) {
        tile_store(2, sums[16], sum_row);
        tile_store(3, &sums[16][16], sum_row);
    }
    tiles_fence(sums);
    store_sums(t, sums);
}

// Rows [i, i + m) of A laid out in g->work, whose rows are whole steps.
static struct tile_rows lay_out(const struct gemm_bf16 *g, int i, int m)
{
    static const float zeros[GEMM_BF16_ROWS + 4];
    const size_t pairs = gemm_pairs(g->k), ld = (pairs + 15) / 16 * 16;
    const uint16_t *a = g->a + (size_t)i * g->a_row;
    const struct tile_rows out = {(const char *)g->work, ld * sizeof(float)};
    if (g->a_depth == 2) {
        for (size_t r = 0; r < (size_t)m; r++) {
            float *to = g->work + r * ld;
            memset(to, 0, out.row_bytes);
            memcpy(to, a + r * g->a_row, (size_t)g->k * sizeof *a);
        }
        return out;
    }
    assert(g->a_row == 2 && g->k % 2 == 0);
    for (size_t p = 0; p < ld; p += 16) {
        const float *row[VEC_WIDTH];
        for (size_t l = 0; l < 16; l++)
            row[l] =
                p + l < pairs ? (const float *)(const void *)(a + (p + l) * g->a_depth) : zeros;
        for (int r = 0; r < m; r += 4)
            vec_transpose4(row, (size_t)r, g->work + (size_t)r * ld + p, ld);
    }
    return out;
}

// Rows of A as tiles read them.
static struct tile_rows rows_of(const struct gemm_bf16 *g, int i, int m)
{
    if (g->a_depth == 2 && g->k % STEP == 0)
        return (struct tile_rows){(const char *)(g->a + (size_t)i * g->a_row),
                                  g->a_row * sizeof *g->a};
    return lay_out(g, i, m);
}

// A block of rows against a panel, in tiles of about the same height. *configured: rows of the last
// configuration.
static void panel_run(struct tile_block *t, int m, int *configured)
{
    int blocks = (m + 31) / 32;
    for (int left = m; left > 0; blocks--) {
        t->rows = (left + blocks - 1) / blocks;
        if (t->rows != *configured)
            configure(*configured = t->rows);
        block_run(t);
        t->a.data += (size_t)t->rows * t->a.row_bytes;
        t->c = (char *)t->c + (size_t)t->rows * t->ldc * dtype_size(t->c_type);
        left -= t->rows;
    }
}

void FAST(gemm_bf16)(const struct gemm_bf16 *g)
{
    const size_t panel = g->b_panel ? g->b_panel : gemm_bf16_panel(g->k);
    const size_t c_size = dtype_size(g->c_type);
    struct tile_block t = {
        .pairs = (int)gemm_pairs(g->k), .ldc = g->ldc, .c_type = g->c_type, .mode = g->mode};
    int configured = 0;
    for (int i = 0; i < g->m; i += GEMM_BF16_ROWS) {
        const int m = g->m - i < GEMM_BF16_ROWS ? g->m - i : GEMM_BF16_ROWS;
        const struct tile_rows a = rows_of(g, i, m);
        tiles_fence(a.data);
        for (int j = 0; j < g->n; j += GEMM_COLS) {
            t.a = a;
            t.b = g->b + (size_t)(j / GEMM_COLS) * panel;
            t.c = (char *)g->c + ((size_t)i * g->ldc + (size_t)j) * c_size;
            t.cols = g->n - j < GEMM_COLS ? g->n - j : GEMM_COLS;
            panel_run(&t, m, &configured);
        }
    }
    if (configured > 0)
        tiles_release();
}

#endif
