// SPDX-License-Identifier: Apache-2.0
// gradus bench kernels: speed of the kernels through the table that training uses, on shapes of a
// model of some hundred million parameters, beside what the machine does at most.
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/philox.h"
#include "base/team.h"
#include "kernels/device.h"
#include "rl/bench_limit.h"
#include "rl/bench_sandbox.h"
#include "rl/verb.h"
#include <stdio.h>
#include <string.h>

enum { C = 512, H = 8, R = 128, DR = 32, F = 256, V = 8192, E = 16, K = 4, T = 1024, SEQ = 128 };
static const double min_seconds = 0.2;

struct bench {
    struct device *dev;
    struct arena memory; // of one case
    double begun, start, best;
    int calls;
};

// How a case is measured: `for (...; again(b);) call`. The fastest call counts.
static bool again(struct bench *b)
{
    const double now = log_clock();
    if (b->calls == 0)
        b->begun = now;
    else if (b->calls == 2 || (b->calls > 2 && now - b->start < b->best)) // the first warms up
        b->best = now - b->start;
    if (b->calls++ > 4 && now - b->begun > min_seconds)
        return false;
    b->start = log_clock();
    return true;
}

static float *numbers(struct bench *b, size_t count)
{
    float *p = arena_push(&b->memory, count * sizeof *p);
    struct philox_stream s = philox_stream(1, count);
    for (size_t i = 0; i < count; i++)
        p[i] = (float)(philox_next_unit(&s) - 0.5);
    return p;
}

static float *packed(struct bench *b, int k, int n, int count)
{
    const struct pack_args args = {.b = numbers(b, (size_t)count * k * n),
                                   .ldb = (size_t)n,
                                   .stride_b = (size_t)k * n,
                                   .k = k,
                                   .n = n,
                                   .count = count,
                                   .out = numbers(b, count * matmul_packed_size(b->dev, k, n))};
    b->dev->k->matmul_pack(b->dev, &args);
    return args.out;
}

// Rows of T*K choices, equally among E experts.
static int *segments(struct bench *b)
{
    int *s = arena_push(&b->memory, (E + 1) * sizeof *s);
    for (int i = 0; i <= E; i++)
        s[i] = i * (T * K / E);
    return s;
}

// T tokens as T / SEQ packed sequences, or, `decoding`, T sequences of SEQ cached tokens each of
// which has one query.
static struct attention_seq *sequences(struct bench *b, bool decoding, int *count)
{
    *count = decoding ? T : T / SEQ;
    struct attention_seq *s = arena_push0(&b->memory, (size_t)*count * sizeof *s);
    for (int i = 0; i < *count; i++)
        s[i] = (struct attention_seq){.query = decoding ? i : i * SEQ,
                                      .len = decoding ? 1 : SEQ,
                                      .pos = decoding ? SEQ - 1 : 0,
                                      .block = i * (SEQ / ATTENTION_BLOCK)};
    return s;
}

// ---- cases

static int bench_matmul(struct bench *b, int m)
{
    const struct matmul_args args = {.a = numbers(b, (size_t)m * C),
                                     .lda = C,
                                     .b = packed(b, C, C, 1),
                                     .c = numbers(b, (size_t)m * C),
                                     .ldc = C,
                                     .m = m,
                                     .n = C,
                                     .k = C,
                                     .batch = 1};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->matmul(b->dev, &args);
    return rc;
}

static int bench_matmul_1(struct bench *b) { return bench_matmul(b, 1); }
static int bench_matmul_32(struct bench *b) { return bench_matmul(b, 32); }
static int bench_matmul_T(struct bench *b) { return bench_matmul(b, T); }

static int bench_experts(struct bench *b)
{
    const struct matmul_args args = {.a = numbers(b, (size_t)T * K * C),
                                     .lda = C,
                                     .b = packed(b, C, 2 * F, E),
                                     .c = numbers(b, (size_t)T * K * 2 * F),
                                     .ldc = 2 * F,
                                     .n = 2 * F,
                                     .k = C,
                                     .batch = E,
                                     .segments = segments(b)};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->matmul(b->dev, &args);
    return rc;
}

