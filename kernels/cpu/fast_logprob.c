// SPDX-License-Identifier: Apache-2.0
// The last product with log-probability and entropy, a few rows at a time: their logits fit the
// cache and are never stored. The backward keeps the logits' gradient of one chunk of rows, from
// which both products come.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <math.h>
#include <stdint.h>

// Of logits at a time on one thread, forward and backward: the weights are read from far once for
// so many.
#define TILE_FLOATS      (256 * 1024)
#define GRAD_TILE_FLOATS (512 * 1024)
#define CHUNK_FLOATS     (1024 * 1024) // of the logits' gradient at a time; twice as many of bfloat16

static int rows_for(int floats, int V)
{
    const int rows = floats / V / GEMM_ROWS * GEMM_ROWS;
    return rows < GEMM_ROWS ? GEMM_ROWS : rows < 4096 ? rows : 4096;
}

// The order of the sums depends on V alone.
struct row_stats FAST(row_stats)(const float *logits, int V, float inv_tau)
{
    const size_t n = (size_t)V;
    const vec scale = vec_set1(inv_tau), low = vec_set1(-INFINITY);
    vec largest = low, total = vec_zero(), weighted = vec_zero();
    for (size_t v = 0; v < n; v += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(n, v);
        const vec z = vec_mul(vec_load_mask(logits + v, m), scale);
        largest = vec_max(vec_select(m, z, low), largest);
    }
    struct row_stats s = {.max = vec_largest(largest)};
    const vec max = vec_set1(s.max);
    for (size_t v = 0; v < n; v += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(n, v);
        const vec z = vec_sub(vec_mul(vec_load_mask(logits + v, m), scale), max);
        const vec p = vec_select(m, vec_exp(z), vec_zero());
        total = vec_add(total, p);
        // Bounded, since p is 0 at -infinity.
        weighted = vec_fma(p, vec_max(vec_set1(-1000.0f), z), weighted);
    }
    const float sum = vec_sum(total);
    s.log_total = (float)log((double)sum);
    s.entropy = s.log_total - vec_sum(weighted) / sum;
    return s;
}

// Rows [t, t + m) of x[T,k], of the type of packed w[k,n], times w: with the bits of matmul.
static void product_rows(const void *x, enum dtype type, int t, int m, int k, const void *w, int n,
                         float *out, float *work)
{
    const size_t first = (size_t)t * (size_t)k;
    if (type == DTYPE_BF16) {
        const struct gemm_bf16 product = {
            .m = m,
            .n = n,
            .k = k,
            .a = (const uint16_t *)x + first,
            .a_row = (size_t)k,
            .a_depth = 2,
            .b = w,
            .c = out,
            .ldc = (size_t)n,
            .mode = GEMM_SET,
            .work = work,
        };
        FAST(gemm_bf16)(&product);
    } else {
        const struct gemm product = {
            .m = m,
            .n = n,
            .k = k,
            .a = (const float *)x + first,
            .a_row = (size_t)k,
            .a_depth = 1,
            .b = w,
            .b_depth = GEMM_COLS,
            .b_panel = (size_t)k * GEMM_COLS,
            .c = out,
            .ldc = (size_t)n,
            .mode = GEMM_SET,
        };
        FAST(gemm)(&product);
    }
}

struct logprob_job {
    struct device *dev;
    const struct linear_logprob_args *a;
};

static void logprob_share(void *arg, int rank, int size)
{
    const struct logprob_job *job = arg;
    const struct linear_logprob_args *a = job->a;
    const int rows = rows_for(TILE_FLOATS, a->V);
    const size_t floats = (size_t)rows * (size_t)a->V;
    float *logits = cpu_scratch(job->dev, rank, floats + gemm_bf16_work(a->C));
    int begin, end;
    team_share(a->T, GEMM_ROWS, rank, size, &begin, &end);
    for (int t = begin; t < end; t += rows) {
        const int m = end - t < rows ? end - t : rows;
        product_rows(a->hidden, a->type, t, m, a->C, a->w, a->V, logits, logits + floats);
        for (int i = 0; i < m; i++) {
            const float *row = logits + (size_t)i * (size_t)a->V, inv = row_inv_tau(a->tau[t + i]);
            const struct row_stats s = FAST(row_stats)(row, a->V, inv);
            assert(a->token[t + i] >= 0 && a->token[t + i] < a->V);
            a->logprob[t + i] = row_logprob(&s, row[a->token[t + i]], inv);
            if (a->entropy)
                a->entropy[t + i] = s.entropy;
        }
    }
}

