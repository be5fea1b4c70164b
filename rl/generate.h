// SPDX-License-Identifier: Apache-2.0
// Samples of tasks with their scores: what GRPO, the process reward model's stage and evaluation
// share. Generation by rollout, text by the tokenizer, scores by reward.
#ifndef RL_GENERATE_H
#define RL_GENERATE_H

#include "policy/tokenizer.h"
#include "rl/scoring.h"
#include "rl/stops.h"
#include "rl/task.h"
#include "rollout/rollout.h"

struct generated {
    const struct task *task;
    int index; // which of the task's samples
    int len;
    const int *tokens;     // [len], the stop token included
    const float *logprob;  // [len]
    const float *entropy;  // [len]
    const bool *truncated; // [len]
    bool finished;         // ended by a stop token
    const char *text;      // without the stop token, terminated
    size_t text_len;
    const int *token_ends; // [len] offset in text just past each token
    struct reward_score score;
};

struct generator {
    const struct tokenizer *tokenizer;
    struct rollout_engine *engine;
    const struct scoring *scoring;
    struct stops stops;
    struct comm *comm; // the ranks that share the tasks; NULL: this process has them all
};

struct generate_request {
    const struct task *tasks; // [num_tasks]
    int num_tasks;
    int samples; // of each
    double temperature, top_p, min_p;
    int top_k;
    int max_tokens;
    uint64_t step; // enters the randomness
};

struct generate_times { // seconds
    double rollout, score;
};

// Draws and scores, each rank its share of the tasks, and gives the samples to all ranks: a
// collective (kernels/comm.h). *out [num_tasks * samples], by task and index, stays valid while the
// arena does and until the engine runs again.
int generate(struct generated **out, struct generator *g, struct arena *a,
             const struct generate_request *r, struct generate_times *times);

#endif
