// SPDX-License-Identifier: Apache-2.0
// The last product with log-probability and entropy, and its backward, a part of the rows at a
// time.
//
// In float32 the logits of these rows stand in scratch memory, become their gradient there, and
// both products of the backward come from it. In bfloat16 the product's tiles go from the registers
// into the statistics of their chunks (logits_sink.cuh); for the backward each leaves e^(z - the
// chunk's maximum), rounded, from which the gradient of the logits comes once the statistics of the
// whole row are known. The gradient of the row's token, a difference of two numbers that may be
// close, comes from its logit.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/logits_sink.cuh"
#include <cassert>

constexpr int ROWS_UNIT = 128, ROWS_MAX = 1 << 16;
constexpr size_t F32_BUDGET = static_cast<size_t>(1) << 27;   // logits at a time
constexpr size_t KEPT_BUDGET = static_cast<size_t>(1) << 29;  // of them in bfloat16
constexpr size_t STATS_BUDGET = static_cast<size_t>(1) << 24; // chunks at a time
constexpr int ROW_THREADS = 256;
constexpr int ROW_WARPS = ROW_THREADS / WARP;

// Rows at a time of a budget of `each` a row: a function of the vocabulary alone, since it is the
// blocking of dw.
static int rows_for(size_t budget, size_t each)
{
    const size_t rows = budget / each / ROWS_UNIT * ROWS_UNIT;
    if (rows < ROWS_UNIT)
        return ROWS_UNIT;
    return rows < ROWS_MAX ? static_cast<int>(rows) : ROWS_MAX;
}

static int at_most(int rows, int T) { return T < rows ? T : rows; }

// Distance between rows of logits: rows begin on 16 bytes in both types.
static size_t pitch_for(int V) { return (static_cast<size_t>(V) + 7) / 8 * 8; }

static const void *row_of(const void *rows, enum dtype type, int t, int C)
{
    const size_t at = static_cast<size_t>(t) * static_cast<size_t>(C);
    return type == DTYPE_BF16 ? static_cast<const void *>(static_cast<const bf16 *>(rows) + at)
                              : static_cast<const void *>(static_cast<const float *>(rows) + at);
}

// logits = hidden W of m rows from row t on.
static struct matmul_args product_of(const void *hidden, const void *w, enum dtype type, int t,
                                     int m, int C, int V, float *logits)
{
    struct matmul_args product = {};
    product.a = row_of(hidden, type, t, C);
    product.lda = static_cast<size_t>(C);
    product.a_type = product.b_type = type;
    product.b = w;
    product.c = logits;
    product.ldc = pitch_for(V);
    product.m = m;
    product.n = V;
    product.k = C;
    product.batch = 1;
    return product;
}

// ---- float32

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

// The logits of all tokens, as many rows at a time as scratch memory may take: use(first, m,
// logits) for each stretch.
template <typename Args, typename Use>
static int each_stretch_f32(struct device *dev, const Args *a, Use use)
{
    const int rows = at_most(rows_for(F32_BUDGET, a->V), a->T);
    float *logits = nullptr;
    int rc = scratch(dev, SCRATCH_OUTER, &logits, rows * pitch_for(a->V));
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = at_most(rows, a->T - t);
        const struct matmul_args product =
            product_of(a->hidden, a->w, a->type, t, m, a->C, a->V, logits);
        rc = cuda_matmul(dev, &product);
        if (rc == 0)
            rc = use(t, m, logits);
    }
    return rc;
}

static int logprob_f32(struct device *dev, const struct linear_logprob_args *a)
{
    return each_stretch_f32(dev, a, [=](int first, int m, float *logits) {
        return launch(dev, m, LOGIT_THREADS, row_stats_bytes(a->V), logprob_kernel, *a, logits,
                      pitch_for(a->V), first);
    });
}

