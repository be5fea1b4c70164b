// SPDX-License-Identifier: Apache-2.0
// One optimiser step of the "small" shape (58 M parameters, 25 M active), and its forward pass
// alone: 4,096 tokens in 16 sequences of 256, four sequences at a time, every token but a
// sequence's first a target. Then the step of GRPO: these sequences as two groups of 8 samples of
// 128 tokens after a shared prompt of 128, a group at a time, the samples' tokens being targets.
// Prints tokens a second, a prompt's counted with each of its samples, the median of REPEATS; and,
// before the groups, the largest resident memory of the process, with what it was before there was
// a model. step.py does the same with PyTorch.
//
// usage: peer_step float32|bfloat16 [THREADS [recompute]]
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/philox.h"
#include "base/team.h"
#include "policy/optimizer.h"
#include "policy/pack.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { SEQUENCES = 16, LEN = 256, PACKED = 4, REPEATS = 7 };
enum { SAMPLES = 8, PROMPT = 128 }; // of a group

static const struct arch small = {
    .kind = ARCH_DEEPSEEK_V3,
    .V = 2048,
    .C = 512,
    .L = 8,
    .H = 8,
    .R = 128,
    .Dn = 64,
    .Dr = 32,
    .Dv = 64,
    .dense_width = 1536,
    .dense_layers = 1,
    .E = 16,
    .K = 4,
    .S = 1,
    .F = 256,
    .n_group = 1,
    .topk_group = 1,
    .scoring = MOE_SIGMOID,
    .group_rank = MOE_GROUP_TOP2,
    .route_bias = true,
    .route_normalise = true,
    .route_scale = 1.0,
    .norm_eps = 1e-6,
    .rope_theta = 10000.0,
    .init_range = 0.02,
    .max_positions = 1024,
    .bos_id = 0,
    .eos_id = 1,
    .pad_id = 2,
};

struct work {
    struct policy *p;
    struct optimizer *optimizer;
    struct pack packed[SEQUENCES / PACKED], groups[SEQUENCES / SAMPLES];
    const struct pack *packs; // those to run
    int num_packs;
    float *logprob, *dlogprob; // [targets of a pack]
};

static int forward(struct work *w, bool train)
{
    int rc = 0;
    for (int i = 0; i < w->num_packs && rc == 0; i++) {
        const struct policy_batch batch = pack_batch(&w->packs[i]);
        rc = policy_forward(w->p, &batch, train, w->logprob, NULL);
        if (rc == 0 && train)
            rc = policy_backward(w->p, &batch, w->dlogprob, NULL);
    }
    return rc;
}

static int pass(struct work *w) { return forward(w, false); }

static int step(struct work *w)
{
    double norm;
    int rc = policy_grad_zero(w->p);
    rc = rc ? rc : forward(w, true);
    return rc ? rc : optimizer_update(w->optimizer, w->p, 1e-4, &norm);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(struct work *w, int (*run)(struct work *), const char *name)
{
    double seconds[REPEATS];
    int rc = run(w);
    for (int i = 0; i < REPEATS && rc == 0; i++) {
        const double start = log_clock();
        rc = run(w);
        seconds[i] = log_clock() - start;
    }
    if (rc != 0)
        return rc;
    qsort(seconds, REPEATS, sizeof *seconds, compare_doubles);
    printf("%-8s %8.0f tokens/s  (%.3f s, best %.3f s)\n", name,
           SEQUENCES * LEN / seconds[REPEATS / 2], seconds[REPEATS / 2], seconds[0]);
    fflush(stdout);
    return 0;
}

static void fill(struct work *w)
{
    struct philox_stream random = philox_stream(1, 0);
    for (int i = 0; i < SEQUENCES; i++) {
        int tokens[LEN];
        for (int t = 0; t < LEN; t++)
            tokens[t] = 3 + (int)philox_below(&random, (uint32_t)small.V - 3);
        pack_completion(&w->packed[i / PACKED], tokens, 1, tokens + 1, LEN - 1, 1.0f);
        struct pack *group = &w->groups[i / SAMPLES];
        if (i % SAMPLES == 0)
            pack_sequence(group, tokens, PROMPT, NULL, 0);
        pack_shared(group, tokens + PROMPT, LEN - PROMPT, 1.0f);
    }
    const size_t targets = SAMPLES * LEN; // more than any pack has
    w->logprob = mem_floats(targets);
    w->dlogprob = mem_floats(targets);
    for (size_t i = 0; i < targets; i++)
        w->dlogprob[i] = -1.0f / (SEQUENCES * LEN);
}

static double peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

int main(int argc, char **argv)
{
    const struct optimizer_settings settings = {.learning_rate = 1e-4,
                                                .adam_beta1 = 0.9,
                                                .adam_beta2 = 0.999,
                                                .adam_epsilon = 1e-8,
                                                .weight_decay = 0.01};
    const bool bf16 = argc > 1 && strcmp(argv[1], "bfloat16") == 0;
    const bool recompute = argc == 4 && strcmp(argv[3], "recompute") == 0;
    if (argc < 2 || argc > 4 || (argc == 4 && !recompute) ||
        (!bf16 && strcmp(argv[1], "float32") != 0)) {
        fprintf(stderr, "usage: peer_step float32|bfloat16 [THREADS [recompute]]\n");
        return 2;
    }
    const double before = peak_mib();
    struct team *team = NULL;
    struct device *dev = NULL;
    struct work w = {0};
    fill(&w);
    w.packs = w.packed;
    w.num_packs = SEQUENCES / PACKED;
    int rc = team_open(&team, argc > 2 ? atoi(argv[2]) : 0);
    rc = rc ? rc : device_open(&dev, team, DEVICE_BEST);
    rc = rc ? rc : policy_create(&w.p, dev, &small, bf16 ? DTYPE_BF16 : DTYPE_F32, 1);
    if (rc == 0) {
        printf("%s, %s, %d threads%s\n", argv[1], dev->name, team_size(team),
               recompute ? ", recomputing" : "");
        w.p->recompute = recompute;
    }
    rc = rc ? rc : measure(&w, pass, "forward");
    rc = rc ? rc : policy_train_begin(w.p);
    rc = rc ? rc : optimizer_open(&w.optimizer, w.p, &settings);
    rc = rc ? rc : policy_weights_changed(w.p);
    rc = rc ? rc : measure(&w, step, "update");
    if (rc == 0)
        printf("memory   %8.0f MiB at most, %.0f before the model\n", peak_mib(), before);
    w.packs = w.groups;
    w.num_packs = SEQUENCES / SAMPLES;
    rc = rc ? rc : measure(&w, step, "groups");
    if (rc != 0)
        fprintf(stderr, "peer_step: %s\n", err_message());
    for (int i = 0; i < SEQUENCES / PACKED; i++)
        pack_free(&w.packed[i]);
    for (int i = 0; i < SEQUENCES / SAMPLES; i++)
        pack_free(&w.groups[i]);
    free(w.logprob);
    free(w.dlogprob);
    optimizer_free(&w.optimizer);
    policy_free(&w.p);
    device_free(&dev);
    team_close(&team);
    return -rc;
}
