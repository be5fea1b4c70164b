// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_passes.h"

#include "base/log.h"
#include "base/mem.h"
#include "policy/optimizer.h"
#include "policy/pack.h"
#include "rl/bench_model.h"
#include "rl/bench_prompts.h"
#include "rollout/rollout.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { SEQUENCE = 512, PROMPT = 128, RUNS = 3 };     // of the packed batch
enum { PROMPTS = 8, SAMPLES = 8, COMPLETION = 128 }; // of the step of GRPO and of groups

struct update {
    const struct bench *b;
    struct policy *policy;
    struct optimizer *optimizer;
    struct pack pack;
    float *logprob, *dlogprob; // [cap]
    int cap;
};

struct times {
    double forward, backward, optimizer, rollout;
};

static double total(const struct times *t)
{
    return t->forward + t->backward + t->optimizer + t->rollout;
}

static int open_update(struct update *u, const struct arch *arch)
{
    const struct optimizer_settings settings = {.learning_rate = 1e-5,
                                                .adam_beta1 = 0.9,
                                                .adam_beta2 = 0.95,
                                                .adam_epsilon = 1e-8,
                                                .max_grad_norm = 1};
    int rc = policy_create(&u->policy, u->b->dev, arch, u->b->type, 1);
    if (rc == 0)
        rc = policy_train_begin(u->policy);
    if (rc == 0)
        rc = optimizer_open(&u->optimizer, u->policy, &settings);
    return rc;
}

static void close_update(struct update *u)
{
    optimizer_free(&u->optimizer);
    policy_free(&u->policy);
    pack_free(&u->pack);
    free(u->logprob);
    free(u->dlogprob);
}

// Forward and backward pass of what is packed; the loss is minus the mean of advantage times
// log-probability over `scale` tokens.
static int pass(struct update *u, struct times *t, double scale)
{
    const struct policy_batch batch = pack_batch(&u->pack);
    const struct device *dev = u->b->dev;
    if (batch.num_targets > u->cap) {
        u->cap = batch.num_targets;
        u->logprob = mem_realloc(u->logprob, (size_t)u->cap * sizeof *u->logprob);
        u->dlogprob = mem_realloc(u->dlogprob, (size_t)u->cap * sizeof *u->dlogprob);
    }
    const double start = log_clock();
    int rc = policy_forward(u->policy, &batch, true, u->logprob, NULL);
    const double between = log_clock();
    for (int i = 0; i < batch.num_targets; i++)
        u->dlogprob[i] = (float)((i / COMPLETION % 2 ? 1 : -1) / scale);
    if (rc == 0)
        rc = policy_backward(u->policy, &batch, u->dlogprob, NULL);
    if (rc == 0)
        rc = dev->memory->sync(u->b->dev);
    t->forward += between - start;
    t->backward += log_clock() - between;
    return rc;
}

static int step(struct update *u, struct times *t)
{
    const double start = log_clock();
    double norm;
    int rc = optimizer_update(u->optimizer, u->policy, 1e-5, &norm);
    if (rc == 0)
        rc = policy_grad_zero(u->policy);
    if (rc == 0)
        rc = u->b->dev->memory->sync(u->b->dev);
    t->optimizer += log_clock() - start;
    return rc;
}

// An update from what is packed.
static int update(struct update *u, struct times *t)
{
    const int rc = pass(u, t, u->pack.num_targets);
    return rc == 0 ? step(u, t) : rc;
}

// Of the runs from 0 on; the first warms up.
static void keep_fastest(struct times *best, const struct times *t, int run)
{
    if (run == 1 || (run > 1 && total(t) < total(best)))
        *best = *t;
}

// ---- a packed batch

static void pack_random(struct pack *p, int V, int tokens)
{
    const int count = tokens / SEQUENCE > 0 ? tokens / SEQUENCE : 1;
    struct bench_prompts prompts;
    bench_prompts_open(&prompts, V, count, 1, SEQUENCE, 1);
    pack_clear(p);
    for (int i = 0; i < count; i++) {
        const int *s = prompts.requests[i].prompt;
        pack_completion(p, s, PROMPT, s + PROMPT, SEQUENCE - PROMPT, 1);
    }
    bench_prompts_close(&prompts);
}

// Operations of a pass over sequences of `len` tokens: its backward pass computes twice what the
// forward pass does.
static double training_flops(const struct arch *a, double tokens, int len, double targets)
{
    return 3 * bench_model_flops(a, tokens, tokens * (len + 1) / 2, targets);
}

