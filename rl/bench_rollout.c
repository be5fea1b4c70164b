// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_passes.h"

#include "base/error.h"
#include "rl/bench_model.h"
#include "rl/bench_prompts.h"
#include "rollout/rollout.h"

#include <stdio.h>

enum { PROMPT = 128, NEW = 64, RUNS = 3 };

struct times {
    double prefill, decode; // seconds
};

static int run_once(struct times *out, struct rollout_engine *e, const struct bench_prompts *p)
{
    const struct rollout_sample *samples;
    struct rollout_stats stats;
    int count;
    const int rc = rollout_run(&samples, &count, e, 0, p->requests, p->count, NULL, NULL);
    if (rc != 0)
        return rc;
    rollout_get_stats(e, &stats);
    out->prefill = stats.prefill_seconds;
    out->decode = stats.decode_seconds;
    return 0;
}

static double least(const double *x)
{
    double least = x[0];
    for (int i = 1; i < RUNS; i++)
        least = x[i] < least ? x[i] : least;
    return least;
}

static void print_times(const struct bench *b, const struct arch *a,
                        const struct bench_generation *g, const struct times *best)
{
    const int B = g->batch, P = g->prompt, prompts = B / g->group;
    const double prompt = (double)prompts * P, steps = NEW - 1; // the prompt gives the first token
    const double drawn = B * steps, keys = P + NEW / 2.0;
    const int size = b->type == DTYPE_BF16 ? 2 : 4;
    const double prefill = bench_model_flops(a, prompt, prompt * (P + 1) / 2.0, prompts);
    const double decode = bench_model_flops(a, drawn, drawn * keys, drawn);
    const double moved = steps * bench_model_step_bytes(a, B, (int)keys, size);
    char name[96];
    snprintf(name, sizeof name, "prefill, %d prompts of %d", prompts, P);
    bench_print_rate(b, "rollout", name, prompt, prefill, 0, best->prefill);
    snprintf(name, sizeof name, "decode, %d sequences%s, %d new tokens", B,
             g->group > 1 ? " in groups" : "", NEW);
    bench_print_rate(b, "rollout", name, drawn, decode, moved, best->decode);
    snprintf(name, sizeof name, "completions, prompts%s included", g->group > 1 ? ", shared," : "");
    bench_print_rate(b, "rollout", name, (double)B * NEW, prefill + decode, 0,
                     best->prefill + best->decode);
}

static int bench_batch(const struct bench *b, struct policy *policy,
                       const struct bench_generation *g)
{
    struct bench_prompts prompts;
    struct rollout_engine *engine = NULL;
    const struct rollout_options options = {.seed = 1, .max_batch = g->batch};
    double prefill[RUNS], decode[RUNS];
    struct times t;
    bench_prompts_open(&prompts, policy->arch.V, g->batch / g->group, g->group, g->prompt, NEW);
    int rc = rollout_open(&engine, policy, &options);
    if (rc == 0)
        rc = run_once(&t, engine, &prompts); // warms up
    for (int i = 0; i < RUNS && rc == 0; i++) {
        rc = run_once(&t, engine, &prompts);
        prefill[i] = t.prefill;
        decode[i] = t.decode;
    }
    if (rc == 0)
        print_times(b, &policy->arch, g, &(struct times){least(prefill), least(decode)});
    rollout_free(&engine);
    bench_prompts_close(&prompts);
    return rc;
}

int bench_rollout(const struct bench *b, const struct arch *arch,
                  const struct bench_generation *generation)
{
    static const int batches[] = {1, 8, 32, 64, 256};
    const int all = (int)(sizeof batches / sizeof *batches) - !b->gpu; // the last on a GPU alone
    struct bench_generation g = *generation;
    struct policy *policy = NULL;
    g.prompt = g.prompt > 0 ? g.prompt : PROMPT;
    g.group = g.group > 0 ? g.group : 1;
    if (g.batch % g.group != 0 || (g.batch == 0 && g.group > 1))
        return err_set(ERR_CONFIG, "bench: --batch %d is not a number of groups of %d", g.batch,
                       g.group);
    int rc = policy_create(&policy, b->dev, arch, b->type, 1);
    const int count = g.batch > 0 ? 1 : all;
    for (int i = 0; i < count && rc == 0; i++) {
        g.batch = generation->batch > 0 ? generation->batch : batches[i];
        rc = bench_batch(b, policy, &g);
    }
    policy_free(&policy);
    return rc;
}
