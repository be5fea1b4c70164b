// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_kernels.h"

#include "base/error.h"
#include "base/mem.h"
#include "rl/bench_memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Sizes of the model (kernels/letters.h), and of what is given to it.
struct sizes {
    int C, H, R, Dr, F, V, E, K;
    int few, T;           // tokens of a decoding step, and of a packed batch
    int seq;              // tokens of each of its sequences
    int decoding, keys;   // sequences that decode, and what each has cached
    int expert_rows;      // of one expert in a packed batch
    int few_rows;         // and in a decoding step
    int rows, parameters; // of operations that move memory: more than caches hold
};

static const struct sizes cpu_sizes = {.C = 512,
                                       .H = 8,
                                       .R = 128,
                                       .Dr = 32,
                                       .F = 256,
                                       .V = 8192,
                                       .E = 16,
                                       .K = 4,
                                       .few = 32,
                                       .T = 1024,
                                       .seq = 128,
                                       .decoding = 1024,
                                       .keys = 128,
                                       .expert_rows = 256,
                                       .few_rows = 8,
                                       .rows = 16384,
                                       .parameters = 1 << 24};

// arXiv:2405.04434, appendix B
static const struct sizes gpu_sizes = {.C = 2048,
                                       .H = 16,
                                       .R = 512,
                                       .Dr = 64,
                                       .F = 1408,
                                       .V = 102400,
                                       .E = 64,
                                       .K = 6,
                                       .few = 64,
                                       .T = 8192,
                                       .seq = 1024,
                                       .decoding = 64,
                                       .keys = 4096,
                                       .expert_rows = 512,
                                       .few_rows = 6,
                                       .rows = 65536,
                                       .parameters = 1 << 28};

// A case that is being measured.
struct run {
    const struct bench *b;
    struct sizes s;
    enum dtype type;
    struct bench_memory m;
    char shape[96];
    double flops, seconds;
};

static void describe(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void describe(struct run *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->shape, sizeof r->shape, fmt, args);
    va_end(args);
}

static void *input(struct run *r, size_t count) { return bench_numbers(&r->m, r->type, count, 1); }

static void *output(struct run *r, size_t count) { return bench_numbers(&r->m, r->type, count, 1); }

static float *floats(struct run *r, size_t count, int moves)
{
    return bench_numbers(&r->m, DTYPE_F32, count, moves);
}

static void *weights(struct run *r, int k, int n, int count)
{
    return bench_packed(&r->m, r->type, k, n, count);
}

// Rows in equal numbers for each expert.
static const int *segments(struct run *r, int rows_each)
{
    int *s = mem_array0((size_t)r->s.E + 1, sizeof *s);
    for (int i = 0; i <= r->s.E; i++)
        s[i] = i * rows_each;
    const int *out = bench_upload(&r->m, s, ((size_t)r->s.E + 1) * sizeof *s);
    free(s);
    return out;
}

static const int *tokens(struct run *r)
{
    int *t = mem_array0((size_t)r->s.T, sizeof *t);
    for (int i = 0; i < r->s.T; i++)
        t[i] = (int)(i * 7919LL % r->s.V);
    const int *out = bench_upload(&r->m, t, (size_t)r->s.T * sizeof *t);
    free(t);
    return out;
}

// `count` sequences of `keys` tokens each, of which the last `queries` are asked for.
static const struct attention_seq *sequences(struct run *r, int count, int keys, int queries)
{
    struct attention_seq *s = mem_array0((size_t)count, sizeof *s);
    for (int i = 0; i < count; i++)
        s[i] = (struct attention_seq){.query = i * queries,
                                      .len = queries,
                                      .pos = keys - queries,
                                      .block = i * (keys / ATTENTION_BLOCK)};
    const struct attention_seq *out = bench_upload(&r->m, s, (size_t)count * sizeof *s);
    free(s);
    return out;
}

