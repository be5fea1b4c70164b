// SPDX-License-Identifier: Apache-2.0
// Matrix products over batches and segments. Work is cut by rows, or by panels of columns where
// rows are few; weight gradients are cut by output tiles, so that no sum crosses a thread.
#include "base/mem.h"
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct pack_job {
    const struct pack_args *a;
    int panels; // of one matrix
};

#define PACK_DEPTH 128 // of a panel at a time: as many numbers of GEMM_COLS columns fit the cache

// `n` numbers from the at-th on of B into words of out_type, pairs of bfloat16 with 0 as the other
// half of an odd last one.
static void pack_words(const struct pack_args *a, size_t at, int n, float *words)
{
    if (a->out_type == DTYPE_BF16)
        ((uint16_t *)(void *)words)[n - n % 2] = ((uint16_t *)(void *)words)[n - n % 2 + 1] = 0;
    for (int l = 0; l < n; l += VEC_WIDTH) {
        const int lanes = vec_lanes_at((size_t)n, (size_t)l);
        vec_store_as(words, a->out_type, (size_t)l,
                     vec_load_as(a->b, a->b_type, at + (size_t)l, lanes), lanes);
    }
}

// VEC_WIDTH columns from `col` on of a matrix at `first` given transposed: each is a row of B.
static void pack_transposed(const struct pack_args *a, size_t first, int col, float *out)
{
    float words[VEC_WIDTH][PACK_DEPTH + 1] = {{0}};
    const float *row[VEC_WIDTH];
    for (int i = 0; i < VEC_WIDTH; i++)
        row[i] = words[i];
    for (int l = 0; l < a->k; l += PACK_DEPTH) {
        const int n = a->k - l < PACK_DEPTH ? a->k - l : PACK_DEPTH;
        const int depth = a->out_type == DTYPE_BF16 ? (n + 1) / 2 : n;
        int d = 0;
        for (int i = 0; i < VEC_WIDTH && col + i < a->n; i++)
            pack_words(a, first + (size_t)(col + i) * a->ldb + (size_t)l, n, words[i]);
        for (; d + 4 <= depth; d += 4)
            vec_transpose4(row, (size_t)d, out + (size_t)d * GEMM_COLS, GEMM_COLS);
        for (; d < depth; d++)
            for (int i = 0; i < VEC_WIDTH; i++)
                memcpy(out + (size_t)d * GEMM_COLS + i, &row[i][d], sizeof *out);
        out += (size_t)depth * GEMM_COLS;
    }
}

// VEC_WIDTH columns from `col` on of a matrix at `first`.
static void pack_columns(const struct pack_args *a, size_t first, int col, float *out)
{
    const int lanes = a->n - col < VEC_WIDTH ? a->n - col : VEC_WIDTH;
    const int step = a->out_type == DTYPE_BF16 ? 2 : 1;
    for (int l = 0; l < a->k; l += step, out += GEMM_COLS) {
        const size_t at = first + (size_t)l * a->ldb + (size_t)col;
        const vec x = lanes > 0 ? vec_load_as(a->b, a->b_type, at, lanes) : vec_zero();
        vec next = vec_zero();
        if (step == 1) {
            vec_store(out, x);
            continue;
        }
        if (lanes > 0 && l + 1 < a->k)
            next = vec_load_as(a->b, a->b_type, at + a->ldb, lanes);
        vec_store_bits((uint32_t *)(void *)out, vec_pair(x, next));
    }
}

static size_t panel_elements(int k, enum dtype type)
{
    return type == DTYPE_BF16 ? gemm_bf16_panel(k) : (size_t)k * GEMM_COLS;
}

static void pack_panel(const struct pack_args *a, size_t g, int panel, void *out)
{
    for (int v = 0; v < GEMM_COLS; v += VEC_WIDTH)
        (a->transposed ? pack_transposed : pack_columns)(a, g * a->stride_b, panel * GEMM_COLS + v,
                                                         (float *)out + v);
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
        const size_t at = g * packed + panel * panel_elements(a->k, a->out_type);
        pack_panel(a, g, (int)panel, (char *)a->out + at * dtype_size(a->out_type));
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
    struct pack_job job = {a, (a->n + GEMM_COLS - 1) / GEMM_COLS};
    cpu_run(dev, 4.0 * a->n * a->k * a->count, pack_share, &job);
    return 0;
}

struct matmul_job {
    struct device *dev;
    const struct matmul_args *a;
};

static const void *at_element(const void *array, enum dtype type, size_t i)
{
    return (const char *)array + i * dtype_size(type);
}

