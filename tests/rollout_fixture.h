// SPDX-License-Identifier: Apache-2.0
// What the tests of generation share: two small models, a mixture of requests, and copies of
// samples that outlive their run.
#ifndef TESTS_ROLLOUT_FIXTURE_H
#define TESTS_ROLLOUT_FIXTURE_H

#include "base/error.h"
#include "base/mem.h"
#include "base/philox.h"
#include "base/team.h"
#include "policy/policy.h"
#include "rollout/rollout.h"
#include "tests/devices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 97, POSITIONS = 320, NUM_REQUESTS = 22 };

// V2: no q-LoRA, YaRN, softmax gate, two shared experts. V3: q-LoRA, groups, sigmoid gate with
// bias. The others are that of V2 with grouped-query attention: a dense one with biases (Qwen2), or
// a mixture with norms over queries and keys (Qwen3-MoE).
static inline struct arch tiny_arch(enum arch_kind kind)
{
    struct arch a = {.kind = kind,
                     .V = VOCAB,
                     .C = 40,
                     .L = 3,
                     .H = 3,
                     .R = 24,
                     .Dn = 12,
                     .Dr = 8,
                     .Dv = 12,
                     .dense_width = 56,
                     .dense_layers = 1,
                     .E = 8,
                     .K = 3,
                     .S = 2,
                     .F = 20,
                     .n_group = 1,
                     .topk_group = 1,
                     .scoring = MOE_SOFTMAX,
                     .group_rank = MOE_GROUP_MAX,
                     .route_scale = 1,
                     .norm_eps = 1e-6,
                     .rope_theta = 10000,
                     .init_range = 0.25, // far from a uniform distribution over the tokens
                     .max_positions = POSITIONS,
                     .bos_id = 0,
                     .eos_id = 1,
                     .pad_id = -1};
    if (kind == ARCH_DEEPSEEK_V2) {
        a.yarn = (struct arch_yarn){.factor = 4,
                                    .beta_fast = 32,
                                    .beta_slow = 1,
                                    .mscale = 1,
                                    .mscale_all_dim = 0.7,
                                    .original_positions = 80,
                                    .truncate = true};
        return a;
    }
    if (kind != ARCH_DEEPSEEK_V3) {
        a.R = a.Dn = 0;
        a.Dr = a.Dv = 12;
        a.H = 4;
        a.Hkv = 2;
        a.S = 0;
        a.rope_halves = true;
        a.qk_norm = a.route_normalise = kind == ARCH_QWEN3_MOE;
        a.qkv_bias = kind == ARCH_QWEN2;
        a.dense_layers = kind == ARCH_QWEN2 ? a.L : 1;
        return a;
    }
    a.Rq = 20;
    a.S = 1;
    a.n_group = 4;
    a.topk_group = 2;
    a.scoring = MOE_SIGMOID;
    a.group_rank = MOE_GROUP_TOP2;
    a.route_bias = true;
    a.route_normalise = true;
    a.route_scale = 2.5;
    return a;
}

struct model {
    struct team *team;
    struct device *dev;
    struct policy *policy;
};

// device: of tests/devices.h.
static inline struct model open_model_as(enum dtype dtype, enum arch_kind kind, int device,
                                         int threads)
{
    struct model m = {0};
    const struct arch a = tiny_arch(kind);
    assert_int_equal(team_open(&m.team, threads), 0);
    assert_int_equal(test_device_open(&m.dev, m.team, device), 0);
    assert_int_equal(policy_create(&m.policy, m.dev, &a, dtype, 7), 0);
    return m;
}

static inline struct model open_model(enum arch_kind kind, int device, int threads)
{
    return open_model_as(DTYPE_F32, kind, device, threads);
}

static inline void close_model(struct model *m)
{
    policy_free(&m->policy);
    test_device_close(&m->dev);
    team_close(&m->team);
}

// ---- requests

struct mixture {
    int prompts[NUM_REQUESTS][POSITIONS];
    struct rollout_request requests[NUM_REQUESTS];
    int total; // samples
};

static const int stops[] = {1, 5, 60};