int FAST(linear_logprob)(struct device *dev, const struct linear_logprob_args *a)
{
    assert(a->T == 0 || a->V > 0);
    struct logprob_job job = {dev, a};
    if (a->T > 0)
        cpu_run(dev, 2.0 * a->T * a->C * a->V, logprob_share, &job);
    return 0;
}

struct logprob_grad_job {
    struct device *dev;
    const struct linear_logprob_grad_args *a;
    int first, rows; // of this chunk
    void *dlogits;   // [rows,V], of the type of hidden
};

// Logits become their gradient: (g (1[v = token] - p) - h p (l + entropy)) / tau, l = log p, g and
// h the incoming gradients.
static void logits_grad(const struct linear_logprob_grad_args *a, int t, float *row)
{
    const size_t V = (size_t)a->V;
    const float inv = row_inv_tau(a->tau[t]);
    const struct row_stats s = FAST(row_stats)(row, a->V, inv);
    const vec scale = vec_set1(inv), max = vec_set1(s.max), log_total = vec_set1(s.log_total);
    const vec dentropy = vec_set1(a->dentropy ? a->dentropy[t] * inv : 0.0f);
    const vec dlogprob = vec_set1(a->dlogprob[t] * inv), entropy = vec_set1(s.entropy);
    for (size_t v = 0; v < V; v += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(V, v);
        const vec z = vec_sub(vec_mul(vec_load_mask(row + v, m), scale), max);
        const vec l = vec_sub(vec_max(vec_set1(-1000.0f), z), log_total), p = vec_exp(l);
        const vec slope = vec_fma(dentropy, vec_add(l, entropy), dlogprob);
        vec_store_mask(row + v, vec_sub(vec_zero(), vec_mul(p, slope)), m);
    }
    row[a->token[t]] += a->dlogprob[t] * inv;
}

static void hidden_grad_share(void *arg, int rank, int size)
{
    const struct logprob_grad_job *job = arg;
    const struct linear_logprob_grad_args *a = job->a;
    const size_t C = (size_t)a->C, V = (size_t)a->V;
    const int rows = rows_for(GRAD_TILE_FLOATS, a->V);
    const bool rounded = a->type == DTYPE_BF16;
    const size_t floats = rounded ? (size_t)rows * V : 0;
    const size_t work = gemm_bf16_work(a->C > a->V ? a->C : a->V);
    float *scratch = cpu_scratch(job->dev, rank, floats + work);
    int begin, end;
    team_share(job->rows, GEMM_ROWS, rank, size, &begin, &end);
    for (int i = begin; i < end; i += rows) {
        const int m = end - i < rows ? end - i : rows, t = job->first + i;
        float *logits = rounded ? scratch : (float *)job->dlogits + (size_t)i * V;
        product_rows(a->hidden, a->type, t, m, a->C, a->w, a->V, logits, scratch + floats);
        for (int j = 0; j < m; j++)
            logits_grad(a, t + j, logits + (size_t)j * V);
        for (size_t j = 0; rounded && j < (size_t)m * V; j += VEC_WIDTH) {
            const int lanes = vec_lanes_at((size_t)m * V, j);
            vec_store_bf16((uint16_t *)job->dlogits + (size_t)i * V + j,
                           vec_load_n(logits + j, lanes), lanes);
        }
        product_rows(job->dlogits, a->type, i, m, a->V, a->w_t, a->C, a->dhidden + (size_t)t * C,
                     scratch + floats);
    }
}

int FAST(linear_logprob_grad)(struct device *dev, const struct linear_logprob_grad_args *a)
{
    assert(a->T == 0 || a->V > 0);
    const size_t C = (size_t)a->C, V = (size_t)a->V;
    const int floats = a->type == DTYPE_BF16 ? 2 * CHUNK_FLOATS : CHUNK_FLOATS;
    const int rows = a->T > 0 ? rows_for(floats, a->V) : 1;
    for (int t = 0; t < a->T; t += rows) {
        const int m = a->T - t < rows ? a->T - t : rows;
        struct logprob_grad_job job = {dev, a, t, m, cpu_scratch(dev, CPU_SHARED, (size_t)m * V)};
        cpu_run(dev, 4.0 * m * a->C * a->V, hidden_grad_share, &job);
        const struct matmul_grad_args weights = {
            .dy = job.dlogits,
            .lddy = V,
            .x = (const char *)a->hidden + (size_t)t * C * dtype_size(a->type),
            .ldx = C,
            .dw = a->dw,
            .m = m,
            .n = a->V,
            .k = a->C,
            .batch = 1,
            .dy_type = a->type,
            .x_type = a->type,
        };
        FAST(matmul_grad)(dev, &weights);
    }
    return 0;
}
