// SPDX-License-Identifier: Apache-2.0
// Trace lines: a sample with its tokens, scores and steps, one JSON object a line.
#include "rl/trainer.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static void put_floats(struct json_writer *w, const char *key, const float *x, int n)
{
    json_put_key(w, key);
    json_begin_array(w);
    for (int i = 0; i < n; i++)
        json_put_float(w, x[i]);
    json_end_array(w);
}

static void put_steps(struct json_writer *w, const struct reward_result *r)
{
    json_put_key(w, "steps");
    json_begin_array(w);
    for (int j = 0; j < r->num_steps; j++) {
        const struct reward_step *s = &r->steps[j];
        json_begin_object(w);
        json_put_key(w, "begin");
        json_put_int(w, (int64_t)s->begin);
        json_put_key(w, "end");
        json_put_int(w, (int64_t)s->end);
        json_put_key(w, "token");
        json_put_int(w, s->token);
        json_put_key(w, "value");
        if (s->valid)
            json_put_double(w, s->value);
        else
            json_put_null(w);
        if (s->flags != 0) {
            json_put_key(w, "valid");
            json_put_bool(w, (s->flags & REWARD_STEP_VALID) != 0);
            json_put_key(w, "reachable");
            json_put_bool(w, (s->flags & REWARD_STEP_REACHABLE) != 0);
        }
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_result(struct json_writer *w, const char *name, const struct reward_result *r)
{
    json_put_key(w, name);
    json_begin_object(w);
    json_put_key(w, "value");
    if (r->valid)
        json_put_double(w, r->value);
    else
        json_put_null(w);
    if (r->reason[0]) {
        json_put_key(w, "reason");
        json_put_string(w, r->reason);
    }
    if (r->num_steps > 0)
        put_steps(w, r);
    json_end_object(w);
}

// Appends the line of a sample; advantage [len] may be NULL.
static void put_sample(struct strbuf *out, const struct generated *s, const struct scoring *scoring,
                       const double *advantage)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_put_key(&w, "id");
    json_put_string(&w, s->task->id);
    json_put_key(&w, "source");
    json_put_string(&w, s->task->group);
    json_put_key(&w, "sample");
    json_put_int(&w, s->index);
    json_put_key(&w, "prompt");
    json_put_string(&w, s->task->prompt);
    json_put_key(&w, "completion");
    json_put_text(&w, s->text, s->text_len);
    json_put_key(&w, "finish");
    json_put_string(&w, s->finished ? "stop" : "length");
    json_put_key(&w, "tokens");
    json_begin_array(&w);
    for (int i = 0; i < s->len; i++)
        json_put_int(&w, s->tokens[i]);
    json_end_array(&w);
    put_floats(&w, "logprobs", s->logprob, s->len);
    put_floats(&w, "entropy", s->entropy, s->len);
    if (advantage != NULL) {
        json_put_key(&w, "advantages");
        json_begin_array(&w);
        for (int i = 0; i < s->len; i++)
            json_put_float(&w, (float)advantage[i]);
        json_end_array(&w);
    }
    put_result(&w, "reward", &s->score.total);
    json_put_key(&w, "rewards");
    json_begin_object(&w);
    const struct reward *r = scoring->reward[s->task->source];
    for (int c = 0; c < reward_num_components(r); c++)
        put_result(&w, reward_component_name(r, c), &s->score.parts[c]);
    json_end_object(&w);
    json_end_object(&w);
    strbuf_putc(out, '\n');
}

void trace_samples(struct trainer *t, const struct generated *samples,
                   const struct scoring *scoring, const double *advantage,
                   const size_t *token_begin)
{
    const struct config_rollout *r = &t->stage->rollout;
    for (int task = t->comm->rank; task < r->num_prompts; task += t->comm->size) {
        for (int j = 0; j < r->num_generations; j++) {
            const int i = task * r->num_generations + j;
            put_sample(&t->trace, &samples[i], scoring,
                       advantage != NULL ? advantage + token_begin[i] : NULL);
        }
    }
}

// Appends the next n lines; false: there are none.
static bool take_lines(struct strbuf *out, const char **at, const char *end, int n)
{
    const char *begin = *at;
    while (n-- > 0 && *at < end)
        *at = (const char *)memchr(*at, '\n', (size_t)(end - *at)) + 1;
    if (*at == begin)
        return false;
    strbuf_append(out, begin, (size_t)(*at - begin));
    return true;
}

int trace_collect(struct trainer *t)
{
    const int size = t->comm->size;
    if (size == 1)
        return 0;
    size_t *offset = mem_array0((size_t)size + 1, sizeof *offset);
    void *all = NULL;
    const int rc =
        comm_gather_to(t->comm, 0, COMM_SAMPLES, t->trace.data, t->trace.len, &all, offset);
    strbuf_clear(&t->trace);
    if (rc == 0 && t->comm->rank == 0) {
        const char **at = mem_array0((size_t)size, sizeof *at), *text = all;
        for (int r = 0; r < size; r++)
            at[r] = text + offset[r];
        for (int r = 0; take_lines(&t->trace, &at[r], text + offset[r + 1],
                                   t->stage->rollout.num_generations);)
            r = (r + 1) % size; // the next task is the next rank's
        free(at);
    }
    free(all);
    free(offset);
    return rc;
}