// `count` packed sequences of s.seq tokens.
static const struct attention_grad_seq *grad_sequences(struct run *r, int count)
{
    struct attention_grad_seq *s = mem_array0((size_t)count, sizeof *s);
    for (int i = 0; i < count; i++)
        s[i] = (struct attention_grad_seq){
            .query = i * r->s.seq, .len = r->s.seq, .key = i * r->s.seq, .prefix = -1};
    const struct attention_grad_seq *out = bench_upload(&r->m, s, (size_t)count * sizeof *s);
    free(s);
    return out;
}

static struct attention_shape latent_shape(const struct run *r)
{
    return (struct attention_shape){
        .H = r->s.H, .kv_heads = 1, .Dk = r->s.R + r->s.Dr, .Dv = r->s.R, .scale = 0.1F};
}

// Llama-3.2-1B's.
static const struct attention_shape grouped_shape = {
    .H = 32, .kv_heads = 8, .Dk = 64, .Dv = 64, .value_at = 64, .scale = 0.125F};

static int measure(struct run *r, int (*call)(struct device *, const void *), const void *args)
{
    return r->m.rc != 0 ? r->m.rc : bench_time(&r->seconds, r->b, call, args);
}

#define CALL(slot)                                                                                 \
    static int call_##slot(struct device *dev, const void *args) { return dev->k->slot(dev, args); }
CALL(matmul)
CALL(matmul_grad)
CALL(attention)
CALL(attention_grad)
CALL(linear_logprob)
CALL(linear_logprob_grad)
CALL(rmsnorm)
CALL(swiglu)
CALL(adamw)
#undef CALL

// ---- products

static int run_matmul(struct run *r, int m, int k, int n)
{
    const size_t rows = (size_t)m, in = (size_t)k, out = (size_t)n;
    describe(r, "%d x %d x %d", m, k, n);
    r->flops = 2.0 * m * k * n;
    const struct matmul_args args = {.a = input(r, rows * in),
                                     .lda = in,
                                     .b = weights(r, k, n, 1),
                                     .c = output(r, rows * out),
                                     .ldc = out,
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .batch = 1,
                                     .a_type = r->type,
                                     .b_type = r->type,
                                     .c_type = r->type};
    return measure(r, call_matmul, &args);
}

static int matmul_one(struct run *r) { return run_matmul(r, 1, r->s.C, r->s.C); }
static int matmul_few(struct run *r) { return run_matmul(r, r->s.few, r->s.C, r->s.C); }
static int matmul_many(struct run *r) { return run_matmul(r, r->s.T, r->s.C, r->s.C); }
static int matmul_wide(struct run *r) { return run_matmul(r, r->s.T, 4 * r->s.C, 4 * r->s.C); }
static int matmul_head(struct run *r) { return run_matmul(r, r->s.few, r->s.C, r->s.V); }

static int run_experts(struct run *r, int rows_each, int k, int n)
{
    const int m = r->s.E * rows_each;
    const size_t rows = (size_t)m, in = (size_t)k, out = (size_t)n;
    describe(r, "%d experts, %d rows each, %d to %d", r->s.E, rows_each, k, n);
    r->flops = 2.0 * m * k * n;
    const struct matmul_args args = {.a = input(r, rows * in),
                                     .lda = in,
                                     .b = weights(r, k, n, r->s.E),
                                     .c = output(r, rows * out),
                                     .ldc = out,
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .batch = r->s.E,
                                     .segments = segments(r, rows_each),
                                     .a_type = r->type,
                                     .b_type = r->type,
                                     .c_type = r->type};
    return measure(r, call_matmul, &args);
}

static int experts_few(struct run *r) { return run_experts(r, r->s.few_rows, r->s.C, 2 * r->s.F); }
static int experts_up(struct run *r)
{
    return run_experts(r, r->s.expert_rows, r->s.C, 2 * r->s.F);
}
static int experts_down(struct run *r) { return run_experts(r, r->s.expert_rows, r->s.F, r->s.C); }
static int experts_back(struct run *r)
{
    return run_experts(r, r->s.expert_rows, 2 * r->s.F, r->s.C);
}

