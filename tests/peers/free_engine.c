// SPDX-License-Identifier: Apache-2.0
// What it costs a whole engine that a row has the same bits in every batch: the generation that
// `gradus bench rollout` times, with the product's kernels and with a table that is free of the
// rule (free_table.h), on the same model and the same cache in one process, runs of the one and of
// the other taking turns. Tokens are drawn once, by ours, and given from then on, so that all runs
// compute the same. Prints the median tokens a second of both and of their ratios; then how far
// log-probabilities are apart: ours from those of the model's own forward pass (they must be its
// bits), and the free table's from ours (on average by no more than bfloat16's are from float32's,
// or by 1e-4 in float32, where a token that meets another expert moves by 0.01).
//
// usage: peer_free_engine tiny|small|medium float32|bfloat16 BATCH [PAIRS [choices]]
#include "base/error.h"
#include "base/mem.h"
#include "base/team.h"
#include "policy/pack.h"
#include "rl/bench_model.h"
#include "rl/bench_prompts.h"
#include "tests/peers/free_choice.h"
#include "tests/peers/free_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PROMPT = 128, NEW = 64 };

#define TRYING_SECONDS 20.0 // of a phase, at most

struct peer {
    struct device *dev;
    struct policy *policy, *exact; // exact: the same weights in float32
    struct rollout_engine *engine;
    struct bench_prompts prompts;
    const struct kernels *ours;
    const struct rollout_sample *samples; // of the last run
    struct rollout_stats stats;
};

// The tokens that were drawn, in the order of the draws. The table's slot has no argument for it.
static struct script {
    const struct kernels *ours;
    int *tokens;
    size_t next;
    bool recording;
} script;

static int sample_scripted(struct device *dev, const struct sample_args *a)
{
    const size_t B = (size_t)a->B;
    struct sample_row *rows = mem_alloc(B * sizeof *rows);
    memcpy(rows, a->rows, B * sizeof *rows);
    for (size_t i = 0; i < B && !script.recording; i++) {
        rows[i].given = true;
        rows[i].token = script.tokens[script.next + i];
    }
    struct sample_args given = *a;
    given.rows = rows;
    const int rc = script.ours->sample(dev, &given);
    if (script.recording)
        memcpy(&script.tokens[script.next], a->token, B * sizeof *a->token);
    script.next += B;
    free(rows);
    return rc;
}

static int generate(struct peer *p, const struct kernels *k)
{
    struct kernels scripted = *k;
    int count;
    scripted.sample = sample_scripted;
    script.next = 0;
    p->dev->k = &scripted;
    const int rc = rollout_run(&p->samples, &count, p->engine, 0, p->prompts.requests,
                               p->prompts.count, NULL, NULL);
    p->dev->k = p->ours;
    if (rc == 0)
        rollout_get_stats(p->engine, &p->stats);
    return rc;
}

static int record(struct peer *p)
{
    script.ours = p->ours;
    script.tokens = mem_array0((size_t)p->prompts.count * NEW, sizeof *script.tokens);
    script.recording = true;
    const int rc = generate(p, p->ours);
    script.recording = false;
    return rc;
}

// Until a run has nothing more to try, in each phase; then one that has all it needs.
static int choose(struct peer *p)
{
    int rc = 0;
    for (int phase = FREE_TRY_PARTS; phase < FREE_CHOSEN && rc == 0; phase++) {
        const double start = free_clock();
        long before = -1;
        free_table_begin((enum free_phase)phase);
        while (rc == 0 && before != free_table_tries() + free_table_created() &&
               free_clock() - start < TRYING_SECONDS) {
            before = free_table_tries() + free_table_created();
            rc = generate(p, free_table_kernels());
        }
    }
    free_table_begin(FREE_CHOSEN);
    return rc ? rc : generate(p, free_table_kernels());
}

// ---- times

