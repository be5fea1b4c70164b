// SPDX-License-Identifier: Apache-2.0
// The forward pass of policy.h over the paged cache.
#include "policy/forward.h"

#include <assert.h>

int policy_decode(struct policy *p, struct kv_cache *cache, int T, const int *tokens,
                  int num_chunks, const struct policy_chunk *chunks, int num_rows, const int *rows,
                  float *logits)
{
    assert(cache->L == p->arch.L && cache->width == p->arch.R + p->arch.Dr);
    int num_blocks = 0, longest = 0, covered = 0;
    for (int i = 0; i < num_chunks; i++) {
        int end = chunks[i].pos + chunks[i].len;
        num_blocks += (end + KV_PAGE - 1) / KV_PAGE;
        longest = end > longest ? end : longest;
        covered += chunks[i].len;
    }
    assert(covered == T);
    TRY(check_tokens(p, tokens, T));
    TRY(check_positions(p, longest));
    activations_begin(p, T, num_rows, num_chunks, num_blocks, false);
    struct policy_activations *s = p->acts;
    s->max_keys = longest;
    rope_table_grow(&s->rope, &p->arch, longest);
    for (int i = 0, block = 0; i < num_chunks; i++) {
        const struct policy_chunk *c = &chunks[i];
        s->seqs[i] = (struct attention_seq){c->start, c->len, c->pos, block};
        block += (c->pos + c->len + KV_PAGE - 1) / KV_PAGE;
        for (int t = 0; t < c->len; t++) {
            s->position[c->start + t] = c->pos + t;
        }
    }
    TRY(forward_layers(p, tokens, cache, chunks));
    TRY(forward_rows(p, rows));
    TRY(product(p, &p->packed->head, TO_OUT,
                (struct matmul_args){.a = s->hidden, .c = logits, .m = num_rows}));
    return check_finite(logits, (size_t)num_rows * p->arch.V, "logit");
}
