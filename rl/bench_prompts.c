// SPDX-License-Identifier: Apache-2.0
#include "rl/bench_prompts.h"

#include "base/mem.h"
#include "base/philox.h"

#include <stdlib.h>

void bench_prompts_open(struct bench_prompts *out, int V, int count, int n, int len, int max_tokens)
{
    struct philox_stream s = philox_stream(1, 0);
    *out = (struct bench_prompts){
        .tokens = mem_array0((size_t)count * (size_t)len, sizeof *out->tokens),
        .requests = mem_array0((size_t)count, sizeof *out->requests),
        .count = count,
    };
    for (int i = 0; i < count * len; i++)
        out->tokens[i] = (int)philox_below(&s, (uint32_t)V);
    for (int i = 0; i < count; i++)
        out->requests[i] = (struct rollout_request){
            .prompt = out->tokens + (size_t)i * (size_t)len,
            .prompt_len = len,
            .n = n,
            .id = (uint64_t)i,
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = max_tokens}};
}

void bench_prompts_close(struct bench_prompts *p)
{
    free(p->tokens);
    free(p->requests);
    *p = (struct bench_prompts){0};
}