struct times {
    double *prefill, *decode; // [pairs] tokens a second, or ratios
};

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare_doubles);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static void print_row(const char *name, double *ours, double *free, double *ratio, int pairs)
{
    const double r = median(ratio, pairs);
    printf("%-8s ours %9.1f  free %9.1f tokens/s  free / ours %.3f  (%.3f to %.3f)\n", name,
           median(ours, pairs), median(free, pairs), r, ratio[0], ratio[pairs - 1]);
}

// Seconds of all CPUs that any program took, and that this one did.
static void read_busy(double *all, double *own)
{
    unsigned long long user = 0, nice = 0, system = 0;
    struct rusage r;
    FILE *f = fopen("/proc/stat", "r");
    if (f && fscanf(f, "cpu %llu %llu %llu", &user, &nice, &system) != 3)
        user = nice = system = 0;
    if (f)
        fclose(f);
    getrusage(RUSAGE_SELF, &r);
    *all = (double)(user + nice + system) / (double)sysconf(_SC_CLK_TCK);
    *own = (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static int compare(struct peer *p, int pairs)
{
    struct times t[3]; // ours, free, ratios
    for (int i = 0; i < 3; i++) {
        t[i].prefill = mem_array0((size_t)pairs, sizeof(double));
        t[i].decode = mem_array0((size_t)pairs, sizeof(double));
    }
    const struct kernels *tables[] = {p->ours, free_table_kernels()};
    const long created = free_table_created();
    double all[2], own[2];
    read_busy(&all[0], &own[0]);
    int rc = generate(p, p->ours);
    for (int i = 0; i < pairs && rc == 0; i++) {
        for (int j = 0; j < 2 && rc == 0; j++) {
            const int side = (i + j) % 2;
            rc = generate(p, tables[side]);
            t[side].prefill[i] = p->prompts.count * PROMPT / p->stats.prefill_seconds;
            t[side].decode[i] = p->prompts.count * (NEW - 1) / p->stats.decode_seconds;
        }
        t[2].prefill[i] = t[1].prefill[i] / t[0].prefill[i];
        t[2].decode[i] = t[1].decode[i] / t[0].decode[i];
    }
    if (rc == 0) {
        print_row("prefill", t[0].prefill, t[1].prefill, t[2].prefill, pairs);
        print_row("decode", t[0].decode, t[1].decode, t[2].decode, pairs);
        read_busy(&all[1], &own[1]);
        printf("other programs took %.1f%% of what this one did of the CPUs\n",
               100 * (all[1] - all[0] - own[1] + own[0]) / (own[1] - own[0]));
        if (free_table_created() != created)
            printf("%ld primitives were made while it was timed\n", free_table_created() - created);
    }
    for (int i = 0; i < 3; i++) {
        free(t[i].prefill);
        free(t[i].decode);
    }
    return rc;
}

// ---- the same work

struct distance {
    double mean, most; // nats a token
};

static void add_distance(struct distance *d, const float *x, const float *y, int n, int of)
{
    for (int i = 0; i < n; i++) {
        const double apart = fabs((double)x[i] - (double)y[i]);
        d->mean += apart / of;
        d->most = apart > d->most ? apart : d->most;
    }
}

// Of the log-probabilities of the last run's samples from those of a forward pass.
static int measure(struct distance *out, const struct peer *p, struct policy *policy)
{
    struct pack pack = {0};
    float logprob[NEW];
    int rc = 0;
    for (int i = 0; i < p->prompts.count && rc == 0; i++) {
        const struct rollout_sample *s = &p->samples[i];
        pack_clear(&pack);
        pack_completion(&pack, p->prompts.requests[s->request].prompt, PROMPT, s->tokens, s->len,
                        1.0f);
        const struct policy_batch batch = pack_batch(&pack);
        rc = policy_forward(policy, &batch, false, logprob, NULL);
        if (rc == 0)
            add_distance(out, s->logprob, logprob, s->len, p->prompts.count * NEW);
    }
    pack_free(&pack);
    return rc;
}

static int check(struct peer *p, bool *same_work)
{
    const int count = p->prompts.count;
    struct distance own = {0}, apart = {0}, rounding = {.mean = p->exact ? 0 : 1e-4};
    float *ours = mem_floats((size_t)count * NEW);
    int rc = generate(p, p->ours);
    rc = rc ? rc : measure(&own, p, p->policy);
    if (rc == 0 && p->exact)
        rc = measure(&rounding, p, p->exact);
    for (int i = 0; i < count && rc == 0; i++)
        memcpy(ours + (size_t)i * NEW, p->samples[i].logprob, NEW * sizeof *ours);
    rc = rc ? rc : generate(p, free_table_kernels());
    for (int i = 0; i < count && rc == 0; i++)
        add_distance(&apart, p->samples[i].logprob, ours + (size_t)i * NEW, NEW, count * NEW);
    free(ours);
    if (rc != 0)
        return rc;
    *same_work = own.most == 0 && apart.mean <= rounding.mean;
    printf("log-probabilities: ours %g from the forward pass; free from ours %.2g on average, %.2g "
           "at most; allowed %.2g on average: %s\n",
           own.most, apart.mean, apart.most, rounding.mean, *same_work ? "agree" : "DIFFER");
    return 0;
}

static int run(struct peer *p, const char *model, enum dtype type, int batch, int pairs, bool print)
{
    struct arch arch;
    struct team *team = NULL;
    const struct rollout_options options = {.seed = 1, .max_batch = batch};
    bool same_work = false;
    int rc = bench_model_arch(&arch, model);
    rc = rc ? rc : team_open(&team, 0);
    rc = rc ? rc : device_open(&p->dev, team, DEVICE_BEST);
    rc = rc ? rc : policy_create(&p->policy, p->dev, &arch, type, 1);
    if (rc == 0 && type == DTYPE_BF16)
        rc = policy_create(&p->exact, p->dev, &arch, DTYPE_F32, 1);
    rc = rc ? rc : rollout_open(&p->engine, p->policy, &options);
    if (rc == 0) {
        printf("%s, %s, %s, %d threads, %d sequences, %d pairs of runs\n", model,
               type == DTYPE_BF16 ? "bfloat16" : "float32", p->dev->name, team_size(team), batch,
               pairs);
        p->ours = p->dev->k;
        bench_prompts_open(&p->prompts, arch.V, batch, 1, PROMPT, NEW);
        if (free_table_open(p->dev) != 0)
            rc = err_set(ERR_ENV, "this CPU has no AVX-512");
    }
    if (rc == 0) {
        rc = record(p);
        rc = rc ? rc : choose(p);
        rc = rc ? rc : compare(p, pairs);
        rc = rc ? rc : check(p, &same_work);
        if (rc == 0 && print)
            free_table_print();
        free_table_close();
    }
    free(script.tokens);
    bench_prompts_close(&p->prompts);
    rollout_free(&p->engine);
    policy_free(&p->exact);
    policy_free(&p->policy);
    device_free(&p->dev);
    team_close(&team);
    return rc ? rc : same_work ? 0 : err_set(ERR_NUMERIC, "the two did different work");
}

int main(int argc, char **argv)
{
    struct peer p = {0};
    const bool bf16 = argc > 2 && strcmp(argv[2], "bfloat16") == 0;
    const int batch = argc > 3 ? atoi(argv[3]) : 0, pairs = argc > 4 ? atoi(argv[4]) : 5;
    const bool print = argc > 5 && strcmp(argv[5], "choices") == 0;
    if (batch < 1 || pairs < 1 || argc > 5 + print || (!bf16 && strcmp(argv[2], "float32") != 0)) {
        fprintf(stderr, "usage: peer_free_engine tiny|small|medium float32|bfloat16 BATCH [PAIRS "
                        "[choices]]\n");
        return 2;
    }
    const int rc = run(&p, argv[1], bf16 ? DTYPE_BF16 : DTYPE_F32, batch, pairs, print);
    if (rc != 0)
        fprintf(stderr, "peer_free_engine: %s\n", err_message());
    return -rc;
}