// Logits become their gradient: (g (1[v = token] - p) - h p (l + entropy)) / tau, l = log p, g and
// h the incoming gradients.
static __global__ void __launch_bounds__(LOGIT_THREADS)
    logits_grad_kernel(struct linear_logprob_grad_args a, float *logits, size_t pitch, int first)
{
    const size_t t = static_cast<size_t>(first) + blockIdx.x;
    float *row = logits + blockIdx.x * pitch;
    const float inverse = inverse_tau(a.tau[t]);
    const row_stats s = block_row_stats(row, a.V, inverse, dynamic_shared<float>());
    const float dlogprob = a.dlogprob[t] * inverse;
    const float dentropy = a.dentropy ? a.dentropy[t] * inverse : 0.0f;
    const int token = a.token[t];
    for (int v = 4 * static_cast<int>(threadIdx.x); v < a.V; v += 4 * LOGIT_THREADS) {
        four x = load_four(row + v, a.V - v);
        for (int i = 0; i < 4; i++) {
            const float l = log_probability(s, scaled_logit(x.x[i], inverse)), p = expf(l);
            const float slope = dlogprob + dentropy * (bounded(l) + s.entropy);
            x.x[i] = (v + i == token ? dlogprob : 0.0f) - p * slope;
        }
        store_four(row + v, a.V - v, x);
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

static int logprob_grad_f32(struct device *dev, const struct linear_logprob_grad_args *a)
{
    return each_stretch_f32(dev, a, [=](int first, int m, float *logits) {
        const int rc = launch(dev, m, LOGIT_THREADS, row_stats_bytes(a->V), logits_grad_kernel, *a,
                              logits, pitch_for(a->V), first);
        return rc != 0 ? rc : products_grad(dev, a, first, m, logits);
    });
}

// ---- bfloat16

// Scratch memory of `rows` rows: kept first (none: pitch 0), then the chunks, then the tokens'
// logits and the rows' statistics.
static int open_sink(struct device *dev, logit_sink *sink, row_stats **stats, int rows, int V,
                     size_t pitch)
{
    const size_t chunks = static_cast<size_t>(rows) * logit_chunks(V);
    const size_t kept = static_cast<size_t>(rows) * pitch * sizeof(bf16) / sizeof(float);
    const size_t each = 1 + sizeof(row_stats) / sizeof(float);
    float *p = nullptr;
    const int rc = scratch(dev, SCRATCH_OUTER, &p, kept + 3 * chunks + each * rows);
    if (rc != 0)
        return rc;
    *sink = {};
    sink->kept = pitch > 0 ? reinterpret_cast<bf16 *>(p) : nullptr;
    sink->pitch = pitch;
    sink->V = V;
    p += kept;
    sink->chunks = {p, p + chunks, p + 2 * chunks};
    sink->token_logit = p + 3 * chunks;
    *stats = reinterpret_cast<row_stats *>(sink->token_logit + rows);
    return 0;
}

// A warp merges a row's chunks.
static __global__ void __launch_bounds__(ROW_THREADS)
    merge_kernel(logit_sink sink, row_stats *stats)
{
    const int row = static_cast<int>(blockIdx.x) * ROW_WARPS + warp_index();
    if (row >= sink.rows)
        return;
    const int chunks = logit_chunks(sink.V);
    const size_t first = static_cast<size_t>(row) * chunks;
    const chunk_arrays from = {sink.chunks.max + first, sink.chunks.total + first,
                               sink.chunks.weighted + first};
    const row_stats s = merge_stats(from, chunks);
    if (lane_index() == 0)
        stats[row] = s;
}

// The product of m rows from row t on, into the sink; then the rows' statistics.
static int sink_rows(struct device *dev, logit_sink *sink, row_stats *stats,
                     const struct matmul_args *product, const int *token, const float *tau)
{
    sink->token = token;
    sink->tau = tau;
    sink->rows = product->m;
    const int rc = matmul_logits(dev, product, *sink);
    return rc != 0 ? rc
                   : launch(dev, blocks_for(product->m, ROW_WARPS), ROW_THREADS, 0, merge_kernel,
                            *sink, stats);
}

// The outputs of the rows from row t on.
static __global__ void __launch_bounds__(ROW_THREADS)
    logprob_rows_kernel(struct linear_logprob_args a, logit_sink sink, const row_stats *stats,
                        int t)
{
    const int row = static_cast<int>(blockIdx.x) * ROW_THREADS + static_cast<int>(threadIdx.x);
    if (row >= sink.rows)
        return;
    const row_stats s = stats[row];
    const float z = scaled_logit(sink.token_logit[row], inverse_tau(sink.tau[row]));
    a.logprob[t + row] = log_probability(s, z);
    if (a.entropy)
        a.entropy[t + row] = s.entropy;
}

static int logprob_bf16(struct device *dev, const struct linear_logprob_args *a)
{
    const int rows = at_most(rows_for(STATS_BUDGET, logit_chunks(a->V)), a->T);
    logit_sink sink;
    row_stats *stats = nullptr;
    int rc = open_sink(dev, &sink, &stats, rows, a->V, 0);
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = at_most(rows, a->T - t);
        const struct matmul_args product =
            product_of(a->hidden, a->w, a->type, t, m, a->C, a->V, nullptr);
        rc = sink_rows(dev, &sink, stats, &product, a->token + t, a->tau + t);
        if (rc == 0)
            rc = launch(dev, blocks_for(m, ROW_THREADS), ROW_THREADS, 0, logprob_rows_kernel, *a,
                        sink, stats, t);
    }
    return rc;
}

// What the gradient of a row's logits is made of; g and h are the incoming gradients over tau.
struct row_slopes {
    float g, h;
    row_stats s;
};

// The gradient where the kept value is x and the chunk's maximum has log-probability l.
static __device__ __forceinline__ float kept_grad(const row_slopes &r, float x, float l,
                                                  float scale, bool with_entropy)
{
    float slope = r.g;
    if (with_entropy)
        slope += r.h * (bounded(l + logf(x)) + r.s.entropy);
    return -(x * scale) * slope;
}

// The gradient of the token's logit, whose log-probability is l.
static __device__ __forceinline__ float token_grad(const row_slopes &r, float l)
{
    return -expm1f(l) * r.g - expf(l) * r.h * (bounded(l) + r.s.entropy);
}

// What is kept becomes the gradient of the logits: eight columns of row blockIdx.x, which belongs
// to token t + blockIdx.x.
static __global__ void __launch_bounds__(ROW_THREADS)
    kept_grad_kernel(struct linear_logprob_grad_args a, logit_sink sink, const row_stats *stats,
                     int t)
{
    const size_t row = blockIdx.x;
    const int first = 8 * static_cast<int>(blockIdx.y * ROW_THREADS + threadIdx.x);
    if (first >= sink.V)
        return;
    bf16 *kept = sink.kept + row * sink.pitch;
    const float inverse = inverse_tau(sink.tau[row]);
    const row_slopes r = {a.dlogprob[t + row] * inverse,
                          a.dentropy ? a.dentropy[t + row] * inverse : 0.0f, stats[row]};
    const size_t chunk = row * logit_chunks(sink.V) + first / LOGIT_CHUNK;
    const float l = log_probability(r.s, sink.chunks.max[chunk]), scale = exp_of(l);
    for (int v = first; v < first + 8 && v < sink.V; v += 4) {
        four x = load_four(kept + v, sink.V - v);
        for (int i = 0; i < 4; i++)
            x.x[i] = kept_grad(r, x.x[i], l, scale, a.dentropy != nullptr);
        store_four(kept + v, sink.V - v, x);
    }
    const int token = sink.token[row];
    if (token >= first && token < first + 8)
        narrow(kept + token,
               token_grad(r, log_probability(r.s, scaled_logit(sink.token_logit[row], inverse))));
}

static int logprob_grad_bf16(struct device *dev, const struct linear_logprob_grad_args *a)
{
    const size_t pitch = pitch_for(a->V);
    const int rows = at_most(rows_for(KEPT_BUDGET, pitch), a->T);
    logit_sink sink;
    row_stats *stats = nullptr;
    int rc = open_sink(dev, &sink, &stats, rows, a->V, pitch);
    for (int t = 0; rc == 0 && t < a->T; t += rows) {
        const int m = at_most(rows, a->T - t);
        const struct matmul_args product =
            product_of(a->hidden, a->w, a->type, t, m, a->C, a->V, nullptr);
        rc = sink_rows(dev, &sink, stats, &product, a->token + t, a->tau + t);
        if (rc == 0)
            rc = launch(dev, dim3(m, blocks_for(a->V, 8 * ROW_THREADS)), ROW_THREADS, 0,
                        kept_grad_kernel, *a, sink, stats, t);
        if (rc == 0)
            rc = products_grad(dev, a, t, m, sink.kept);
    }
    return rc;
}

// ---- slots

extern "C" int cuda_linear_logprob(struct device *dev, const struct linear_logprob_args *a)
{
    if (a->T == 0)
        return 0;
    assert(a->V > 0);
    return a->type == DTYPE_BF16 ? logprob_bf16(dev, a) : logprob_f32(dev, a);
}

extern "C" int cuda_linear_logprob_grad(struct device *dev,
                                        const struct linear_logprob_grad_args *a)
{
    if (a->T == 0)
        return 0;
    assert(a->V > 0);
    return a->type == DTYPE_BF16 ? logprob_grad_bf16(dev, a) : logprob_grad_f32(dev, a);
}