// `batch` groups of m rows.
static int run_grad(struct run *r, int batch, int m, int n, int k, bool overwrite)
{
    const size_t rows = (size_t)batch * (size_t)m, out = (size_t)n, in = (size_t)k;
    const bool experts = batch > 1;
    r->flops = 2.0 * (double)rows * n * k;
    const struct matmul_grad_args args = {
        .dy = input(r, rows * out),
        .lddy = out,
        .x = input(r, rows * in),
        .ldx = in,
        .dw = floats(r, (size_t)batch * out * in, overwrite ? 1 : 2),
        .stride_dw = out * in,
        .m = (int)rows,
        .n = n,
        .k = k,
        .batch = batch,
        .segments = experts ? segments(r, m) : NULL,
        .overwrite = overwrite,
        .dy_type = r->type,
        .x_type = r->type};
    return measure(r, call_matmul_grad, &args);
}

static int run_experts_grad(struct run *r, int n, int k, bool overwrite)
{
    describe(r, "%d experts, %d rows each, %d x %d%s", r->s.E, r->s.expert_rows, n, k,
             overwrite ? ", overwriting" : "");
    return run_grad(r, r->s.E, r->s.expert_rows, n, k, overwrite);
}

static int grad_dense(struct run *r)
{
    describe(r, "%d rows, %d x %d", r->s.T, 2 * r->s.C, 2 * r->s.C);
    return run_grad(r, 1, r->s.T, 2 * r->s.C, 2 * r->s.C, false);
}
static int grad_up(struct run *r) { return run_experts_grad(r, 2 * r->s.F, r->s.C, false); }
static int grad_up_first(struct run *r) { return run_experts_grad(r, 2 * r->s.F, r->s.C, true); }
static int grad_down(struct run *r) { return run_experts_grad(r, r->s.C, r->s.F, false); }

// ---- attention: operations are those of the formulas, causal attention sees half of the pairs

static void describe_attention(struct run *r, const struct attention_shape *s, int count, int keys)
{
    if (s->kv_heads == 1)
        describe(r, "%d sequences of %d, %d heads, R %d, Dr %d", count, keys, s->H, s->Dv,
                 s->Dk - s->Dv);
    else
        describe(r, "%d sequences of %d, %d heads of %d, %d of keys", count, keys, s->H, s->Dk,
                 s->kv_heads);
}

static int run_attention(struct run *r, struct attention_shape shape, int count, int keys,
                         int queries)
{
    const int blocks = count * (keys / ATTENTION_BLOCK);
    const size_t row = (size_t)attention_row(&shape), T = (size_t)count * (size_t)queries;
    const size_t heads = (size_t)shape.H, size = dtype_size(r->type);
    const unsigned char *kv = input(r, (size_t)blocks * ATTENTION_BLOCK * row);
    const void **table = mem_array0((size_t)blocks, sizeof *table);
    for (int i = 0; i < blocks; i++)
        table[i] = kv + (size_t)i * ATTENTION_BLOCK * row * size;
    const double pairs = (double)count * queries * (keys - queries + (queries + 1) / 2.0);
    describe_attention(r, &shape, count, keys);
    r->flops = 2.0 * pairs * shape.H * (shape.Dk + shape.Dv);
    const struct attention_args args = {
        .q = input(r, T * heads * (size_t)shape.Dk),
        .kv_blocks = bench_upload(&r->m, table, (size_t)blocks * sizeof *table),
        .seqs = sequences(r, count, keys, queries),
        .shape = shape,
        .num_seqs = count,
        .T = (int)T,
        .max_keys = keys,
        .type = r->type,
        .out = output(r, T * heads * (size_t)shape.Dv)};
    free(table);
    return measure(r, call_attention, &args);
}

