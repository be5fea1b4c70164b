// SPDX-License-Identifier: Apache-2.0
// The one matrix product under all fast variants, on one thread: C[i,j] = sum_l A[i,l] B[l,j] with
// l ascending through a single chain of fused multiply-adds per element, whatever the tile, the
// blocking or the instruction set. So an element has the same bits wherever it is computed.
#ifndef KERNELS_CPU_FAST_GEMM_H
#define KERNELS_CPU_FAST_GEMM_H

#include "kernels/cpu/vec.h"

#define GEMM_COLS (2 * VEC_WIDTH) // of a tile, and of a panel of packed B
#define GEMM_ROWS (VEC_WIDTH == 16 ? 12 : 6)

enum gemm_mode {
    GEMM_SET,   // C = A B
    GEMM_CHAIN, // the chain of each element starts from C
    GEMM_ADD    // C = C + A B, the product summed on its own
};

struct gemm {
    int m, n, k;
    const float *a; // A[i,l] at a + i a_row + l a_depth
    size_t a_row, a_depth;
    const float *b; // B[l,j] at b + (j / GEMM_COLS) b_panel + l b_depth + j % GEMM_COLS
    size_t b_depth, b_panel;
    float *c; // C[i,j] at c + i ldc + j
    size_t ldc;
    enum gemm_mode mode;
};

void FAST(gemm)(const struct gemm *g);

// Elements of B [k,n], of either type, in panels of GEMM_COLS columns, the last one padded with
// zeros; k is padded to whole pairs.
static inline size_t gemm_packed_size(int k, int n)
{
    return ((size_t)k + 1) / 2 * 2 * (((size_t)n + GEMM_COLS - 1) / GEMM_COLS * GEMM_COLS);
}

#endif
