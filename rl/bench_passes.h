// SPDX-License-Identifier: Apache-2.0
// gradus bench rollout and update: whole passes of a model of random weights, by the functions
// that training calls.
#ifndef RL_BENCH_PASSES_H
#define RL_BENCH_PASSES_H

#include "policy/arch.h"
#include "rl/bench.h"

// What is generated: `batch` sequences at once (0: several sizes in turn), after prompts of
// `prompt` tokens (0: 128), each of which `group` of them share (0: 1).
struct bench_generation {
    int batch, prompt, group;
};

// Prefill and decoding, tokens a second. Errors: ERR_ENV; ERR_CONFIG, also for a batch that is no
// number of groups.
int bench_rollout(const struct bench *b, const struct arch *arch,
                  const struct bench_generation *generation);

// Forward and backward pass and AdamW over a packed batch of `tokens` tokens (0: 4,096); the same
// over groups of `group` samples (0: 8) after a shared prompt, as long as a sample and twice as
// long, beside the speed with a prompt for each sample; and a whole step of GRPO: 8 samples of each
// of 8 prompts, and an update from all of them, `tokens` at a time.
int bench_update(const struct bench *b, const struct arch *arch, int tokens, int group);

#endif
