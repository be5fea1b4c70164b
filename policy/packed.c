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

// A sequence of a batch. Its own keys begin with the block in which its first position is: of that
// block, the rows before are copies of its prefix's last rows. The blocks before are its prefix's.
struct sequence {
    int prefix;     // -1: none
    int start, len; // its tokens
    int pos;        // of the first
    int copies;
    int own_blocks;
};

static int blocks_of(int rows) { return (rows + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK; }

static struct sequence sequence_of(const struct policy_batch *b, int i)
{
    struct sequence s = {.prefix = b->seq_prefix ? b->seq_prefix[i] : -1};
    s.start = b->seq_offsets[i];
    s.len = b->seq_offsets[i + 1] - s.start;
    if (s.prefix >= 0) {
        assert(s.prefix == i - 1 || (s.prefix < i - 1 && b->seq_prefix[i - 1] == s.prefix));
        assert(b->seq_prefix[s.prefix] < 0);
        s.pos = b->seq_offsets[s.prefix + 1] - b->seq_offsets[s.prefix];
    }
    assert(s.len >= 0);
    s.copies = s.pos % ATTENTION_BLOCK;
    s.own_blocks = blocks_of(s.copies + s.len);
    return s;
}

// Sequence i, whose own keys begin at row `key`, and whose blocks begin at `block`.
static void fill_sequence(const struct policy *p, const struct sequence *q, int i, int key,
                          int block)
{
    const size_t row = arch_row_width(&p->arch);
    const struct policy_activations *s = p->acts;
    const int shared = q->pos / ATTENTION_BLOCK;
    const struct pass_inputs *in = &s->host;
    in->seqs[i] = (struct attention_seq){q->start, q->len, q->pos, block};
    if (s->train) {
        in->grad_seqs[i] = (struct attention_grad_seq){q->start, q->len, q->pos, key, q->prefix};
    }
    for (int t = 0; t < q->len; t++) {
        in->position[q->start + t] = q->pos + t;
    }
    for (int l = 0; l < p->arch.L; l++) {
        const void **blocks = in->kv_blocks + (size_t)l * s->num_blocks, **own = blocks + block;
        for (int j = 0; j < shared; j++) {
            *own++ = blocks[in->seqs[q->prefix].block + j];
        }
        for (int j = 0; j < q->own_blocks; j++) {
            *own++ = element(p, s->layer[l].keys, (size_t)(key + j * ATTENTION_BLOCK) * row);
        }
    }
}

// Whose rows the own keys of a sequence are.
static void fill_key_tokens(int *token, const struct policy_batch *b, const struct sequence *q)
{
    for (int j = 0; j < q->copies; j++) {
        token[j] = b->seq_offsets[q->prefix + 1] - q->copies + j;
    }
    for (int t = 0; t < q->len; t++) {
        token[q->copies + t] = q->start + t;
    }
}

// What the batch tells the kernels. Blocks are stretches of the rows of keys.
static void fill_inputs(const struct policy *p, const struct policy_batch *b, enum asked asked)
{
    struct policy_activations *s = p->acts;
    const size_t n = (size_t)b->num_targets;
    for (int i = 0, key = 0, block = 0; i < b->num_seqs; i++) {
        const struct sequence q = sequence_of(b, i);
        fill_sequence(p, &q, i, key, block);
        if (s->N > s->T) {
            fill_key_tokens(s->host.key_token + key, b, &q);
        }
        key += q.copies + q.len;
        block += q.pos / ATTENTION_BLOCK + q.own_blocks;
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
    int num_keys = 0, num_blocks = 0, longest = 0;
    bool prefixes = false;
    for (int i = 0; i < b->num_seqs; i++) {
        const struct sequence q = sequence_of(b, i);
        num_keys += q.copies + q.len;
        num_blocks += q.pos / ATTENTION_BLOCK + q.own_blocks;
        longest = q.pos + q.len > longest ? q.pos + q.len : longest;
        prefixes |= q.prefix >= 0;
    }
    TRY(check_tokens(p, b->tokens, b->T));
    TRY(check_positions(p, longest));
    TRY(activations_begin(p, &(struct policy_pass){.T = b->T,
                                                   .N = num_keys,
                                                   .num_targets = b->num_targets,
                                                   .num_seqs = b->num_seqs,
                                                   .num_blocks = num_blocks,
                                                   .prefixes = prefixes,
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
