// SPDX-License-Identifier: Apache-2.0
#include "rl/generate.h"

#include "base/log.h"
#include "base/mem.h"
#include "rl/gather.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// The text of a completion, and where each token ends in it.
static void decode(struct generated *s, const struct tokenizer *t, struct arena *a,
                   struct strbuf *scratch)
{
    int *ends = arena_push(a, (size_t)(s->len + 1) * sizeof *ends);
    struct tokenizer_stream stream = {0};
    strbuf_clear(scratch);
    for (int i = 0; i < s->len; i++) {
        tokenizer_stream_push(scratch, &stream, t, s->tokens[i], /* skip_special= */ true);
        ends[i] = (int)scratch->len;
    }
    tokenizer_stream_flush(scratch, &stream);
    if (s->len > 0)
        ends[s->len - 1] = (int)scratch->len;
    s->text = arena_strndup(a, scratch->len ? scratch->data : "", scratch->len);
    s->text_len = scratch->len;
    s->token_ends = ends;
}

static struct reward_item item_of(const struct generated *s, int ticket)
{
    return (struct reward_item){
        .prompt = s->task->prompt,
        .completion = s->text,
        .len = s->text_len,
        .tokens = s->tokens,
        .token_ends = s->token_ends,
        .num_tokens = s->len,
        .prompt_tokens = s->task->prompt_tokens,
        .num_prompt_tokens = s->task->prompt_len,
        .finished = s->finished,
        .ref = &s->task->ref,
        .ticket = ticket,
    };
}

// Scores the samples of one source.
static int score_source(struct generated *samples, int n, int source, const struct scoring *scoring,
                        struct arena *a)
{
    struct reward_item *items = arena_push(a, (size_t)n * sizeof *items);
    int *which = arena_push(a, (size_t)n * sizeof *which);
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (samples[i].task->source != source)
            continue;
        which[m] = i;
        items[m++] = item_of(&samples[i], i + 1);
    }
    if (m == 0)
        return 0;
    struct reward_score *scores = ARENA_ARRAY(a, struct reward_score, m);
    const int rc = reward_run(scoring->reward[source], a, scores, items, m);
    for (int i = 0; i < m && rc == 0; i++)
        samples[which[i]].score = scores[i];
    return rc;
}

// The tasks of this rank.
struct share {
    int first, step, count;
};

static struct share share_of(const struct generator *g, int num_tasks)
{
    if (g->comm == NULL)
        return (struct share){0, 1, num_tasks};
    const int rank = g->comm->rank, size = g->comm->size;
    return (struct share){rank, size, (num_tasks - rank + size - 1) / size};
}

struct stream {
    const struct generator *g;
    const struct generate_request *r;
    struct share share;
    struct arena *arena;
    struct generated *samples;
    struct strbuf scratch;
};

// A sample is complete: its text is decoded, and scorers that run beside the generation begin.
static int take_sample(void *arg, const struct rollout_sample *drawn)
{
    struct stream *x = arg;
    const int i = drawn->request * x->r->samples + drawn->index;
    struct generated *s = &x->samples[i];
    *s = (struct generated){
        .task = &x->r->tasks[x->share.first + drawn->request * x->share.step],
        .index = drawn->index,
        .len = drawn->len,
        .tokens = drawn->tokens,
        .logprob = drawn->logprob,
        .entropy = drawn->entropy,
        .truncated = drawn->truncated,
        .finished = drawn->finish == ROLLOUT_STOP,
    };
    decode(s, x->g->tokenizer, x->arena, &x->scratch);
    const struct reward_item item = item_of(s, i + 1);
    reward_begin(x->g->scoring->reward[s->task->source], &item);
    return x->g->comm != NULL ? comm_check(x->g->comm) : 0;
}

// Samples of other ranks come without their texts.
static int gather(struct generated **out, const struct generated *own, const struct generator *g,
                  const struct generate_request *r, struct arena *a)
{
    const int rc = gather_samples(out, own, r, g->scoring, g->comm, a);
    struct strbuf scratch = {0};
    for (int i = 0; i < r->num_tasks * r->samples && rc == 0; i++)
        if ((*out)[i].text == NULL)
            decode(&(*out)[i], g->tokenizer, a, &scratch);
    strbuf_free(&scratch);
    return rc;
}

int generate(struct generated **out, struct generator *g, struct arena *a,
             const struct generate_request *r, struct generate_times *times)
{
    const struct share share = share_of(g, r->num_tasks);
    struct rollout_request *requests = arena_push(a, (size_t)(share.count + 1) * sizeof *requests);
    for (int i = 0; i < share.count; i++) {
        const struct task *task = &r->tasks[share.first + i * share.step];
        requests[i] = (struct rollout_request){
            .prompt = task->prompt_tokens,
            .prompt_len = task->prompt_len,
            .n = r->samples,
            .id = task->key,
            .sampling = {.temperature = r->temperature,
                         .top_k = r->top_k,
                         .top_p = r->top_p,
                         .min_p = r->min_p,
                         .max_tokens = r->max_tokens,
                         .stop_tokens = g->stops.ids,
                         .num_stop_tokens = g->stops.count},
        };
    }
    const double start = log_clock();
    const struct rollout_sample *drawn;
    int count;
    struct generated *samples = ARENA_ARRAY(a, struct generated, share.count * r->samples + 1);
    struct stream stream = {.g = g, .r = r, .share = share, .arena = a, .samples = samples};
    int rc = rollout_run(&drawn, &count, g->engine, r->step, requests, share.count, take_sample,
                         &stream);
    strbuf_free(&stream.scratch);
    if (rc != 0)
        return rc;
    assert(count == share.count * r->samples);
    const double mid = log_clock();
    for (int s = 0; s < g->scoring->num_sources && rc == 0; s++)
        rc = score_source(samples, count, s, g->scoring, a);
    times->rollout += mid - start;
    times->score += log_clock() - mid;
    if (rc == 0 && g->comm != NULL && g->comm->size > 1)
        return gather(out, samples, g, r, a);
    if (rc == 0)
        *out = samples;
    return rc;
}