static void print_batch(const struct update *u, const struct times *t)
{
    const struct arch *a = &u->policy->arch;
    const double T = u->pack.T, all = training_flops(a, T, SEQUENCE, u->pack.num_targets);
    const double moved = 28.0 * (double)u->policy->params.size;
    char name[96];
    bench_print(u->b, "update", "forward pass", all / 3, 0, t->forward);
    bench_print(u->b, "update", "backward pass", all * 2 / 3, 0, t->backward);
    bench_print(u->b, "update", "AdamW, norm and packing", 0, moved, t->optimizer);
    snprintf(name, sizeof name, "update, %d tokens in sequences of %d", u->pack.T, SEQUENCE);
    bench_print(u->b, "update", name, all, 0, total(t));
    bench_print_rate(u->b, "update", name, T, all, 0, total(t));
}

// The fastest of some updates, after one that warms up.
static int bench_batch(struct update *u, int tokens)
{
    struct times best = {0};
    int rc = 0;
    pack_random(&u->pack, u->policy->arch.V, tokens);
    for (int i = 0; i <= RUNS && rc == 0; i++) {
        struct times t = {0};
        rc = update(u, &t);
        keep_fastest(&best, &t, i);
    }
    if (rc == 0)
        print_batch(u, &best);
    return rc;
}

// ---- groups of samples that share a prompt

struct groups {
    int count, size; // groups, samples of each
    int prompt;      // tokens
};

// shared: a prompt is packed once, else with each of its samples.
static void pack_groups(struct pack *p, int V, const struct groups *g, bool shared)
{
    struct bench_prompts prompts;
    bench_prompts_open(&prompts, V, g->count, 1, g->prompt + g->size * COMPLETION, 1);
    pack_clear(p);
    for (int i = 0; i < g->count; i++) {
        const int *prompt = prompts.requests[i].prompt, *completion = prompt + g->prompt;
        if (shared)
            pack_sequence(p, prompt, g->prompt, NULL, 0);
        for (int j = 0; j < g->size; j++, completion += COMPLETION) {
            if (shared)
                pack_shared(p, completion, COMPLETION, 1);
            else
                pack_completion(p, prompt, g->prompt, completion, COMPLETION, 1);
        }
    }
    bench_prompts_close(&prompts);
}

// Operations of training on groups whose prompts are computed once.
static double groups_flops(const struct arch *a, const struct groups *g)
{
    const double prompt = g->prompt, drawn = (double)g->size * COMPLETION;
    const double pairs = prompt * (prompt + 1) / 2 + drawn * (prompt + (COMPLETION + 1) / 2.0);
    return 3 *
           bench_model_flops(a, g->count * (prompt + drawn), g->count * pairs, g->count * drawn);
}

// Tokens a second count a prompt with each of its samples both times.
static void print_groups(const struct update *u, const struct groups *g, const struct times *shared,
                         const struct times *repeated)
{
    const double tokens = (double)g->count * g->size * (g->prompt + COMPLETION);
    const double flops = groups_flops(&u->policy->arch, g);
    char name[96];
    snprintf(name, sizeof name, "update, %d x %d samples of %d + %d", g->count, g->size, g->prompt,
             COMPLETION);
    bench_print_rate(u->b, "update", name, tokens, flops, 0, total(shared));
    bench_print_value(u->b, "update", name, "repeated", tokens / total(repeated), "tokens/s", 0);
    bench_print_value(u->b, "update", name, "speed-up", 100 * total(repeated) / total(shared), "%",
                      0);
}

// Updates with prompts packed once and with each sample, in turn; the fastest of either.
static int bench_groups(struct update *u, int tokens, int size, int prompt)
{
    const int group = size * (prompt + COMPLETION);
    const struct groups g = {tokens / group > 0 ? tokens / group : 1, size, prompt};
    struct times best[2] = {0};
    int rc = 0;
    for (int i = 0; i < 2 * (RUNS + 1) && rc == 0; i++) {
        struct times t = {0};
        pack_groups(&u->pack, u->policy->arch.V, &g, /* shared= */ i % 2 == 0);
        rc = update(u, &t);
        keep_fastest(&best[i % 2], &t, i / 2);
    }
    if (rc == 0)
        print_groups(u, &g, &best[0], &best[1]);
    return rc;
}

// ---- a whole step

static int generate(struct update *u, struct times *t, struct rollout_engine *engine,
                    const struct bench_prompts *prompts, const struct rollout_sample **samples,
                    int *count)
{
    const double start = log_clock();
    const int rc = rollout_run(samples, count, engine, (uint64_t)u->optimizer->step,
                               prompts->requests, prompts->count, NULL, NULL);
    t->rollout += log_clock() - start;
    return rc;
}