// Prompts that end on, before and after page borders, some with the beginning of the one before
// them; all kinds of sampling; ids are 100 + index.
static inline void make_mixture(struct mixture *m)
{
    static const int lengths[] = {1, KV_PAGE - 1, KV_PAGE, KV_PAGE + 1, 2 * KV_PAGE, 150, 200};
    static const double temperatures[] = {1, 0, 0.7, 1.3};
    struct philox_stream random = philox_stream(5, 5);
    m->total = 0;
    for (int r = 0; r < NUM_REQUESTS; r++) {
        const int len = r < 7 ? lengths[r] : 1 + (int)philox_below(&random, 90);
        for (int i = 0; i < len; i++)
            m->prompts[r][i] = (int)philox_below(&random, VOCAB);
        const int shared = r == 3 || r == 4 ? KV_PAGE : r == 5 || r == 6 ? 2 * KV_PAGE : 70;
        if (r % 5 == 3 || (r > 3 && r < 7))
            memcpy(m->prompts[r], m->prompts[r < 7 ? r - 1 : 5],
                   (size_t)(shared < len ? shared : len) * sizeof **m->prompts);
        struct rollout_request *q = &m->requests[r];
        *q = (struct rollout_request){.prompt = m->prompts[r],
                                      .prompt_len = len,
                                      .n = 1 + (int)philox_below(&random, 5),
                                      .id = 100 + (uint64_t)r};
        q->sampling = (struct rollout_sampling){
            .temperature = temperatures[r % 4],
            .top_k = r % 5 == 0 ? 20 : 0,
            .top_p = r % 3 == 0 ? 0.9 : 1,
            .min_p = r % 7 == 0 ? 0.02 : 0,
            .repetition_penalty = r % 6 == 4 ? 1.2 : 0,
            .max_tokens = r % 6 == 3 ? 1 : 2 + (int)philox_below(&random, 90),
            .stop_tokens = stops,
            .num_stop_tokens = r % 4};
        m->total += q->n;
    }
}

// The same requests in another order; back[r] is where request r of the result was before.
static inline void shuffle(struct mixture *out, const struct mixture *m, int back[NUM_REQUESTS],
                           uint64_t seed)
{
    struct philox_stream random = philox_stream(seed, 1);
    *out = *m;
    for (int r = 0; r < NUM_REQUESTS; r++)
        back[r] = r;
    for (int r = NUM_REQUESTS - 1; r > 0; r--) {
        const int o = (int)philox_below(&random, (uint32_t)r + 1), t = back[r];
        back[r] = back[o];
        back[o] = t;
    }
    for (int r = 0; r < NUM_REQUESTS; r++)
        out->requests[r] = m->requests[back[r]];
}

// A copy of results that outlives the engine's next run.
struct record {
    int count;
    struct rollout_sample *samples;
    struct arena arena;
};

static inline void *copy(struct arena *a, const void *data, size_t size)
{
    return memcpy(arena_push(a, size), data, size);
}

static inline void record_add(struct record *r, const struct rollout_sample *s, int count)
{
    r->samples = mem_realloc(r->samples, (size_t)(r->count + count) * sizeof *s);
    for (int i = 0; i < count; i++) {
        const size_t n = (size_t)s[i].len;
        struct rollout_sample *to = &r->samples[r->count++];
        *to = s[i];
        to->tokens = copy(&r->arena, s[i].tokens, n * sizeof *s->tokens);
        to->logprob = copy(&r->arena, s[i].logprob, n * sizeof *s->logprob);
        to->entropy = copy(&r->arena, s[i].entropy, n * sizeof *s->entropy);
        to->truncated = copy(&r->arena, s[i].truncated, n * sizeof *s->truncated);
    }
}

static inline void record_free(struct record *r)
{
    arena_free(&r->arena);
    free(r->samples);
}

static const struct rollout_options whole = {.seed = 3};

static inline struct rollout_engine *open_engine(const struct model *m,
                                                 const struct rollout_options *o)
{
    struct rollout_engine *e = NULL;
    assert_int_equal(rollout_open(&e, m->policy, o), 0);
    return e;
}

static const struct rollout_sample *run(struct rollout_engine *e,
                                        const struct rollout_request *requests, int n, int *count)
{
    const struct rollout_sample *out = NULL;
    const int rc = rollout_run(&out, count, e, 11, requests, n, NULL, NULL);
    if (rc != 0)
        print_message("# %s\n", err_message());
    assert_int_equal(rc, 0);
    struct rollout_stats stats;
    rollout_get_stats(e, &stats);
    assert_int_equal(stats.held_pages, 0);
    assert_true(stats.peak_pages <= stats.num_pages);
    return out;
}

static inline void assert_same_sample(const struct rollout_sample *a,
                                      const struct rollout_sample *b)
{
    const size_t n = (size_t)a->len;
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->len, b->len);
    assert_int_equal(a->finish, b->finish);
    assert_memory_equal(a->tokens, b->tokens, n * sizeof *a->tokens);
    assert_memory_equal(a->logprob, b->logprob, n * sizeof *a->logprob);
    assert_memory_equal(a->entropy, b->entropy, n * sizeof *a->entropy);
    assert_memory_equal(a->truncated, b->truncated, n * sizeof *a->truncated);
}

// Each request in a run of its own: what every other run is held to.
static inline void run_alone(struct record *out, const struct model *m, const struct mixture *mix)
{
    struct rollout_engine *e = open_engine(m, &whole);
    for (int r = 0; r < NUM_REQUESTS; r++) {
        int count = 0;
        const struct rollout_sample *s = run(e, &mix->requests[r], 1, &count);
        assert_int_equal(count, mix->requests[r].n);
        record_add(out, s, count);
    }
    rollout_free(&e);
}

#endif
