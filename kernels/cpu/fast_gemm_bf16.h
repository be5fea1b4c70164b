// SPDX-License-Identifier: Apache-2.0
// The matrix product of bfloat16 numbers with float32 sums, on one thread. B is packed by pairs
// along the depth, in one layout for all instruction sets. What an element is:
// - with AMX, the chain of steps of 32 numbers (fast_gemm_tiles.c);
// - with AVX512-BF16, one chain of dot products of pairs, which add two products to a float32;
// - else the numbers are widened and it is the chain of fused multiply-adds of fast_gemm.h.
// The first two count denormals as 0. In each its bits do not depend on the tile or the blocking.
#ifndef KERNELS_CPU_FAST_GEMM_BF16_H
#define KERNELS_CPU_FAST_GEMM_BF16_H

#include "kernels/cpu/fast_gemm.h"
#include "kernels/cpu/vec_bf16.h"

#if defined(KERNELS_AMX) || defined(TILES_EMULATED)
#define GEMM_TILES 1
#else
#define GEMM_TILES 0
#endif
// Whether operands are read as bfloat16.
#if GEMM_TILES || defined(__AVX512BF16__)
#define GEMM_DOTS 1
#else
#define GEMM_DOTS 0
#endif

struct gemm_bf16 {
    int m, n, k;
    // A[i,l] at a + i a_row + (l / 2) a_depth + l % 2: rows (a_depth 2), or, with dots, pairs of
    // rows of its transpose (a_row 2, k even; as many as make m a multiple of 4 may be read).
    const uint16_t *a;
    size_t a_row, a_depth;
    const uint16_t *b; // [k,n] packed by pairs, panels b_panel apart; 0: gemm_bf16_panel(k)
    size_t b_panel;
    void *c; // C[i,j] at c + i ldc + j, of c_type
    size_t ldc;
    enum dtype c_type;
    enum gemm_mode mode;
    float *work; // gemm_bf16_work(k) floats
};

void FAST(gemm_bf16)(const struct gemm_bf16 *g);

static inline size_t gemm_pairs(int k) { return ((size_t)k + 1) / 2; }

// Elements of one packed panel of GEMM_COLS columns: element (l, j) at (l / 2) 2 GEMM_COLS + 2 j +
// l % 2; columns past n and the second half of an odd last pair are 0.
static inline size_t gemm_bf16_panel(int k) { return gemm_pairs(k) * 2 * GEMM_COLS; }

// Packs rows [0, k) of bfloat16, ldx apart, as B of `n` columns: panels one after the other.
void FAST(gemm_bf16_pack)(const uint16_t *x, size_t ldx, int k, int n, uint16_t *out);

#define GEMM_BF16_ROWS 96 // of A that are multiplied with one panel after the other

static inline size_t gemm_bf16_work(int k)
{
    if (GEMM_TILES)
        return GEMM_BF16_ROWS * ((gemm_pairs(k) + 15) / 16 * 16);
    return GEMM_DOTS ? 0 : GEMM_BF16_ROWS * 2 * gemm_pairs(k);
}

// Rows that make a product efficient.
#define GEMM_BF16_TILE (GEMM_TILES ? 32 : GEMM_ROWS)

#endif
