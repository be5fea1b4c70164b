// SPDX-License-Identifier: Apache-2.0
#include "rl/trainer.h"

#include "base/philox.h"

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

int trainer_open_optimizer(struct trainer *t, struct policy *target)
{
    t->optimized = target;
    const int rc = policy_train_begin(target);
    return rc != 0 ? rc : optimizer_open(&t->optimizer, target, &t->stage->optimizer);
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
    metrics_put(line, policy_max_violation(t->optimized), "moe/max_violation");
    const int rc = policy_balance_bias(t->optimized, t->stage->balance_rate);
    policy_load_reset(t->optimized);
    return rc;
}
