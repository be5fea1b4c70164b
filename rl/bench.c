// SPDX-License-Identifier: Apache-2.0
#include "rl/bench.h"

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "kernels/block.h"
#include "kernels/device_blas.h"
#include "kernels/device_cuda.h"
#include "rl/bench_limit.h"
#include "rl/bench_memory.h"
#include "rl/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- timing

enum { MOST_ROUNDS = 64 };
static const double min_seconds = 0.2;

static int time_round(double *seconds, const struct bench *b,
                      int (*call)(struct device *dev, const void *args), const void *args,
                      int calls)
{
    const double start = log_clock();
    int rc = 0;
    for (int i = 0; i < calls && rc == 0; i++)
        rc = call(b->dev, args);
    if (rc == 0)
        rc = b->dev->memory->sync(b->dev);
    *seconds = (log_clock() - start) / calls;
    return rc;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int bench_time(double *seconds, const struct bench *b,
               int (*call)(struct device *dev, const void *args), const void *args)
{
    enum { FEWEST = 5 };
    const double round_seconds = b->gpu ? 5e-3 : 0;
    double times[MOST_ROUNDS], once = 0;
    int rc = time_round(&once, b, call, args, 1);
    if (rc == 0)
        rc = time_round(&once, b, call, args, 1);
    const int calls = (int)(round_seconds / (once > 1e-6 ? once : 1e-6)) + 1;
    int count = 0;
    double best = once;
    for (const double start = log_clock();
         rc == 0 && (count < FEWEST || log_clock() - start < min_seconds); count++) {
        rc = time_round(&once, b, call, args, calls);
        times[count % MOST_ROUNDS] = once;
        best = once < best ? once : best;
    }
    if (rc != 0)
        return rc;
    const size_t kept = (size_t)(count < MOST_ROUNDS ? count : MOST_ROUNDS);
    qsort(times, kept, sizeof *times, ascending);
    *seconds = b->gpu ? times[kept / 2] : best;
    return 0;
}

// ---- limits of a GPU

struct copy_args {
    void *to;
    const void *from;
    size_t bytes;
};

static int call_copy(struct device *dev, const void *args)
{
    const struct copy_args *a = args;
    return dev->memory->copy(dev, a->to, a->from, a->bytes);
}

struct product_args {
    struct device_blas *blas;
    const void *a, *b;
    void *c;
};

static int call_product(struct device *dev, const void *args)
{
    (void)dev;
    const struct product_args *a = args;
    return device_blas_product(a->blas, a->a, a->b, a->c);
}

static int measure_copy(struct bench *b)
{
    const size_t bytes = (size_t)2 << 30; // far more than a cache holds
    struct bench_memory m = {.dev = b->dev};
    struct copy_args args = {.bytes = bytes};
    double seconds = 0;
    args.from = bench_numbers(&m, DTYPE_F32, bytes / sizeof(float), 0);
    args.to = bench_numbers(&m, DTYPE_F32, bytes / sizeof(float), 0);
    int rc = m.rc;
    if (rc == 0)
        rc = bench_time(&seconds, b, call_copy, &args);
    if (rc == 0)
        b->limits.bytes = 2.0 * (double)bytes / seconds;
    bench_memory_free(&m);
    return rc;
}

// Without the library the limit is not known, and a line says why.
static int measure_product(struct bench *b)
{
    const int n = b->type == DTYPE_BF16 ? 8192 : 4096; // large enough to be at its best
    const size_t count = (size_t)n * (size_t)n;
    struct bench_memory m = {.dev = b->dev};
    struct product_args args = {0};
    double seconds = 0;
    int rc = device_blas_open(&args.blas, b->dev, n, n, n, b->type);
    if (rc != 0) {
        log_line(LOG_WARN, "no limit of arithmetic: %s", err_message());
        return 0;
    }
    args.a = bench_numbers(&m, b->type, count, 0);
    args.b = bench_numbers(&m, b->type, count, 0);
    args.c = bench_numbers(&m, b->type, count, 0);
    rc = m.rc;
    if (rc == 0)
        rc = bench_time(&seconds, b, call_product, &args);
    if (rc == 0)
        b->limits.flops = 2.0 * n * n * n / seconds;
    bench_memory_free(&m);
    device_blas_close(&args.blas);
    return rc;
}

static int measure_limits(struct bench *b)
{
    if (!b->gpu) {
        const long own = sysconf(_SC_LEVEL2_CACHE_SIZE), cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
        struct bench_limit limit;
        bench_limit_measure(&limit, b->team, b->dev->isa);
        b->limits = (struct bench_limits){
            .flops = b->type == DTYPE_BF16 ? limit.flops_bf16 : limit.flops, .bytes = limit.bytes};
        b->limits.own = own > 0 ? (double)own * team_size(b->team) : 0;
        b->limits.cache = cache > 0 ? (double)cache : 0;
        return 0;
    }
    struct device_cuda_info info;
    int rc = device_cuda_info(&info, 0);
    if (rc == 0)
        rc = measure_copy(b);
    if (rc == 0)
        rc = measure_product(b);
    b->limits.own = b->limits.cache = rc == 0 ? (double)info.cache : 0;
    return rc;
}

// ---- opening

static int choose_type(struct bench *b, const char *name)
{
    b->type = b->gpu ? DTYPE_BF16 : DTYPE_F32;
    return name == NULL ? 0 : session_dtype(&b->type, name);
}

static int open_device(struct bench *b, const char *isa_name)
{
    int isa = DEVICE_BEST;
    for (int i = DEVICE_REFERENCE; isa_name && i < DEVICE_BEST; i++)
        if (strcmp(device_isa_name((enum device_isa)i), isa_name) == 0)
            isa = i;
    if (isa_name && isa == DEVICE_BEST)
        return err_set(ERR_CONFIG, "bench: unknown instruction set \"%s\"", isa_name);
    if (isa_name && b->gpu)
        return err_set(ERR_CONFIG, "bench: --isa is of the CPU; leave it or --gpu out");
    return b->gpu ? device_open_cuda(&b->dev, b->team, 0)
                  : device_open(&b->dev, b->team, (enum device_isa)isa);
}

static void print_limits(const struct bench *b)
{
    printf("%s, %s, %d threads; at most ", b->dev->name, session_dtype_name(b->type),
           team_size(b->team));
    if (b->limits.flops > 0)
        printf("%.0f GFLOP/s and ", b->limits.flops / 1e9);
    printf("%.1f GB/s %s\n", b->limits.bytes / 1e9, b->gpu ? "copied" : "read");
}

int bench_open(struct bench *out, const struct bench_options *options)
{
    *out = (struct bench){.gpu = options->gpu, .json = options->json};
    int rc = choose_type(out, options->type);
    if (rc == 0)
        rc = team_open(&out->team, options->threads);
    if (rc == 0)
        rc = open_device(out, options->isa);
    if (rc == 0)
        rc = measure_limits(out);
    if (rc == 0 && !out->json)
        print_limits(out);
    return rc;
}

void bench_close(struct bench *b)
{
    device_free(&b->dev);
    team_close(&b->team);
}

// ---- printing

static void put_string(struct json_writer *w, const char *key, const char *value)
{
    json_put_key(w, key);
    json_put_string(w, value);
}

static void put_double(struct json_writer *w, const char *key, double value)
{
    json_put_key(w, key);
    json_put_double(w, value);
}

void bench_print_value(const struct bench *b, const char *bench, const char *name,
                       const char *metric, double value, const char *unit, double limit)
{
    if (!b->json) {
        printf("%-72s  %-10s  %10.1f %-8s", name, metric, value, unit);
        if (limit > 0)
            printf("  %3.0f %%", 100 * value / limit);
        printf("\n");
        fflush(stdout);
        return;
    }
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    put_string(&w, "bench", bench);
    put_string(&w, "case", name);
    put_string(&w, "metric", metric);
    put_double(&w, "value", value);
    put_string(&w, "unit", unit);
    if (limit > 0) {
        put_double(&w, "limit", limit);
        put_double(&w, "share", value / limit);
    }
    json_end_object(&w);
    printf("%s\n", text.data);
    fflush(stdout);
    strbuf_free(&text);
}

// Seconds that the work takes at the limits; 0: not known.
static double floor_of(const struct bench *b, double flops, double bytes, bool *is_memory)
{
    const struct bench_limits *l = &b->limits;
    // What is small may stay in a cache between calls, whose rate is not known. The rate of a CPU's
    // memory is that of arrays which a cache shared with other programs may hold.
    const double moved = bytes < 2 * (flops > 0 ? l->cache : l->own) ? 0 : bytes / l->bytes;
    const double computed = l->flops > 0 ? flops / l->flops : 0;
    *is_memory = flops == 0 || moved > computed;
    if (flops > 0 && l->flops == 0)
        return 0;
    return *is_memory ? moved : computed;
}

void bench_print(const struct bench *b, const char *bench, const char *name, double flops,
                 double bytes, double seconds)
{
    bool is_memory;
    const double least = floor_of(b, flops, bytes, &is_memory);
    const double value = (is_memory ? bytes : flops) / seconds / 1e9;
    bench_print_value(b, bench, name, is_memory ? "memory" : "arithmetic", value,
                      is_memory ? "GB/s" : "GFLOP/s", least > 0 ? value * seconds / least : 0);
}

void bench_print_rate(const struct bench *b, const char *bench, const char *name, double tokens,
                      double flops, double bytes, double seconds)
{
    bool is_memory;
    const double least = floor_of(b, flops, bytes, &is_memory);
    bench_print_value(b, bench, name, "tokens", tokens / seconds, "tokens/s",
                      least > 0 ? tokens / least : 0);
}
