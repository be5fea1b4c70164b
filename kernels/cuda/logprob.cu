// SPDX-License-Identifier: Apache-2.0
// The last product with log-probability and entropy, and its backward: a part of the rows at a
// time, whose logits stand in scratch memory.
#include "kernels/cuda/logits.cuh"
#include <cassert>

constexpr size_t LOGITS_BUDGET = static_cast<size_t>(1) << 27; // floats at a time
constexpr int ROWS_UNIT = 128, ROWS_MAX = 1 << 16;

// Rows at a time: a function of V alone, since it is the blocking of dw.
static int rows_for(int V)
{
    const size_t rows = LOGITS_BUDGET / static_cast<size_t>(V) / ROWS_UNIT * ROWS_UNIT;
    if (rows < ROWS_UNIT)
        return ROWS_UNIT;
    return rows < ROWS_MAX ? static_cast<int>(rows) : ROWS_MAX;
}

static int logits_of(struct device *dev, const float *hidden, const float *w, int m, int C, int V,
                     float *logits)
{
    struct matmul_args product = {};
    product.a = hidden;
    product.lda = static_cast<size_t>(C);
    product.b = w;
    product.c = logits;
    product.ldc = static_cast<size_t>(V);
    product.m = m;
    product.n = V;
    product.k = C;
    product.batch = 1;
    return cuda_matmul(dev, &product);
}

// logits [rows,V] of the tokens from `first` on.
static __global__ void __launch_bounds__(LOGIT_THREADS)
    logprob_kernel(struct linear_logprob_args a, const float *logits, int first)
{
    const size_t t = static_cast<size_t>(first) + blockIdx.x;
    const float *row = logits + blockIdx.x * static_cast<size_t>(a.V);
    const float inverse = inverse_tau(a.tau[t]);
    const row_stats s = block_row_stats(row, a.V, inverse, dynamic_shared<float>());
    if (threadIdx.x > 0)
        return;
    a.logprob[t] = log_probability(s, scaled_logit(row[a.token[t]], inverse));
    if (a.entropy)
        a.entropy[t] = s.entropy;
}

extern "C" int cuda_linear_logprob(struct device *dev, const struct linear_logprob_args *a)
{
    if (a->T == 0)
        return 0;
    assert(a->V > 0);
    const int rows = rows_for(a->V);
    float *logits = nullptr;
    int rc = scratch(dev, SCRATCH_OUTER, &logits,
                     static_cast<size_t>(a->T < rows ? a->T : rows) * static_cast<size_t>(a->V));
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = a->T - t < rows ? a->T - t : rows;
        rc = logits_of(dev, a->hidden + static_cast<size_t>(t) * a->C, a->w, m, a->C, a->V, logits);
        if (rc == 0)
            rc = launch(dev, m, LOGIT_THREADS, row_stats_bytes(a->V), logprob_kernel, *a, logits,
                        t);
    }
    return rc;
}

// Logits become their gradient: (g (1[v = token] - p) - h p (l + entropy)) / tau, l = log p, g and
// h the incoming gradients.
static __global__ void __launch_bounds__(LOGIT_THREADS)
    logits_grad_kernel(struct linear_logprob_grad_args a, float *logits, int first)
{
    const size_t t = static_cast<size_t>(first) + blockIdx.x;
    float *row = logits + blockIdx.x * static_cast<size_t>(a.V);
    const float inverse = inverse_tau(a.tau[t]);
    const row_stats s = block_row_stats(row, a.V, inverse, dynamic_shared<float>());
    const float dlogprob = a.dlogprob[t] * inverse;
    const float dentropy = a.dentropy ? a.dentropy[t] * inverse : 0.0f;
    const int token = a.token[t];
    for (int v = static_cast<int>(threadIdx.x); v < a.V; v += LOGIT_THREADS) {
        const float l = log_probability(s, scaled_logit(row[v], inverse));
        const float p = expf(l);
        const float slope = dlogprob + dentropy * (below_max(l, 0.0f) + s.entropy);
        row[v] = (v == token ? dlogprob : 0.0f) - p * slope;
    }
}

// dhidden = dlogits W^T and dw += dlogits^T hidden, of m rows.
static int products_grad(struct device *dev, const struct linear_logprob_grad_args *a, int first,
                         int m, const float *dlogits)
{
    const size_t C = static_cast<size_t>(a->C), V = static_cast<size_t>(a->V);
    struct matmul_args hidden = {};
    hidden.a = dlogits;
    hidden.lda = V;
    hidden.b = a->w_t;
    hidden.c = a->dhidden + static_cast<size_t>(first) * C;
    hidden.ldc = C;
    hidden.m = m;
    hidden.n = a->C;
    hidden.k = a->V;
    hidden.batch = 1;
    struct matmul_grad_args weights = {};
    weights.dy = dlogits;
    weights.lddy = V;
    weights.x = a->hidden + static_cast<size_t>(first) * C;
    weights.ldx = C;
    weights.dw = a->dw;
    weights.m = m;
    weights.n = a->V;
    weights.k = a->C;
    weights.batch = 1;
    const int rc = cuda_matmul(dev, &hidden);
    return rc != 0 ? rc : cuda_matmul_grad(dev, &weights);
}

extern "C" int cuda_linear_logprob_grad(struct device *dev,
                                        const struct linear_logprob_grad_args *a)
{
    if (a->T == 0)
        return 0;
    assert(a->V > 0);
    const int rows = rows_for(a->V);
    float *logits = nullptr;
    int rc = scratch(dev, SCRATCH_OUTER, &logits,
                     static_cast<size_t>(a->T < rows ? a->T : rows) * static_cast<size_t>(a->V));
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = a->T - t < rows ? a->T - t : rows;
        rc = logits_of(dev, a->hidden + static_cast<size_t>(t) * a->C, a->w, m, a->C, a->V, logits);
        if (rc == 0)
            rc = launch(dev, m, LOGIT_THREADS, row_stats_bytes(a->V), logits_grad_kernel, *a,
                        logits, t);
        if (rc == 0)
            rc = products_grad(dev, a, t, m, logits);
    }
    return rc;
}