// Rows [row, row + m) of all groups, all of group g, times columns [col, col + n) of B[g], whose
// panels begin at b.
static void group_product(const struct matmul_args *a, float *work, int g, int row, int m,
                          const void *b, int col, int n)
{
    const size_t in = (size_t)(a->segments ? row : row - g * a->m), group = (size_t)g;
    const void *x =
        at_element(a->a, a->a_type, in * a->lda + (a->segments ? 0 : group * a->stride_a));
    const size_t c = in * a->ldc + (size_t)col + (a->segments ? 0 : group * a->stride_c);
    const enum gemm_mode mode = a->accumulate ? GEMM_CHAIN : GEMM_SET;
    if (a->a_type == DTYPE_BF16) {
        const struct gemm_bf16 product = {
            .m = m,
            .n = n,
            .k = a->k,
            .a = x,
            .a_row = a->lda,
            .a_depth = 2,
            .b = b,
            .c = (char *)a->c + c * dtype_size(a->c_type),
            .ldc = a->ldc,
            .c_type = a->c_type,
            .mode = mode,
            .work = work,
        };
        FAST(gemm_bf16)(&product);
    } else {
        const struct gemm product = {
            .m = m,
            .n = n,
            .k = a->k,
            .a = x,
            .a_row = a->lda,
            .a_depth = 1,
            .b = b,
            .b_depth = GEMM_COLS,
            .b_panel = (size_t)a->k * GEMM_COLS,
            .c = (float *)a->c + c,
            .ldc = a->ldc,
            .mode = mode,
        };
        FAST(gemm)(&product);
    }
}

static int matmul_rows(const struct matmul_args *a)
{
    if (!a->segments)
        return a->batch * a->m;
    return a->segments[a->batch] - a->segments[0];
}

// What a thread computes: rows of all groups, and panels of columns.
struct matmul_part {
    int row, row_end, panel, panel_end;
};

// Where one group's rows [begin, end) are of the thread's.
static bool rows_of_part(const struct matmul_args *a, const struct matmul_part *p, int g,
                         int *begin, int *end)
{
    const int first = a->segments ? a->segments[0] : 0;
    group_rows(a->segments, a->m, g, begin, end);
    *begin = *begin > first + p->row ? *begin : first + p->row;
    *end = *end < first + p->row_end ? *end : first + p->row_end;
    return *begin < *end;
}

// The thread's part of rows x panels. They are cut `across` panels and, with the threads that this
// leaves, down the rows, in the way that leaves the fewest tiles to a thread; of equal ways in the
// one in which each thread sees the least of B.
static struct matmul_part cut_product(int rows, int panels, int rank, int size)
{
    int across = 1;
    long least = LONG_MAX;
    for (int n = 1; n <= size && n <= panels; n++) {
        const int down = size / n, share = (rows + down - 1) / down;
        const long tiles = (long)((share + GEMM_ROWS - 1) / GEMM_ROWS) * ((panels + n - 1) / n);
        if (tiles <= least)
            least = tiles, across = n;
    }
    const int down = size / across;
    struct matmul_part part = {0};
    if (rank >= across * down)
        return part;
    team_share(panels, 1, rank % across, across, &part.panel, &part.panel_end);
    team_share(rows, 1, rank / across, down, &part.row, &part.row_end);
    return part;
}

static void matmul_share(void *arg, int rank, int size)
{
    const struct matmul_job *job = arg;
    const struct matmul_args *a = job->a;
    float *work = cpu_scratch(job->dev, rank, gemm_bf16_work(a->k));
    const int rows = matmul_rows(a), panels = (a->n + GEMM_COLS - 1) / GEMM_COLS;
    const struct matmul_part part = cut_product(rows, panels, rank, size);
    const int col = part.panel * GEMM_COLS;
    const int col_end = part.panel_end == panels ? a->n : part.panel_end * GEMM_COLS;
    const size_t first = (size_t)part.panel * panel_elements(a->k, a->b_type);
    for (int g = 0, begin, end; g < a->batch && col < col_end; g++) {
        const size_t at = (size_t)g * gemm_packed_size(a->k, a->n) + first;
        if (rows_of_part(a, &part, g, &begin, &end))
            group_product(a, work, g, begin, end - begin, at_element(a->b, a->b_type, at), col,
                          col_end - col);
    }
}

// ---- B as it lies: a thread packs some panels at a time, and multiplies by them

#define PLAIN_FLOATS (64 * 1024) // of these panels, which stay in the second-level cache