static int packed(struct run *r, struct attention_shape shape)
{
    return run_attention(r, shape, r->s.T / r->s.seq, r->s.seq, r->s.seq);
}
static int decoding(struct run *r, struct attention_shape shape)
{
    return run_attention(r, shape, r->s.decoding, r->s.keys, 1);
}

static int attention_packed(struct run *r) { return packed(r, latent_shape(r)); }
static int attention_decoding(struct run *r) { return decoding(r, latent_shape(r)); }
static int attention_grouped(struct run *r) { return packed(r, grouped_shape); }
static int attention_grouped_decoding(struct run *r) { return decoding(r, grouped_shape); }

static int run_attention_grad(struct run *r, struct attention_shape shape)
{
    const int count = r->s.T / r->s.seq;
    const size_t T = (size_t)r->s.T, H = (size_t)shape.H, row = (size_t)attention_row(&shape);
    const size_t keys = T * H * (size_t)shape.Dk, values = T * H * (size_t)shape.Dv;
    float *lse = mem_array0(T * H, sizeof *lse);
    for (size_t i = 0; i < T * H; i++)
        lse[i] = 10; // keeps the probabilities far from overflow
    describe_attention(r, &shape, count, r->s.seq);
    r->flops = 2.0 * r->s.T * shape.H * (r->s.seq + 1) / 2 * (3 * shape.Dk + 2 * shape.Dv);
    const struct attention_grad_args args = {.q = input(r, keys),
                                             .kv = input(r, T * row),
                                             .out = input(r, values),
                                             .lse = bench_upload(&r->m, lse, T * H * sizeof *lse),
                                             .dout = input(r, values),
                                             .dq = output(r, keys),
                                             .dkv = output(r, T * row),
                                             .seqs = grad_sequences(r, count),
                                             .shape = shape,
                                             .num_seqs = count,
                                             .T = r->s.T,
                                             .N = r->s.T,
                                             .type = r->type,
                                             .dq_type = r->type,
                                             .dkv_type = r->type};
    free(lse);
    return measure(r, call_attention_grad, &args);
}

static int attention_grad(struct run *r) { return run_attention_grad(r, latent_shape(r)); }
static int attention_grouped_grad(struct run *r) { return run_attention_grad(r, grouped_shape); }

// ---- log-probabilities

static int logprob(struct run *r)
{
    const size_t T = (size_t)r->s.T, C = (size_t)r->s.C;
    describe(r, "%d x %d x %d", r->s.T, r->s.C, r->s.V);
    r->flops = 2.0 * r->s.T * r->s.C * r->s.V;
    const struct linear_logprob_args args = {.hidden = input(r, T * C),
                                             .w = weights(r, r->s.C, r->s.V, 1),
                                             .token = tokens(r),
                                             .tau = bench_zeros(&r->m, T * sizeof(float), 1),
                                             .logprob = floats(r, T, 1),
                                             .entropy = floats(r, T, 1),
                                             .T = r->s.T,
                                             .C = r->s.C,
                                             .V = r->s.V,
                                             .type = r->type};
    return measure(r, call_linear_logprob, &args);
}

static int logprob_grad(struct run *r)
{
    const size_t T = (size_t)r->s.T, C = (size_t)r->s.C, V = (size_t)r->s.V;
    describe(r, "%d x %d x %d", r->s.T, r->s.C, r->s.V);
    r->flops = 6.0 * r->s.T * r->s.C * r->s.V;
    const struct linear_logprob_grad_args args = {.hidden = input(r, T * C),
                                                  .w = weights(r, r->s.C, r->s.V, 1),
                                                  .w_t = weights(r, r->s.V, r->s.C, 1),
                                                  .token = tokens(r),
                                                  .tau = bench_zeros(&r->m, T * sizeof(float), 1),
                                                  .dlogprob = floats(r, T, 1),
                                                  .dhidden = floats(r, T * C, 1),
                                                  .dw = floats(r, V * C, 2),
                                                  .T = r->s.T,
                                                  .C = r->s.C,
                                                  .V = r->s.V,
                                                  .type = r->type};
    return measure(r, call_linear_logprob_grad, &args);
}