static int bench_experts_grad(struct bench *b)
{
    const struct matmul_grad_args args = {.dy = numbers(b, (size_t)T * K * 2 * F),
                                          .lddy = 2 * F,
                                          .x = numbers(b, (size_t)T * K * C),
                                          .ldx = C,
                                          .dw = numbers(b, (size_t)E * 2 * F * C),
                                          .stride_dw = (size_t)2 * F * C,
                                          .n = 2 * F,
                                          .k = C,
                                          .batch = E,
                                          .segments = segments(b)};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->matmul_grad(b->dev, &args);
    return rc;
}

static int bench_attention(struct bench *b, bool decoding)
{
    int count;
    const struct attention_seq *seqs = sequences(b, decoding, &count);
    const int blocks = count * (SEQ / ATTENTION_BLOCK);
    const size_t row = R + DR;
    const float *kv = numbers(b, (size_t)blocks * ATTENTION_BLOCK * row);
    const void **table = arena_push(&b->memory, (size_t)blocks * sizeof *table);
    for (int i = 0; i < blocks; i++)
        table[i] = kv + (size_t)i * ATTENTION_BLOCK * row;
    const struct attention_args args = {.q = numbers(b, (size_t)T * H * row),
                                        .kv_blocks = table,
                                        .seqs = seqs,
                                        .num_seqs = count,
                                        .H = H,
                                        .R = R,
                                        .Dr = DR,
                                        .T = decoding ? count : T,
                                        .max_keys = SEQ,
                                        .scale = 0.1F,
                                        .out = numbers(b, (size_t)T * H * R)};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->attention(b->dev, &args);
    return rc;
}

static int bench_attention_packed(struct bench *b) { return bench_attention(b, false); }
static int bench_attention_decoding(struct bench *b) { return bench_attention(b, true); }

static int bench_attention_grad(struct bench *b)
{
    int count;
    const size_t row = R + DR;
    float *lse = numbers(b, (size_t)T * H);
    for (int i = 0; i < T * H; i++)
        lse[i] = 5; // keeps the probabilities far from overflow
    const struct attention_grad_args args = {.q = numbers(b, (size_t)T * H * row),
                                             .kv = numbers(b, (size_t)T * row),
                                             .out = numbers(b, (size_t)T * H * R),
                                             .lse = lse,
                                             .dout = numbers(b, (size_t)T * H * R),
                                             .dq = numbers(b, (size_t)T * H * row),
                                             .dkv = numbers(b, (size_t)T * row),
                                             .seqs = sequences(b, false, &count),
                                             .num_seqs = T / SEQ,
                                             .T = T,
                                             .H = H,
                                             .R = R,
                                             .Dr = DR,
                                             .scale = 0.1F};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->attention_grad(b->dev, &args);
    return rc;
}

static int *tokens(struct bench *b)
{
    int *t = arena_push(&b->memory, T * sizeof *t);
    for (int i = 0; i < T; i++)
        t[i] = (i * 7919) % V;
    return t;
}

static int bench_logprob(struct bench *b)
{
    const struct linear_logprob_args args = {.hidden = numbers(b, (size_t)T * C),
                                             .w = packed(b, C, V, 1),
                                             .token = tokens(b),
                                             .tau = arena_push0(&b->memory, T * sizeof(float)),
                                             .logprob = numbers(b, T),
                                             .entropy = numbers(b, T),
                                             .T = T,
                                             .C = C,
                                             .V = V};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->linear_logprob(b->dev, &args);
    return rc;
}

static int bench_logprob_grad(struct bench *b)
{
    const struct linear_logprob_grad_args args = {.hidden = numbers(b, (size_t)T * C),
                                                  .w = packed(b, C, V, 1),
                                                  .w_t = packed(b, V, C, 1),
                                                  .token = tokens(b),
                                                  .tau = arena_push0(&b->memory, T * sizeof(float)),
                                                  .dlogprob = numbers(b, T),
                                                  .dhidden = numbers(b, (size_t)T * C),
                                                  .dw = numbers(b, (size_t)V * C),
                                                  .T = T,
                                                  .C = C,
                                                  .V = V};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->linear_logprob_grad(b->dev, &args);
    return rc;
}