static void plain_share(void *arg, int rank, int size)
{
    const struct matmul_job *job = arg;
    const struct matmul_args *a = job->a;
    const struct pack_args pack = {.b = a->plain,
                                   .ldb = a->ldb,
                                   .stride_b = a->stride_b,
                                   .k = a->k,
                                   .n = a->n,
                                   .out_type = a->b_type};
    const int panels = (a->n + GEMM_COLS - 1) / GEMM_COLS;
    const size_t bytes = panel_elements(a->k, a->b_type) * dtype_size(a->b_type);
    const int fit = bytes > 0 ? (int)(PLAIN_FLOATS * sizeof(float) / bytes) : panels;
    const int step = fit < 1 ? 1 : fit < panels ? fit : panels;
    const struct matmul_part part = cut_product(matmul_rows(a), panels, rank, size);
    const size_t work = gemm_bf16_work(a->k);
    float *scratch = cpu_scratch(job->dev, rank, work + (size_t)step * bytes / sizeof(float));
    char *packed = (char *)(scratch + work);
    for (int g = 0, begin, end; g < a->batch; g++) {
        if (!rows_of_part(a, &part, g, &begin, &end))
            continue;
        for (int p = part.panel; p < part.panel_end; p += step) {
            const int last = part.panel_end - p < step ? part.panel_end : p + step;
            const int col = p * GEMM_COLS, col_end = last == panels ? a->n : last * GEMM_COLS;
            for (int i = p; i < last; i++)
                pack_panel(&pack, (size_t)g, i, packed + (size_t)(i - p) * bytes);
            group_product(a, scratch, g, begin, end - begin, packed, col, col_end - col);
        }
    }
}

// Operations of one thread in the time in which it reads a byte of B from memory.
#define WORK_OF_BYTE 4.0

// Of few rows, the work is to read B, or as much of it as there are rows for.
static double matmul_work(const struct matmul_args *a)
{
    const int rows = matmul_rows(a), read = a->segments && rows < a->batch ? rows : a->batch;
    const double computed = 2.0 * rows * a->n * a->k;
    const double moved = (double)read * a->n * a->k * (double)dtype_size(a->b_type) * WORK_OF_BYTE;
    return computed > moved ? computed : moved;
}

int FAST(matmul)(struct device *dev, const struct matmul_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    assert(a->a_type == a->b_type && (a->a_type == DTYPE_BF16 || a->c_type == DTYPE_F32));
    struct matmul_job job = {dev, a};
    if (a->batch > 0 && a->n > 0)
        cpu_run(dev, matmul_work(a), a->plain ? plain_share : matmul_share, &job);
    return 0;
}

// Tokens summed on their own before they are added to dW: keeps a long sum accurate, and the block
// in the cache.
#define TOKEN_BLOCK 256

// A block of tokens of one group. Its operands are laid out anew where that is needed: X once, dY
// GRAD_ROWS columns at a time, so that what a tile reads lies close together.
struct token_block {
    const struct matmul_grad_args *a;
    size_t dy, x; // first elements
    int count;    // tokens
    enum gemm_mode mode;
    float *dy_work, *gemm_work, *x_work;
};

#define GRAD_ROWS 96 // of dW: a multiple of all GEMM_ROWS

// Floats of scratch, dy_work first, then gemm_work.
#define DY_WORK (TOKEN_BLOCK * GRAD_ROWS)
static size_t grad_work(const struct matmul_grad_args *a)
{
    return DY_WORK + gemm_bf16_work(TOKEN_BLOCK) +
           TOKEN_BLOCK * (((size_t)a->k + GEMM_COLS - 1) / GEMM_COLS * GEMM_COLS);
}

static void widen_columns(const uint16_t *x, size_t ldx, int count, int n, size_t ldo, float *out)
{
    for (size_t t = 0; t < (size_t)count; t++)
        for (size_t i = 0; i < (size_t)n; i += VEC_WIDTH) {
            const int lanes = vec_lanes_at((size_t)n, i);
            vec_store_n(out + t * ldo + i, vec_load_bf16(x + t * ldx + i, lanes), lanes);
        }
}

// Rows [row, row + rows) of dW += (or =) dY^T X, summed in float32.
static void block_rows_f32(const struct token_block *b, int row, int rows, float *dw)
{
    const struct matmul_grad_args *a = b->a;
    const bool wide = a->x_type == DTYPE_F32;
    if (!wide)
        widen_columns((const uint16_t *)a->dy + b->dy + row, a->lddy, b->count, rows, GRAD_ROWS,
                      b->dy_work);
    const struct gemm product = {
        .m = rows,
        .n = a->k,
        .k = b->count,
        .a = wide ? (const float *)a->dy + b->dy + row : b->dy_work,
        .a_row = 1,
        .a_depth = wide ? a->lddy : GRAD_ROWS,
        .b = wide ? (const float *)a->x + b->x : b->x_work,
        .b_depth = wide ? a->ldx : (size_t)a->k,
        .b_panel = GEMM_COLS,
        .c = dw,
        .ldc = (size_t)a->k,
        .mode = b->mode,
    };
    FAST(gemm)(&product);
}

#if GEMM_DOTS

