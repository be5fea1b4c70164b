// SPDX-License-Identifier: Apache-2.0
// Matrix products over batches and segments. Work is cut by rows, or by panels of columns where
// rows are few; weight gradients are cut by output tiles, so that no sum crosses a thread.
#include "base/mem.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct pack_job {
    const struct pack_args *a;
    int panels; // of one matrix
};

static void pack_panel(const struct pack_args *a, const float *b, int col, float *out)
{
    const int cols = a->n - col < GEMM_COLS ? a->n - col : GEMM_COLS;
    for (int l = 0; l < a->k; l++, out += GEMM_COLS) {
        for (int j = 0; j < cols; j++)
            out[j] = a->transposed ? b[(size_t)(col + j) * a->ldb + (size_t)l]
                                   : b[(size_t)l * a->ldb + (size_t)(col + j)];
        for (int j = cols; j < GEMM_COLS; j++)
            out[j] = 0.0f;
    }
}

static void pack_share(void *arg, int rank, int size)
{
    const struct pack_job *job = arg;
    const struct pack_args *a = job->a;
    const size_t packed = gemm_packed_size(a->k, a->n);
    int begin, end;
    team_share(a->count * job->panels, 1, rank, size, &begin, &end);
    for (int i = begin; i < end; i++) {
        const size_t g = (size_t)(i / job->panels), panel = (size_t)(i % job->panels);
        const float *b = a->b;
        float *out = a->out;
        pack_panel(a, b + g * a->stride_b, (int)panel * GEMM_COLS,
                   out + g * packed + panel * (size_t)a->k * GEMM_COLS);
    }
}

size_t FAST(matmul_packed_size)(const struct device *dev, int k, int n)
{
    (void)dev;
    return gemm_packed_size(k, n);
}

int FAST(matmul_pack)(struct device *dev, const struct pack_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->count >= 0);
    if (a->b_type != DTYPE_F32 || a->out_type != DTYPE_F32)
        return ref_matmul_pack(dev, a);
    struct pack_job job = {a, (a->n + GEMM_COLS - 1) / GEMM_COLS};
    cpu_run(dev, 4.0 * a->n * a->k * a->count, pack_share, &job);
    return 0;
}

// Rows [row, row + m) of all groups, all of group g, times columns [col, col + n) of B[g]; col at
// the start of a panel.
static void group_product(const struct matmul_args *a, int g, int row, int m, int col, int n)
{
    const size_t packed = gemm_packed_size(a->k, a->n), panel = (size_t)a->k * GEMM_COLS;
    const size_t in = (size_t)(a->segments ? row : row - g * a->m);
    const float *b = a->b;
    const float *base_a = (const float *)a->a + (a->segments ? 0 : (size_t)g * a->stride_a);
    float *base_c = (float *)a->c + (a->segments ? 0 : (size_t)g * a->stride_c);
    const struct gemm product = {
        .m = m,
        .n = n,
        .k = a->k,
        .a = base_a + in * a->lda,
        .a_row = a->lda,
        .a_depth = 1,
        .b = b + (size_t)g * packed + (size_t)(col / GEMM_COLS) * panel,
        .b_depth = GEMM_COLS,
        .b_panel = panel,
        .c = base_c + in * a->ldc + (size_t)col,
        .ldc = a->ldc,
        .mode = a->accumulate ? GEMM_CHAIN : GEMM_SET,
    };
    FAST(gemm)(&product);
}

static int matmul_rows(const struct matmul_args *a)
{
    if (!a->segments)
        return a->batch * a->m;
    return a->segments[a->batch] - a->segments[0];
}

static void matmul_share(void *arg, int rank, int size)
{
    const struct matmul_args *a = arg;
    const int rows = matmul_rows(a), first = a->segments ? a->segments[0] : 0;
    const int panels = (a->n + GEMM_COLS - 1) / GEMM_COLS;
    int row_begin = 0, row_end = rows, panel_begin = 0, panel_end = panels;
    if (rows >= 2 * size * GEMM_ROWS || rows >= panels * GEMM_ROWS)
        team_share(rows, GEMM_ROWS, rank, size, &row_begin, &row_end);
    else
        team_share(panels, 1, rank, size, &panel_begin, &panel_end);
    const int col = panel_begin * GEMM_COLS;
    const int col_end = panel_end == panels ? a->n : panel_end * GEMM_COLS;
    for (int g = 0; g < a->batch && col < col_end; g++) {
        int begin, end;
        group_rows(a->segments, a->m, g, &begin, &end);
        begin = begin > first + row_begin ? begin : first + row_begin;
        end = end < first + row_end ? end : first + row_end;
        if (begin < end)
            group_product(a, g, begin, end - begin, col, col_end - col);
    }
}