enum { ROWS = 16384, PARAMETERS = 1 << 24 }; // more than caches hold

static int bench_rmsnorm(struct bench *b)
{
    const struct rmsnorm_args args = {.x = numbers(b, (size_t)ROWS * C),
                                      .w = numbers(b, C),
                                      .y = numbers(b, (size_t)ROWS * C),
                                      .ldx = C,
                                      .ldy = C,
                                      .eps = 1e-6F,
                                      .T = ROWS,
                                      .C = C};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->rmsnorm(b->dev, &args);
    return rc;
}

static int bench_swiglu(struct bench *b)
{
    const struct swiglu_args args = {.gate_up = numbers(b, (size_t)ROWS * 2 * C),
                                     .h = numbers(b, (size_t)ROWS * C),
                                     .T = ROWS,
                                     .F = C};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->swiglu(b->dev, &args);
    return rc;
}

static int bench_adamw(struct bench *b)
{
    const struct adamw_args args = {.p = numbers(b, PARAMETERS),
                                    .m = arena_push0(&b->memory, PARAMETERS * sizeof(float)),
                                    .v = arena_push0(&b->memory, PARAMETERS * sizeof(float)),
                                    .g = numbers(b, PARAMETERS),
                                    .n = PARAMETERS,
                                    .lr = 1e-4F,
                                    .beta1 = 0.9F,
                                    .beta2 = 0.95F,
                                    .eps = 1e-8F,
                                    .grad_scale = 1,
                                    .step = 1};
    int rc = 0;
    while (rc == 0 && again(b))
        rc = b->dev->k->adamw(b->dev, &args);
    return rc;
}

// Operations are those that MATH's formulas need: causal attention sees half of the pairs.
static const struct bench_case {
    const char *name, *shape;
    int (*run)(struct bench *b);
    double flops, bytes; // of one call; one of them
} cases[] = {
    {"matmul", "1 x 512 x 512", bench_matmul_1, 2.0 * C *C, 0},
    {"matmul", "32 x 512 x 512", bench_matmul_32, 64.0 * C *C, 0},
    {"matmul", "1024 x 512 x 512", bench_matmul_T, 2.0 * T *C *C, 0},
    {"matmul of experts", "4096 x 512 x 512, 16 experts", bench_experts, 4.0 * T *K *C *F, 0},
    {"matmul_grad of experts", "4096 x 512 x 512, 16 experts", bench_experts_grad, 4.0 * T *K *C *F,
     0},
    {"attention", "8 sequences of 128, 8 heads, R 128, Dr 32", bench_attention_packed,
     2.0 * T *H *(SEQ + 1) / 2 * (2 * R + DR), 0},
    {"attention, decoding", "1024 sequences of 128, 8 heads, R 128, Dr 32",
     bench_attention_decoding, 2.0 * T *H *SEQ *(2 * R + DR), 0},
    {"attention_grad", "8 sequences of 128, 8 heads, R 128, Dr 32", bench_attention_grad,
     2.0 * T *H *(SEQ + 1) / 2 * (5 * R + 3 * DR), 0},
    {"linear_logprob", "1024 x 512 x 8192", bench_logprob, 2.0 * T *C *V, 0},
    {"linear_logprob_grad", "1024 x 512 x 8192", bench_logprob_grad, 6.0 * T *C *V, 0},
    {"rmsnorm", "16384 x 512", bench_rmsnorm, 0, 8.0 * ROWS *C},
    {"swiglu", "16384 x 1024", bench_swiglu, 0, 12.0 * ROWS *C},
    {"adamw", "16,777,216 parameters", bench_adamw, 0, 28.0 * PARAMETERS},
};

