// SPDX-License-Identifier: Apache-2.0
// The forward passes of policy.h over packed sequences.
#include "policy/forward.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/block.h"
#include "policy/parallel_state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum asked { LOGPROBS, VALUES, LOGITS };

// What the batch tells the kernels. Blocks are stretches of the rows of kv beside the queries.
static void fill_inputs(const struct policy *p, const struct policy_batch *b, enum asked asked)
{
    const struct arch *a = &p->arch;
    struct policy_activations *s = p->acts;
    const size_t n = (size_t)b->num_targets;
    for (int i = 0, block = 0; i < b->num_seqs; i++) {
        int start = b->seq_offsets[i], len = b->seq_offsets[i + 1] - start;
        s->host.seqs[i] = (struct attention_seq){.query = start, .len = len, .block = block};
        for (int t = 0; t < len; t++) {
            s->host.position[start + t] = t;
        }
        for (int t = 0; t < len; t += ATTENTION_BLOCK, block++) {
            for (int l = 0; l < a->L; l++) {
                s->host.kv_blocks[(size_t)l * s->num_blocks + block] =
                    element(p, s->layer[l].kv, (size_t)(start + t) * (size_t)(a->R + a->Dr));
            }
        }
    }
    if (b->T > 0) {
        memcpy(s->host.tokens, b->tokens, (size_t)b->T * sizeof *b->tokens);
    }
    if (n > 0) {
        memcpy(s->host.target_row, b->target_row, n * sizeof *b->target_row);
    }
    if (n > 0 && asked == LOGPROBS) {
        memcpy(s->host.target_token, b->target_token, n * sizeof *b->target_token);
        memcpy(s->host.target_tau, b->target_tau, n * sizeof *b->target_tau);
    }
}

// Checks the batch, makes room, and runs the layers up to the rows that are asked for.
static int forward_packed(struct policy *p, const struct policy_batch *b, bool train,
                          enum asked asked)
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
    TRY(activations_begin(p, &(struct pass_shape){.T = b->T,
                                                  .num_targets = b->num_targets,
                                                  .num_seqs = b->num_seqs,
                                                  .num_blocks = num_blocks,
                                                  .train = train,
                                                  .values = asked == VALUES}));
    p->acts->max_keys = longest;
    TRY(rope_table_grow(&p->acts->rope, p->dev, &p->arch, longest));
    fill_inputs(p, b, asked);
    TRY(activations_upload(p));
    TRY(train && experts_are_spread(p) ? experts_begin(p) : 0);
    return forward_layers(p, NULL);
}

int policy_add_load(int64_t *load, const struct policy *p)
{
    const struct arch *a = &p->arch;
    const size_t row = (size_t)a->E + 1, n = (size_t)(a->L - a->dense_layers) * row;
    if (n == 0) {
        return 0;
    }
    int *segments = mem_alloc(n * sizeof *segments);
    int rc = p->dev->memory->download(p->dev, segments, p->acts->segments, n * sizeof *segments);
    for (int l = a->dense_layers; l < a->L && rc == 0; l++) {
        const int *of = segments + (size_t)(l - a->dense_layers) * row;
        for (int e = 0; e < a->E; e++) {
            load[(size_t)l * a->E + e] += of[e + 1] - of[e];
        }
    }
    free(segments);
    return rc;
}

// One result a target, from the device to the caller.
static int take_results(struct policy *p, float *out, const float *results, const char *what)
{
    size_t n = (size_t)p->acts->num_targets;
    TRY(p->dev->memory->download(p->dev, out, results, n * sizeof *out));
    return check_finite(out, n, what);
}

int policy_forward(struct policy *p, const struct policy_batch *b, bool train, float *logprob,
                   float *entropy)
{
    TRY(check_tokens(p, b->target_token, b->num_targets));
    TRY(forward_packed(p, b, train, LOGPROBS));
    const struct policy_activations *s = p->acts;
    TRY(p->dev->k->linear_logprob(
        p->dev, &(struct linear_logprob_args){.hidden = s->hidden,
                                              .w = p->packed->head.to_out,
                                              .token = s->in.target_token,
                                              .tau = s->in.target_tau,
                                              .logprob = s->logprob,
                                              .entropy = entropy ? s->entropy : NULL,
                                              .T = b->num_targets,
                                              .C = p->arch.C,
                                              .V = p->arch.V,
                                              .type = p->dtype}));
    if (train) {
        TRY(policy_add_load(p->expert_load, p));
    }
    TRY(take_results(p, logprob, s->logprob, "log-probability"));
    return entropy ? take_results(p, entropy, s->entropy, "entropy") : 0;
}

int policy_forward_values(struct policy *p, const struct policy_batch *b, bool train, float *score)
{
    assert(p->arch.value_head);
    TRY(forward_packed(p, b, train, VALUES));
    const struct policy_activations *s = p->acts;
    TRY(product(p, &p->packed->score, TO_OUT,
                (struct matmul_args){.a = s->hidden, .c = s->logprob, .m = b->num_targets}));
    if (train) {
        TRY(policy_add_load(p->expert_load, p));
    }
    float bias;
    TRY(p->dev->memory->download(p->dev, &bias, p->params.data + p->packed->score_bias,
                                 sizeof bias));
    TRY(p->dev->memory->download(p->dev, score, s->logprob,
                                 (size_t)b->num_targets * sizeof *score));
    for (int i = 0; i < b->num_targets; i++) {
        score[i] += bias;
    }
    return check_finite(score, (size_t)b->num_targets, "value");
}

// Logits of the rows in hidden to the host, by way of `logits` on the device.
static int forward_head(struct policy *p, float *logits, float *out)
{
    size_t n = (size_t)p->acts->num_targets * p->arch.V;
    TRY(product(
        p, &p->packed->head, TO_OUT,
        (struct matmul_args){.a = p->acts->hidden, .c = logits, .m = p->acts->num_targets}));
    TRY(p->dev->memory->download(p->dev, out, logits, n * sizeof *out));
    return check_finite(out, n, "logit");
}

int policy_forward_logits(struct policy *p, const struct policy_batch *b, float *logits)
{
    struct device_block on_device = {0};
    TRY(forward_packed(p, b, false, LOGITS));
    TRY(device_block_reserve(&on_device, p->dev,
                             (size_t)b->num_targets * p->arch.V * sizeof *logits));
    int rc = forward_head(p, on_device.data, logits);
    device_block_free(&on_device);
    return rc;
}
