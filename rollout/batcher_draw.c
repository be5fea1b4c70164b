// SPDX-License-Identifier: Apache-2.0
#include "rollout/batcher_draw.h"

#include "base/error.h"
#include "base/philox.h"
#include "rollout/batcher_memory.h"

#include <assert.h>
#include <math.h>

double batcher_uniform(uint64_t key, uint64_t id, int sample, int position)
{
    const uint64_t hi = ((uint64_t)(uint32_t)sample << 32) + (uint32_t)position;
    return philox_unit(philox4x32(key, id, hi).v[0]);
}

bool batcher_has_penalty(const struct rollout_sampling *p)
{
    return p->repetition_penalty != 0 && p->repetition_penalty != 1;
}

static const struct rollout_request *request_of(const struct batcher *s,
                                                const struct batcher_slot *slot)
{
    return &s->requests[slot->request];
}

static struct sample_row draw_of(const struct batcher *s, const struct batcher_slot *slot)
{
    const struct rollout_request *q = request_of(s, slot);
    return (struct sample_row){
        .temperature = (float)q->sampling.temperature,
        .top_k = q->sampling.top_k,
        .top_p = (float)q->sampling.top_p,
        .min_p = (float)q->sampling.min_p,
        .u = batcher_uniform(s->key, q->id, slot->index, slot->len),
    };
}

// Fills the first `count` of s->drawn from as many rows of logits and s->draws.
static int sample(struct batcher *s, const float *logits, int count)
{
    struct device *dev = s->policy->dev;
    const struct batcher_drawn *out = &s->drawn_on_device;
    const struct sample_args args = {.logits = logits,
                                     .rows = s->memory->draws.data,
                                     .token = out->token,
                                     .logprob = out->logprob,
                                     .entropy = out->entropy,
                                     .truncated = out->truncated,
                                     .B = count,
                                     .V = s->policy->arch.V};
    int rc =
        dev->memory->upload(dev, s->memory->draws.data, s->draws, (size_t)count * sizeof *s->draws);
    if (rc == 0)
        rc = dev->k->sample(dev, &args);
    if (rc == 0)
        rc = dev->memory->download(dev, s->drawn.token, out->token, batcher_drawn_bytes(s->batch));
    return rc;
}

// ---- the repetition penalty

// Applies a penalty to the logits of the tokens that were not seen yet, or forgets them.
static void penalise_tokens(struct batcher *s, const int *tokens, int count, float penalty)
{
    for (int i = 0; i < count; i++) {
        float *z = &s->row[tokens[i]];
        if (!s->seen[tokens[i]])
            *z = *z > 0 ? *z / penalty : *z * penalty;
        s->seen[tokens[i]] = true;
    }
}

static void forget_tokens(struct batcher *s, const int *tokens, int count)
{
    for (int i = 0; i < count; i++)
        s->seen[tokens[i]] = false;
}

// Row `to` of the penalised logits from row `from` of the logits, by way of the host: a penalty is
// rarely wanted, and where it is not costs nothing.
static int penalise_row(struct batcher *s, const struct batcher_slot *slot, int to, int from)
{
    const struct rollout_request *q = request_of(s, slot);
    struct device *dev = s->policy->dev;
    const size_t V = (size_t)s->policy->arch.V;
    float *penalised = s->memory->penalised.data;
    const float penalty = (float)q->sampling.repetition_penalty;
    const int rc =
        dev->memory->download(dev, s->row, s->logits + (size_t)from * V, V * sizeof *s->row);
    if (rc != 0)
        return rc;
    penalise_tokens(s, q->prompt, q->prompt_len, penalty);
    penalise_tokens(s, slot->tokens, slot->len, penalty);
    forget_tokens(s, q->prompt, q->prompt_len);
    forget_tokens(s, slot->tokens, slot->len);
    return dev->memory->upload(dev, penalised + (size_t)to * V, s->row, V * sizeof *s->row);
}

// Draws from penalised logits, for those of live[0, count) that have a penalty; the tokens are then
// given to the draw from the logits themselves, which is what the log-probability is of.
static int draw_penalised(struct batcher *s, int count)
{
    int rows = 0, rc = 0;
    for (int i = 0; i < count && rc == 0; i++) {
        if (!batcher_has_penalty(&request_of(s, s->live[i])->sampling))
            continue;
        rc = penalise_row(s, s->live[i], rows, i);
        s->draws[rows++] = draw_of(s, s->live[i]);
    }
    return rc == 0 && rows > 0 ? sample(s, s->memory->penalised.data, rows) : rc;
}

static int draw_all(struct batcher *s, int count)
{
    int rc = s->row != NULL ? draw_penalised(s, count) : 0;
    for (int i = 0, given = 0; i < count; i++) {
        s->draws[i] = draw_of(s, s->live[i]);
        if (batcher_has_penalty(&request_of(s, s->live[i])->sampling)) {
            s->draws[i].given = true;
            s->draws[i].token = s->drawn.token[given++];
        }
    }
    return rc != 0 ? rc : sample(s, s->logits, count);
}

// ---- the end of a sample

static bool is_stop(const struct rollout_sampling *p, int token)
{
    for (int i = 0; i < p->num_stop_tokens; i++) {
        if (p->stop_tokens[i] == token)
            return true;
    }
    return false;
}

// The stop string that the token completes; -1: none.
static int completed_string(const struct batcher *s, struct batcher_slot *slot, int token)
{
    const struct stop_strings *strings = &s->stop_strings[slot->request];
    size_t len = 0;
    if (strings->count == 0)
        return -1;
    const char *bytes = tokenizer_token_bytes(s->tokenizer, token, &len);
    return stop_strings_push(strings, slot->matched, bytes, len);
}

static void note_end(const struct batcher *s, struct batcher_slot *slot, int token)
{
    const struct rollout_sampling *p = &request_of(s, slot)->sampling;
    const bool stop = is_stop(p, token);
    slot->stop_string = stop ? -1 : completed_string(s, slot, token);
    slot->done = stop || slot->stop_string >= 0 || slot->len == p->max_tokens;
    slot->why = stop ? ROLLOUT_STOP : slot->stop_string >= 0 ? ROLLOUT_STOP_STRING : ROLLOUT_LENGTH;
}

// Appends drawn token `row` to a sample.
static int append(const struct batcher *s, struct batcher_slot *slot, int row)
{
    const struct rollout_sampling *p = &request_of(s, slot)->sampling;
    if (!isfinite(s->drawn.logprob[row]) || !isfinite(s->drawn.entropy[row]))
        return err_set(ERR_NUMERIC,
                       "request %d, sample %d, token %d: the log-probability is %g and the entropy "
                       "%g at temperature %g",
                       slot->request, slot->index, slot->len, (double)s->drawn.logprob[row],
                       (double)s->drawn.entropy[row], p->temperature);
    const int token = s->drawn.token[row];
    assert(token >= 0 && token < s->policy->arch.V);
    slot->tokens[slot->len] = token;
    slot->logprob[slot->len] = s->drawn.logprob[row];
    slot->entropy[slot->len] = s->drawn.entropy[row];
    slot->truncated[slot->len] = s->drawn.truncated[row] || batcher_has_penalty(p);
    slot->len++;
    note_end(s, slot, token);
    return 0;
}

int batcher_draw(struct batcher *s, int count)
{
    int rc = draw_all(s, count);
    for (int i = 0; i < count && rc == 0; i++)
        rc = append(s, s->live[i], i);
    return rc;
}