// ---- what moves memory

static int rmsnorm(struct run *r)
{
    const size_t C = (size_t)r->s.C, n = (size_t)r->s.rows * C;
    describe(r, "%d x %d, with residual", r->s.rows, r->s.C);
    const struct rmsnorm_args args = {.x = floats(r, n, 1),
                                      .add = floats(r, n, 1),
                                      .sum = floats(r, n, 1),
                                      .w = floats(r, C, 1),
                                      .y = output(r, n),
                                      .ldx = C,
                                      .ldy = C,
                                      .eps = 1e-6F,
                                      .T = r->s.rows,
                                      .C = r->s.C,
                                      .y_type = r->type};
    return measure(r, call_rmsnorm, &args);
}

static int swiglu(struct run *r)
{
    const size_t n = (size_t)r->s.rows * (size_t)r->s.C;
    describe(r, "%d x %d", r->s.rows, 2 * r->s.C);
    const struct swiglu_args args = {.gate_up = input(r, 2 * n),
                                     .h = output(r, n),
                                     .T = r->s.rows,
                                     .F = r->s.C,
                                     .gate_up_type = r->type,
                                     .h_type = r->type};
    return measure(r, call_swiglu, &args);
}

static int adamw(struct run *r)
{
    const size_t n = (size_t)r->s.parameters;
    describe(r, "%d parameters", r->s.parameters);
    const struct adamw_args args = {.p = floats(r, n, 2),
                                    .m = floats(r, n, 2),
                                    .v = bench_zeros(&r->m, n * sizeof(float), 2),
                                    .g = floats(r, n, 1),
                                    .n = n,
                                    .lr = 1e-4F,
                                    .beta1 = 0.9F,
                                    .beta2 = 0.95F,
                                    .eps = 1e-8F,
                                    .grad_scale = 1,
                                    .step = 1};
    return measure(r, call_adamw, &args);
}

static const struct {
    const char *name;
    int (*run)(struct run *r);
} cases[] = {
    {"matmul", matmul_one},
    {"matmul", matmul_few},
    {"matmul", matmul_many},
    {"matmul", matmul_wide},
    {"matmul", matmul_head},
    {"matmul of experts", experts_few},
    {"matmul of experts", experts_up},
    {"matmul of experts", experts_down},
    {"matmul of experts", experts_back},
    {"matmul_grad", grad_dense},
    {"matmul_grad of experts", grad_up},
    {"matmul_grad of experts", grad_up_first},
    {"matmul_grad of experts", grad_down},
    {"attention", attention_packed},
    {"attention, decoding", attention_decoding},
    {"attention", attention_grouped},
    {"attention, decoding", attention_grouped_decoding},
    {"attention_grad", attention_grad},
    {"attention_grad", attention_grouped_grad},
    {"linear_logprob", logprob},
    {"linear_logprob_grad", logprob_grad},
    {"rmsnorm", rmsnorm},
    {"swiglu", swiglu},
    {"adamw", adamw},
};

int bench_kernels(const struct bench *b, const char *only)
{
    int rc = 0, chosen = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases && rc == 0; i++) {
        if (only != NULL && strstr(cases[i].name, only) == NULL)
            continue;
        chosen++;
        struct run r = {
            .b = b, .s = b->gpu ? gpu_sizes : cpu_sizes, .type = b->type, .m = {.dev = b->dev}};
        rc = cases[i].run(&r);
        if (rc == 0) {
            char name[128];
            snprintf(name, sizeof name, "%s: %s", cases[i].name, r.shape);
            bench_print(b, "kernels", name, r.flops, r.m.bytes, r.seconds);
        }
        bench_memory_free(&r.m);
    }
    if (chosen == 0)
        return err_set(ERR_CONFIG, "bench kernels: no case is called like \"%s\"", only);
    return rc;
}
