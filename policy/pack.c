// SPDX-License-Identifier: Apache-2.0
#include "policy/pack.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void pack_clear(struct pack *p)
{
    p->T = 0;
    p->num_seqs = 0;
    p->num_targets = 0;
}

void pack_free(struct pack *p)
{
    free(p->tokens);
    free(p->seq_offsets);
    free(p->seq_prefix);
    free(p->target_row);
    free(p->target_token);
    free(p->target_tau);
    *p = (struct pack){0};
}

// Room for n elements, doubling.
static int grown(int cap, int n)
{
    int want = cap > 0 ? cap : 256;
    while (want < n)
        want *= 2;
    return want;
}

int pack_sequence(struct pack *p, const int *head, int head_len, const int *tail, int tail_len)
{
    const int row = p->T;
    const int total = row + head_len + tail_len;
    if (total > p->cap_tokens || p->tokens == NULL) {
        p->cap_tokens = grown(p->cap_tokens, total);
        p->tokens = mem_realloc(p->tokens, (size_t)p->cap_tokens * sizeof *p->tokens);
    }
    if (p->num_seqs + 2 > p->cap_seqs) {
        p->cap_seqs = grown(p->cap_seqs, p->num_seqs + 2);
        p->seq_offsets = mem_realloc(p->seq_offsets, (size_t)p->cap_seqs * sizeof *p->seq_offsets);
        p->seq_prefix = mem_realloc(p->seq_prefix, (size_t)p->cap_seqs * sizeof *p->seq_prefix);
    }
    if (head_len > 0)
        memcpy(p->tokens + row, head, (size_t)head_len * sizeof *head);
    if (tail_len > 0)
        memcpy(p->tokens + row + head_len, tail, (size_t)tail_len * sizeof *tail);
    p->seq_offsets[p->num_seqs] = row;
    p->seq_prefix[p->num_seqs] = -1;
    p->seq_offsets[++p->num_seqs] = total;
    p->T = total;
    return row;
}

bool pack_has_room(const struct pack *p, int len, int limit)
{
    return p->T == 0 || (int64_t)p->T + len <= limit;
}

void pack_target(struct pack *p, int row, int token, float tau)
{
    assert(row < p->T);
    const int n = p->num_targets + 1;
    if (n > p->cap_targets) {
        p->cap_targets = grown(p->cap_targets, n);
        const size_t bytes = (size_t)p->cap_targets * sizeof(int);
        p->target_row = mem_realloc(p->target_row, bytes);
        p->target_token = mem_realloc(p->target_token, bytes);
        p->target_tau = mem_realloc(p->target_tau, (size_t)p->cap_targets * sizeof(float));
    }
    p->target_row[n - 1] = row;
    p->target_token[n - 1] = token;
    p->target_tau[n - 1] = tau;
    p->num_targets = n;
}

void pack_completion(struct pack *p, const int *prompt, int prompt_len, const int *completion,
                     int len, float tau)
{
    assert(prompt_len > 0);
    const int row = pack_sequence(p, prompt, prompt_len, completion, len);
    for (int i = 0; i < len; i++)
        pack_target(p, row + prompt_len - 1 + i, completion[i], tau);
}

void pack_shared(struct pack *p, const int *completion, int len, float tau)
{
    assert(p->num_seqs > 0);
    const int last = p->num_seqs - 1;
    const int prompt = p->seq_prefix[last] < 0 ? last : p->seq_prefix[last];
    const int prompt_end = p->seq_offsets[prompt + 1];
    assert(prompt_end > p->seq_offsets[prompt]);
    const int row = pack_sequence(p, completion, len, NULL, 0);
    p->seq_prefix[last + 1] = prompt;
    for (int i = 0; i < len; i++)
        pack_target(p, i == 0 ? prompt_end - 1 : row + i - 1, completion[i], tau);
}

struct policy_batch pack_batch(const struct pack *p)
{
    return (struct policy_batch){
        .T = p->T,
        .num_seqs = p->num_seqs,
        .tokens = p->tokens,
        .seq_offsets = p->seq_offsets,
        .seq_prefix = p->seq_prefix,
        .num_targets = p->num_targets,
        .target_row = p->target_row,
        .target_token = p->target_token,
        .target_tau = p->target_tau,
    };
}