static void print_case(const struct bench_case *c, const struct bench_limit *limit, double seconds,
                       bool json)
{
    const double value = (c->flops > 0 ? c->flops : c->bytes) / seconds / 1e9;
    const double most = (c->flops > 0 ? limit->flops : limit->bytes) / 1e9;
    const char *unit = c->flops > 0 ? "GFLOP/s" : "GB/s";
    if (!json) {
        printf("%-22s  %-44s  %8.1f %-7s  %3.0f %%\n", c->name, c->shape, value, unit,
               100 * value / most);
        return;
    }
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    char name[128];
    snprintf(name, sizeof name, "%s: %s", c->name, c->shape);
    json_begin_object(&w);
    json_put_key(&w, "bench");
    json_put_string(&w, "kernels");
    json_put_key(&w, "case");
    json_put_string(&w, name);
    json_put_key(&w, "metric");
    json_put_string(&w, c->flops > 0 ? "arithmetic" : "memory");
    json_put_key(&w, "value");
    json_put_double(&w, value);
    json_put_key(&w, "unit");
    json_put_string(&w, unit);
    json_put_key(&w, "limit");
    json_put_double(&w, most);
    json_put_key(&w, "share");
    json_put_double(&w, value / most);
    json_end_object(&w);
    printf("%s\n", text.data);
    strbuf_free(&text);
}

static int bench_kernels(struct team *team, struct device *dev, bool json)
{
    struct bench_limit limit;
    bench_limit_measure(&limit, team, dev->isa);
    if (!json)
        printf("%d threads, instruction set %s; at most %.0f GFLOP/s and %.1f GB/s read\n",
               team_size(team), device_isa_name(dev->isa), limit.flops / 1e9, limit.bytes / 1e9);
    int rc = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases && rc == 0; i++) {
        struct bench b = {.dev = dev};
        rc = cases[i].run(&b);
        arena_free(&b.memory);
        if (rc == 0)
            print_case(&cases[i], &limit, b.best, json);
    }
    return rc;
}

int verb_bench(int argc, char **argv)
{
    const char *what = NULL, *isa_name = NULL, *only = NULL;
    int threads = 0;
    bool json = false, done = false;
    const struct option options[] = {
        {"WHAT", NULL, OPTION_STRING, &what, 0, 0, true, "kernels or sandbox"},
        {"--threads", "N", OPTION_INT, &threads, 0, 4096, false,
         "of the kernels, or slots of the sandbox; 0: as many as this process may use (0)"},
        {"--isa", "NAME", OPTION_STRING, &isa_name, 0, 0, false,
         "reference, avx2 or avx512; default: the best of this CPU"},
        {"--only", "TEXT", OPTION_STRING, &only, 0, 0, false,
         "of the sandbox: cases whose name holds it"},
        {"--json", NULL, OPTION_FLAG, &json, 0, 0, false, "one JSON object a case"},
        {0}};
    int rc = options_parse(options, argc, argv,
                           "Speed on this machine, with the share of what it does at most.", &done);
    if (rc != 0 || done)
        return rc;
    if (strcmp(what, "sandbox") == 0)
        return bench_sandbox(threads, only, json);
    if (strcmp(what, "kernels") != 0)
        return err_set(ERR_CONFIG, "bench: unknown bench \"%s\"; there are: kernels, sandbox",
                       what);
    int isa = DEVICE_BEST;
    for (int i = DEVICE_REFERENCE; isa_name && i < DEVICE_BEST; i++)
        if (!strcmp(device_isa_name((enum device_isa)i), isa_name))
            isa = i;
    if (isa_name && isa == DEVICE_BEST)
        return err_set(ERR_CONFIG, "bench: unknown instruction set \"%s\"", isa_name);
    struct team *team = NULL;
    struct device *dev = NULL;
    rc = team_open(&team, threads);
    if (rc == 0)
        rc = device_open(&dev, team, (enum device_isa)isa);
    if (rc == 0)
        rc = bench_kernels(team, dev, json);
    device_free(&dev);
    team_close(&team);
    return rc;
}
