// SPDX-License-Identifier: Apache-2.0
#include "rl/trainer.h"

#include "base/philox.h"
#include "policy/parallel.h"

#include <stdlib.h>
#include <string.h>

uint64_t trainer_seed(const struct trainer *t)
{
    return philox_mix((uint64_t)t->config->run.seed,
                      (uint64_t)(t->stage - t->config->stages.items) + 1);
}

struct generator trainer_generator(const struct trainer *t, struct rollout_engine *engine,
                                   const struct scoring *scoring)
{
    return (struct generator){
        .tokenizer = t->tokenizer,
        .engine = engine,
        .scoring = scoring,
        .stops = stops_of(t->policy, t->tokenizer),
        .comm = t->comm,
    };
}

struct generate_request trainer_request(const struct trainer *t, const struct task *tasks, int step)
{
    const struct config_rollout *r = &t->stage->rollout;
    return (struct generate_request){
        .tasks = tasks,
        .num_tasks = r->num_prompts,
        .samples = r->num_generations,
        .temperature = r->temperature,
        .top_p = r->top_p,
        .min_p = r->min_p,
        .top_k = r->top_k,
        .max_tokens = r->max_completion_length,
        .step = (uint64_t)step,
    };
}

int trainer_open_engine(struct rollout_engine **out, const struct trainer *t, uint64_t seed)
{
    const struct rollout_options o = {.seed = seed, .max_batch = t->stage->rollout.max_batch};
    return rollout_open(out, t->policy, &o);
}

// An item belongs to the shard that its middle falls into.
void trainer_cut(int *begin, const int64_t *cost, int n, int shards)
{
    int64_t total = 0, before = 0;
    for (int i = 0; i < n; i++)
        total += cost[i];
    int s = 0;
    begin[0] = 0;
    for (int i = 0; i < n; i++) {
        const int64_t middle = 2 * before + cost[i];
        while (s < shards - 1 && middle * shards >= 2 * total * (s + 1))
            begin[++s] = i;
        before += cost[i];
    }
    while (s < shards)
        begin[++s] = n;
}

int trainer_gather_shards(void **all, struct trainer *t, const void *own, size_t size)
{
    int first;
    const int shards = parallel_shards(t->optimized);
    const int count = parallel_own_shards(t->optimized, &first);
    size_t *offset = ARENA_ARRAY(&t->step_arena, size_t, t->comm->size + 1);
    void *received;
    const int rc = comm_gather(t->comm, COMM_CONTROL, own, (size_t)count * size, &received, offset);
    if (rc != 0)
        return rc;
    *all = arena_push(&t->step_arena, (size_t)shards * size);
    memcpy(*all, received, (size_t)shards * size);
    free(received);
    return 0;
}

struct parallel_settings trainer_parallel(const struct config_run *r, struct comm *comm)
{
    return (struct parallel_settings){
        .comm = comm,
        .shards = r->gradient_shards > 0 ? r->gradient_shards : comm->size,
        .expert_group = r->expert_parallel < comm->size ? r->expert_parallel : comm->size,
    };
}

int trainer_open_optimizer(struct trainer *t, struct policy *target)
{
    const struct parallel_settings settings = trainer_parallel(&t->config->run, t->comm);
    t->optimized = target;
    int rc = parallel_open(target, &settings);
    if (rc == 0)
        rc = policy_train_begin(target);
    return rc != 0 ? rc : optimizer_open(&t->optimizer, target, &t->stage->optimizer);
}

int trainer_begin_batch(struct trainer *t, int64_t sequences)
{
    const double alpha = t->stage->aux_loss_alpha;
    t->optimized->balance_weight = sequences > 0 ? alpha / (double)sequences : 0.0;
    return policy_grad_zero(t->optimized);
}

int trainer_update(struct trainer *t, int step, struct metrics_line *line)
{
    const double rate = optimizer_rate(&t->stage->optimizer, step, t->steps);
    double norm;
    const int rc = optimizer_update(t->optimizer, t->optimized, rate, &norm);
    if (rc != 0)
        return rc;
    metrics_put(line, norm, "grad_norm");
    metrics_put(line, rate, "learning_rate");
    return 0;
}

int trainer_balance(struct trainer *t, struct metrics_line *line)
{
    if (t->optimized->arch.E == 0)
        return 0;
    int rc = parallel_sum_load(t->optimized);
    if (rc != 0)
        return rc;
    metrics_put(line, policy_max_violation(t->optimized), "moe/max_violation");
    if (t->stage->aux_loss_alpha > 0.0)
        metrics_put(line, policy_balance_loss(t->optimized), "moe/aux_loss");
    rc = policy_balance_bias(t->optimized, t->stage->balance_rate);
    policy_load_reset(t->optimized);
    return rc;
}
