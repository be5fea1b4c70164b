// SPDX-License-Identifier: Apache-2.0
// From samples to the arrays that rl/grpo works on, and from what it says to metrics. Everything
// lives in the arena of the step.
#ifndef RL_GRPO_BATCH_H
#define RL_GRPO_BATCH_H

#include "rl/generate.h"
#include "rl/grpo.h"
#include "rl/metrics.h"

struct grpo_data {
    const struct generated *samples;
    struct grpo_batch batch;
    const size_t *token_begin;                    // of batch
    const bool *valid;                            // of batch
    double *advantage, *old, *logp, *ref, *dlogp; // [tokens]; logp starts as old
};

// samples [groups * size]: groups of `size` samples of one prompt each.
void grpo_data_build(struct grpo_data *out, const struct generated *samples, int groups, int size,
                     const struct scoring *scoring, struct arena *a);

// Rewards by component, programs that were run, completions, entropy, and, where the reward has
// both, the process reward model's agreement with the exact labels of the step checker.
void grpo_metrics(struct metrics_line *line, const struct grpo_data *d,
                  const struct grpo_reward_stats *stats, const struct scoring *scoring,
                  int max_completion_length);

#endif