// X and dY of a block by pairs of tokens.
static void block_x_bf16(const struct token_block *b)
{
    FAST(gemm_bf16_pack)
    ((const uint16_t *)b->a->x + b->x, b->a->ldx, b->count, b->a->k, (uint16_t *)(void *)b->x_work);
}

static void block_rows_bf16(const struct token_block *b, int row, int rows, float *dw)
{
    static const uint16_t zeros[VEC_WIDTH];
    const struct matmul_grad_args *a = b->a;
    const uint16_t *dy = (const uint16_t *)a->dy + b->dy + (size_t)row;
    uint32_t *pairs = (uint32_t *)(void *)b->dy_work; // [count/2,GRAD_ROWS]
    for (size_t t = 0; t < (size_t)b->count; t += 2)
        for (size_t i = 0; i < (size_t)rows; i += VEC_WIDTH) {
            const uint16_t *first = dy + t * a->lddy + i;
            const uint16_t *second = t + 1 < (size_t)b->count ? first + a->lddy : zeros;
            vec_store_bits(pairs + t / 2 * GRAD_ROWS + i,
                           vec_load_pair(first, second, vec_lanes_at((size_t)rows, i)));
        }
    const struct gemm_bf16 product = {
        .m = rows,
        .n = a->k,
        .k = b->count + b->count % 2,
        .a = (const uint16_t *)(const void *)pairs,
        .a_row = 2,
        .a_depth = 2 * GRAD_ROWS,
        .b = (const uint16_t *)(const void *)b->x_work,
        .c = dw,
        .ldc = (size_t)a->k,
        .mode = b->mode,
        .work = b->gemm_work,
    };
    FAST(gemm_bf16)(&product);
}

#else

static void block_x_bf16(const struct token_block *b)
{
    widen_columns((const uint16_t *)b->a->x + b->x, b->a->ldx, b->count, b->a->k, (size_t)b->a->k,
                  b->x_work);
}

#define block_rows_bf16 block_rows_f32 // which widens dY

#endif

// Rows [row, row + rows) of dW[g].
static void weight_grad(const struct matmul_grad_args *a, float *work, int g, int row, int rows)
{
    int begin, end;
    group_rows(a->segments, a->m, g, &begin, &end);
    const size_t group = a->segments ? 0 : (size_t)g, first = (size_t)(a->segments ? begin : 0);
    const bool bf16 = a->dy_type == DTYPE_BF16;
    float *dw = a->dw + (size_t)g * a->stride_dw;
    for (int t = 0; t < end - begin; t += TOKEN_BLOCK) {
        const struct token_block b = {
            .a = a,
            .dy = group * a->stride_dy + (first + (size_t)t) * a->lddy,
            .x = group * a->stride_x + (first + (size_t)t) * a->ldx,
            .count = end - begin - t < TOKEN_BLOCK ? end - begin - t : TOKEN_BLOCK,
            .mode = t == 0 && a->overwrite ? GEMM_SET : GEMM_ADD,
            .dy_work = work,
            .gemm_work = work + DY_WORK,
            .x_work = work + DY_WORK + gemm_bf16_work(TOKEN_BLOCK),
        };
        if (bf16)
            block_x_bf16(&b);
        for (int i = row; i < row + rows; i += GRAD_ROWS) {
            const int m = row + rows - i < GRAD_ROWS ? row + rows - i : GRAD_ROWS;
            (bf16 ? block_rows_bf16 : block_rows_f32)(&b, i, m, dw + (size_t)i * (size_t)a->k);
        }
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
    struct device *dev;
    const struct matmul_grad_args *a;
    const double *cost; // [batch+1], of whole groups, cumulated
};

static void weight_grad_share(void *arg, int rank, int size)
{
    const struct weight_grad_job *job = arg;
    const struct matmul_grad_args *a = job->a;
    float *work = cpu_scratch(job->dev, rank, grad_work(a));
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
            weight_grad(a, work, g, row, (end == tiles ? a->n : end * GEMM_ROWS) - row);
        }
    }
}

int FAST(matmul_grad)(struct device *dev, const struct matmul_grad_args *a)
{
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    assert(a->dy_type == a->x_type);
    double *cost = mem_array0((size_t)a->batch + 1, sizeof(*cost));
    for (int g = 0; g < a->batch; g++) {
        int begin, end;
        group_rows(a->segments, a->m, g, &begin, &end);
        cost[g + 1] = cost[g] + (double)(end - begin);
    }
    if (a->overwrite)
        zero_empty_groups(a);
    struct weight_grad_job job = {dev, a, cost};
    if (a->n > 0)
        cpu_run(dev, 2.0 * cost[a->batch] * a->n * a->k, weight_grad_share, &job);
    free(cost);
    return 0;
}
