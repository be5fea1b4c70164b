// SPDX-License-Identifier: Apache-2.0
// Requests with prompts of random tokens, for the benches.
#ifndef RL_BENCH_PROMPTS_H
#define RL_BENCH_PROMPTS_H

#include "rollout/rollout.h"

struct bench_prompts {
    int *tokens; // [count,len]
    struct rollout_request *requests;
    int count;
};

// `count` prompts of len tokens; n samples of each, of exactly max_tokens tokens at temperature 1.
void bench_prompts_open(struct bench_prompts *out, int V, int count, int n, int len,
                        int max_tokens);
void bench_prompts_close(struct bench_prompts *p);

#endif