int FAST(matmul)(struct device *dev, const struct matmul_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    if (a->a_type != DTYPE_F32 || a->b_type != DTYPE_F32 || a->c_type != DTYPE_F32)
        return ref_matmul(dev, a);
    struct matmul_args job = *a;
    if (a->batch > 0)
        cpu_run(dev, 2.0 * matmul_rows(a) * a->n * a->k, matmul_share, &job);
    return 0;
}

// Tokens summed on their own before they are added to dW: keeps a long sum accurate, and the block
// in the cache.
#define TOKEN_BLOCK 256

// Rows [row, row + rows) of dW[g].
static void weight_grad(const struct matmul_grad_args *a, int g, int row, int rows)
{
    int begin, end;
    group_rows(a->segments, a->m, g, &begin, &end);
    const size_t first = (size_t)(a->segments ? begin : 0);
    const float *dy =
        (const float *)a->dy + (a->segments ? 0 : (size_t)g * a->stride_dy) + first * a->lddy;
    const float *x =
        (const float *)a->x + (a->segments ? 0 : (size_t)g * a->stride_x) + first * a->ldx;
    for (int t = 0; t < end - begin; t += TOKEN_BLOCK) {
        const struct gemm product = {
            .m = rows,
            .n = a->k,
            .k = end - begin - t < TOKEN_BLOCK ? end - begin - t : TOKEN_BLOCK,
            .a = dy + (size_t)t * a->lddy + (size_t)row,
            .a_row = 1,
            .a_depth = a->lddy,
            .b = x + (size_t)t * a->ldx,
            .b_depth = a->ldx,
            .b_panel = GEMM_COLS,
            .c = a->dw + (size_t)g * a->stride_dw + (size_t)row * (size_t)a->k,
            .ldc = (size_t)a->k,
            .mode = t == 0 && a->overwrite ? GEMM_SET : GEMM_ADD,
        };
        FAST(gemm)(&product);
    }
}

// Groups without tokens are not in the jobs.
static void zero_empty_groups(const struct matmul_grad_args *a)
{
    const size_t bytes = (size_t)a->n * (size_t)a->k * sizeof *a->dw;
    for (int g = 0; g < a->batch; g++) {
        int begin, end;
        group_rows(a->segments, a->m, g, &begin, &end);
        if (begin == end && bytes > 0)
            memset(a->dw + (size_t)g * a->stride_dw, 0, bytes);
    }
}

// An item is one row tile of one dW[g], all its tokens; its cost is those tokens.
struct weight_grad_job {
    const struct matmul_grad_args *a;
    const double *cost; // [batch+1], of whole groups, cumulated
};

static void weight_grad_share(void *arg, int rank, int size)
{
    const struct weight_grad_job *job = arg;
    const struct matmul_grad_args *a = job->a;
    const double from = job->cost[a->batch] * rank / size;
    const double to = job->cost[a->batch] * (rank + 1) / size;
    const int tiles = (a->n + GEMM_ROWS - 1) / GEMM_ROWS;
    for (int g = 0; g < a->batch; g++) {
        const double base = job->cost[g], each = (job->cost[g + 1] - base) / tiles;
        int first = -1, end = -1;
        for (int i = 0; i < tiles; i++) {
            const double middle = base + (i + 0.5) * each;
            if (middle >= from && middle < to) {
                first = first < 0 ? i : first;
                end = i + 1;
            }
        }
        if (first >= 0 && each > 0.0) {
            const int row = first * GEMM_ROWS;
            weight_grad(a, g, row, (end == tiles ? a->n : end * GEMM_ROWS) - row);
        }
    }
}

int FAST(matmul_grad)(struct device *dev, const struct matmul_grad_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    if (a->dy_type != DTYPE_F32 || a->x_type != DTYPE_F32)
        return ref_matmul_grad(dev, a);
    double *cost = mem_array0((size_t)a->batch + 1, sizeof(*cost));
    for (int g = 0; g < a->batch; g++) {
        int begin, end;
        group_rows(a->segments, a->m, g, &begin, &end);
        cost[g + 1] = cost[g] + (double)(end - begin);
    }
    if (a->overwrite)
        zero_empty_groups(a);
    struct weight_grad_job job = {a, cost};
    if (a->n > 0)
        cpu_run(dev, 2.0 * cost[a->batch] * a->n * a->k, weight_grad_share, &job);
    free(cost);
    return 0;
}
