// SPDX-License-Identifier: Apache-2.0
// A task: one thing that the model is asked, with what its answer is judged by and, for supervised
// learning, a right answer. Tasks come from sources (rl/source.h) and live in the arena of the call
// that made them.
#ifndef RL_TASK_H
#define RL_TASK_H

#include "reward/reward.h"
#include <stdint.h>

struct task {
    const char *id;
    uint64_t key;      // names the task in the randomness of sampling
    int source;        // index into the config's data
    const char *group; // SOURCE of eval/SOURCE/...: the source's name, or the row's own `source`
    const char *prompt;
    const int *prompt_tokens; // [prompt_len], at least one
    int prompt_len;
    const char *completion;       // NULL: none is known
    const int *completion_tokens; // [completion_len], the end-of-sequence token included
    int completion_len;
    const unsigned char *loss_mask; // [completion_len] tokens that are learned; NULL: all
    struct reward_reference ref;
    int num_steps; // labelled steps of a completion, for the process reward model; 0: none
    const char *const *steps; // [num_steps]
    const float *labels;      // [num_steps] 1 right .. 0 wrong, NaN: not judged
};

#endif