static int learn(struct update *u, struct times *t, const struct bench_prompts *prompts,
                 const struct rollout_sample *samples, int count, int tokens)
{
    const double all = (double)count * COMPLETION;
    int rc = 0;
    pack_clear(&u->pack);
    for (int i = 0; i < count && rc == 0; i++) {
        const struct rollout_request *q = &prompts->requests[samples[i].request];
        if (u->pack.T == 0 || samples[i].index == 0)
            pack_sequence(&u->pack, q->prompt, q->prompt_len, NULL, 0);
        pack_shared(&u->pack, samples[i].tokens, samples[i].len, 1);
        if (i + 1 < count && u->pack.T + PROMPT + COMPLETION <= tokens)
            continue;
        rc = pass(u, t, all);
        pack_clear(&u->pack);
    }
    return rc == 0 ? step(u, t) : rc;
}

static void print_step(const struct update *u, const struct times *t)
{
    const struct arch *a = &u->policy->arch;
    const double drawn = (double)PROMPTS * SAMPLES * COMPLETION;
    const struct groups groups = {PROMPTS, SAMPLES, PROMPT};
    const double prompts =
        bench_model_flops(a, PROMPTS * PROMPT, PROMPTS * PROMPT * (PROMPT + 1) / 2.0, PROMPTS);
    const double decoding = bench_model_flops(a, drawn, drawn * (PROMPT + COMPLETION / 2.0), drawn);
    const double flops = prompts + decoding + groups_flops(a, &groups);
    char name[96];
    snprintf(name, sizeof name, "GRPO step, %d x %d samples of %d + %d", PROMPTS, SAMPLES, PROMPT,
             COMPLETION);
    bench_print_rate(u->b, "update", name, drawn, flops, 0, total(t));
    bench_print_value(u->b, "update", name, "rollout", t->rollout, "s", 0);
    bench_print_value(u->b, "update", name, "passes", t->forward + t->backward, "s", 0);
    bench_print_value(u->b, "update", name, "optimizer", t->optimizer, "s", 0);
}

static int bench_step(struct update *u, int tokens)
{
    struct bench_prompts prompts;
    struct rollout_engine *engine = NULL;
    const struct rollout_options options = {.seed = 1, .max_batch = PROMPTS * SAMPLES};
    struct times best = {0};
    bench_prompts_open(&prompts, u->policy->arch.V, PROMPTS, SAMPLES, PROMPT, COMPLETION);
    int rc = rollout_open(&engine, u->policy, &options);
    for (int i = 0; i <= RUNS && rc == 0; i++) {
        struct times t = {0};
        const struct rollout_sample *samples;
        int count;
        rc = generate(u, &t, engine, &prompts, &samples, &count);
        if (rc == 0)
            rc = learn(u, &t, &prompts, samples, count, tokens);
        keep_fastest(&best, &t, i);
    }
    if (rc == 0)
        print_step(u, &best);
    rollout_free(&engine);
    bench_prompts_close(&prompts);
    return rc;
}

// ---- memory

// Bytes in use, for they only grow while the bench runs: of the process, or of the GPU.
static int memory_used(double *out, const struct bench *b, size_t available_before)
{
    if (!b->gpu) {
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        *out = 1024.0 * (double)usage.ru_maxrss;
        return 0;
    }
    size_t available = 0;
    const int rc = b->dev->memory->available(b->dev, &available);
    *out = (double)available_before - (double)available;
    return rc;
}

int bench_update(const struct bench *b, const struct arch *arch, int tokens, int group)
{
    const int usual = 4096;
    const double gib = 1 << 30;
    struct update u = {.b = b};
    size_t available = 0;
    double used = 0;
    tokens = tokens > 0 ? tokens : usual;
    group = group > 0 ? group : SAMPLES;
    int rc = b->dev->memory->available(b->dev, &available);
    if (rc == 0)
        rc = open_update(&u, arch);
    if (rc == 0)
        rc = bench_batch(&u, tokens);
    if (rc == 0)
        rc = bench_groups(&u, tokens, group, PROMPT);
    if (rc == 0)
        rc = bench_groups(&u, tokens, group, 2 * PROMPT);
    if (rc == 0)
        rc = bench_step(&u, tokens);
    if (rc == 0)
        rc = memory_used(&used, b, available);
    if (rc == 0)
        bench_print_value(b, "update", "peak memory", "memory", used / gib, "GiB", 0);
    close_update(&u);
    return rc;
}
