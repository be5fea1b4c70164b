// SPDX-License-Identifier: Apache-2.0
// The forward passes of policy.h over packed sequences.
#include "policy/forward.h"

#include "base/error.h"

#include <assert.h>

// Checks the batch, makes room, and runs the layers up to the rows that are asked for.
static int forward_packed(struct policy *p, const struct policy_batch *b, bool train)
{
    assert(b->num_seqs == 0 || (b->seq_offsets[0] == 0 && b->seq_offsets[b->num_seqs] == b->T));
    assert(!train || p->grad);
    int num_blocks = 0, longest = 0;
    for (int i = 0; i < b->num_seqs; i++) {
        int len = b->seq_offsets[i + 1] - b->seq_offsets[i];
        assert(len >= 0);
        num_blocks += (len + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
        longest = len > longest ? len : longest;
    }
    TRY(check_tokens(p, b->tokens, b->T));
    TRY(check_positions(p, longest));
    activations_begin(p, b->T, b->num_targets, b->num_seqs, num_blocks, train);
    struct policy_activations *s = p->acts;
    s->max_keys = longest;
    rope_table_grow(&s->rope, &p->arch, longest);
    for (int i = 0, block = 0; i < b->num_seqs; i++) {
        int row = b->seq_offsets[i], len = b->seq_offsets[i + 1] - row;
        s->seqs[i] = (struct attention_seq){.query = row, .len = len, .block = block};
        block += (len + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
        for (int t = 0; t < len; t++) {
            s->position[row + t] = t;
        }
    }
    TRY(forward_layers(p, b->tokens, NULL, NULL));
    return forward_rows(p, b->target_row);
}

int policy_forward(struct policy *p, const struct policy_batch *b, bool train, float *logprob,
                   float *entropy)
{
    TRY(check_tokens(p, b->target_token, b->num_targets));
    TRY(forward_packed(p, b, train));
    TRY(p->dev->k->linear_logprob(p->dev, &(struct linear_logprob_args){.hidden = p->acts->hidden,
                                                                        .w = p->packed->head.to_out,
                                                                        .token = b->target_token,
                                                                        .tau = b->target_tau,
                                                                        .logprob = logprob,
                                                                        .entropy = entropy,
                                                                        .T = b->num_targets,
                                                                        .C = p->arch.C,
                                                                        .V = p->arch.V}));
    TRY(check_finite(logprob, (size_t)b->num_targets, "log-probability"));
    return entropy ? check_finite(entropy, (size_t)b->num_targets, "entropy") : 0;
}

int policy_forward_values(struct policy *p, const struct policy_batch *b, bool train, float *score)
{
    assert(p->arch.value_head);
    TRY(forward_packed(p, b, train));
    TRY(product(p, &p->packed->score, TO_OUT,
                (struct matmul_args){.a = p->acts->hidden, .c = score, .m = b->num_targets}));
    for (int i = 0; i < b->num_targets; i++) {
        score[i] += p->params.data[p->packed->score_bias];
    }
    return check_finite(score, (size_t)b->num_targets, "value");
}

int policy_forward_logits(struct policy *p, const struct policy_batch *b, float *logits)
{
    TRY(forward_packed(p, b, false));
    TRY(product(p, &p->packed->head, TO_OUT,
                (struct matmul_args){.a = p->acts->hidden, .c = logits, .m = b->num_targets}));
    return check_finite(logits, (size_t)b->num_targets * p->arch.V, "logit");
}
