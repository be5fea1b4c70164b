// SPDX-License-Identifier: Apache-2.0
// The last product with log-probability and entropy, and its backward: a part of the rows at a
// time, whose logits stand in scratch memory.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/logits.cuh"
#include <cassert>

constexpr size_t LOGITS_BUDGET = static_cast<size_t>(1) << 27; // logits at a time
constexpr int ROWS_UNIT = 128, ROWS_MAX = 1 << 16;

// Rows at a time: a function of V alone, since it is the blocking of dw.
static int rows_for(int V)
{
    const size_t rows = LOGITS_BUDGET / static_cast<size_t>(V) / ROWS_UNIT * ROWS_UNIT;
    if (rows < ROWS_UNIT)
        return ROWS_UNIT;
    return rows < ROWS_MAX ? static_cast<int>(rows) : ROWS_MAX;
}

// Distance between rows of logits: rows begin on 16 bytes in both types.
static size_t pitch_for(int V) { return (static_cast<size_t>(V) + 7) / 8 * 8; }

static const void *row_of(const void *rows, enum dtype type, int t, int C)
{
    const size_t at = static_cast<size_t>(t) * static_cast<size_t>(C);
    return type == DTYPE_BF16 ? static_cast<const void *>(static_cast<const bf16 *>(rows) + at)
                              : static_cast<const void *>(static_cast<const float *>(rows) + at);
}

// logits = hidden W of m rows.
static int logits_of(struct device *dev, const void *hidden, const void *w, enum dtype type, int m,
                     int C, int V, float *logits)
{
    struct matmul_args product = {};
    product.a = hidden;
    product.lda = static_cast<size_t>(C);
    product.a_type = product.b_type = type;
    product.b = w;
    product.c = logits;
    product.ldc = pitch_for(V);
    product.m = m;
    product.n = V;
    product.k = C;
    product.batch = 1;
    return cuda_matmul(dev, &product);
}

// logits: of the tokens from `first` on, rows pitch apart.
static __global__ void __launch_bounds__(LOGIT_THREADS)
    logprob_kernel(struct linear_logprob_args a, const float *logits, size_t pitch, int first)
{
    const size_t t = static_cast<size_t>(first) + blockIdx.x;
    const float *row = logits + blockIdx.x * pitch;
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
    const int rows = a->T < rows_for(a->V) ? a->T : rows_for(a->V);
    const size_t pitch = pitch_for(a->V);
    float *logits = nullptr;
    int rc = scratch(dev, SCRATCH_OUTER, &logits, rows * pitch);
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = a->T - t < rows ? a->T - t : rows;
        rc = logits_of(dev, row_of(a->hidden, a->type, t, a->C), a->w, a->type, m, a->C, a->V,
                       logits);
        if (rc == 0)
            rc = launch(dev, m, LOGIT_THREADS, row_stats_bytes(a->V), logprob_kernel, *a, logits,
                        pitch, t);
    }
    return rc;
}

// From logits their gradient: (g (1[v = token] - p) - h p (l + entropy)) / tau, l = log p, g and h
// the incoming gradients. dlogits may be logits.
template <typename D>
static __global__ void __launch_bounds__(LOGIT_THREADS)
    logits_grad_kernel(struct linear_logprob_grad_args a, const float *logits, D *dlogits,
                       size_t pitch, int first)
{
    const size_t t = static_cast<size_t>(first) + blockIdx.x;
    const float *row = logits + blockIdx.x * pitch;
    D *out = dlogits + blockIdx.x * pitch;
    const float inverse = inverse_tau(a.tau[t]);
    const row_stats s = block_row_stats(row, a.V, inverse, dynamic_shared<float>());
    const float dlogprob = a.dlogprob[t] * inverse;
    const float dentropy = a.dentropy ? a.dentropy[t] * inverse : 0.0f;
    const int token = a.token[t];
    for (int v = 4 * static_cast<int>(threadIdx.x); v < a.V; v += 4 * LOGIT_THREADS) {
        four x = load_four(row + v, a.V - v);
        for (int i = 0; i < 4; i++) {
            const float l = log_probability(s, scaled_logit(x.x[i], inverse)), p = expf(l);
            const float slope = dlogprob + dentropy * (below_max(l, 0.0f) + s.entropy);
            x.x[i] = (v + i == token ? dlogprob : 0.0f) - p * slope;
        }
        store_four(out + v, a.V - v, x);
    }
}

// dhidden = dlogits W^T and dw += dlogits^T hidden, of m rows.
static int products_grad(struct device *dev, const struct linear_logprob_grad_args *a, int first,
                         int m, const void *dlogits)
{
    struct matmul_args hidden = {};
    hidden.a = dlogits;
    hidden.lda = pitch_for(a->V);
    hidden.a_type = hidden.b_type = a->type;
    hidden.b = a->w_t;
    hidden.c = a->dhidden + static_cast<size_t>(first) * static_cast<size_t>(a->C);
    hidden.ldc = static_cast<size_t>(a->C);
    hidden.m = m;
    hidden.n = a->C;
    hidden.k = a->V;
    hidden.batch = 1;
    struct matmul_grad_args weights = {};
    weights.dy = dlogits;
    weights.lddy = pitch_for(a->V);
    weights.x = row_of(a->hidden, a->type, first, a->C);
    weights.ldx = static_cast<size_t>(a->C);
    weights.dy_type = weights.x_type = a->type;
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
    const int rows = a->T < rows_for(a->V) ? a->T : rows_for(a->V);
    const size_t pitch = pitch_for(a->V), count = rows * pitch, shared = row_stats_bytes(a->V);
    const bool narrow_type = a->type == DTYPE_BF16;
    float *logits = nullptr;
    int rc = scratch(dev, SCRATCH_OUTER, &logits, narrow_type ? count + count / 2 : count);
    bf16 *rounded = reinterpret_cast<bf16 *>(logits + count);
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = a->T - t < rows ? a->T - t : rows;
        rc = logits_of(dev, row_of(a->hidden, a->type, t, a->C), a->w, a->type, m, a->C, a->V,
                       logits);
        if (rc == 0 && narrow_type)
            rc = launch(dev, m, LOGIT_THREADS, shared, logits_grad_kernel<bf16>, *a, logits,
                        rounded, pitch, t);
        else if (rc == 0)
            rc = launch(dev, m, LOGIT_THREADS, shared, logits_grad_kernel<float>, *a, logits,
                        logits, pitch, t);
        if (rc == 0)
            rc = products_grad(dev, a, t, m, narrow_type ? static_cast<void *>(rounded) : logits);
    }
    return rc;
}
