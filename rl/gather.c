// SPDX-License-Identifier: Apache-2.0
#include "rl/gather.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

// Theory of operation. A rank writes its samples one after the other, numbers in the machine's own
// form: the ranks are the same program on the same kind of machine. put and take mirror each other.
struct reader {
    const char *at, *end;
};

static void put(struct strbuf *out, const void *x, size_t bytes)
{
    if (bytes > 0)
        strbuf_append(out, x, bytes);
}

static bool take(struct reader *in, void *x, size_t bytes)
{
    if ((size_t)(in->end - in->at) < bytes)
        return false;
    if (bytes > 0)
        memcpy(x, in->at, bytes);
    in->at += bytes;
    return true;
}

static void *take_array(struct reader *in, size_t bytes, struct arena *a)
{
    if ((size_t)(in->end - in->at) < bytes)
        return NULL;
    void *x = arena_push(a, bytes + 1); // never NULL
    take(in, x, bytes);
    return x;
}

static void put_result(struct strbuf *out, const struct reward_result *r)
{
    put(out, r, sizeof *r); // its pointer is not looked at
    put(out, r->steps, (size_t)r->num_steps * sizeof *r->steps);
}

static bool take_result(struct reader *in, struct reward_result *r, struct arena *a)
{
    if (!take(in, r, sizeof *r) || r->num_steps < 0)
        return false;
    r->steps = take_array(in, (size_t)r->num_steps * sizeof *r->steps, a);
    return r->steps != NULL;
}

static int num_parts(const struct scoring *scoring, const struct task *task)
{
    return reward_num_components(scoring->reward[task->source]);
}

struct head { // of a sample
    int len, finished;
};

static void put_sample(struct strbuf *out, const struct generated *s, const struct scoring *scoring)
{
    const struct head head = {s->len, s->finished};
    const size_t n = (size_t)s->len;
    put(out, &head, sizeof head);
    put(out, s->tokens, n * sizeof *s->tokens);
    put(out, s->logprob, n * sizeof *s->logprob);
    put(out, s->entropy, n * sizeof *s->entropy);
    put(out, s->truncated, n * sizeof *s->truncated);
    put_result(out, &s->score.total);
    for (int i = 0; i < num_parts(scoring, s->task); i++)
        put_result(out, &s->score.parts[i]);
}

static bool take_sample(struct reader *in, struct generated *s, const struct scoring *scoring,
                        struct arena *a)
{
    struct head head;
    if (!take(in, &head, sizeof head) || head.len < 0)
        return false;
    s->len = head.len;
    s->finished = head.finished != 0;
    const size_t n = (size_t)s->len;
    const int parts = num_parts(scoring, s->task);
    s->tokens = take_array(in, n * sizeof *s->tokens, a);
    s->logprob = take_array(in, n * sizeof *s->logprob, a);
    s->entropy = take_array(in, n * sizeof *s->entropy, a);
    s->truncated = take_array(in, n * sizeof *s->truncated, a);
    if (s->truncated == NULL || !take_result(in, &s->score.total, a))
        return false;
    s->score.parts = ARENA_ARRAY(a, struct reward_result, parts + 1);
    for (int i = 0; i < parts; i++)
        if (!take_result(in, &s->score.parts[i], a))
            return false;
    return true;
}

static bool take_rank(struct generated *all, struct reader in, const struct generate_request *r,
                      const struct scoring *scoring, const struct comm *c, int rank,
                      struct arena *a)
{
    for (int i = rank; i < r->num_tasks; i += c->size) {
        for (int j = 0; j < r->samples; j++) {
            struct generated *s = &all[i * r->samples + j];
            *s = (struct generated){.task = &r->tasks[i], .index = j};
            if (!take_sample(&in, s, scoring, a))
                return false;
        }
    }
    return in.at == in.end;
}

int gather_samples(struct generated **out, const struct generated *own,
                   const struct generate_request *r, const struct scoring *scoring, struct comm *c,
                   struct arena *a)
{
    struct strbuf mine = {0};
    size_t *offset = ARENA_ARRAY(a, size_t, c->size + 1);
    struct generated *all = ARENA_ARRAY(a, struct generated, r->num_tasks * r->samples + 1);
    int n = 0;
    for (int i = c->rank; i < r->num_tasks; i += c->size)
        for (int j = 0; j < r->samples; j++, n++)
            put_sample(&mine, &own[n], scoring);
    void *received;
    int rc = comm_gather(c, COMM_SAMPLES, mine.data, mine.len, &received, offset);
    strbuf_free(&mine);
    if (rc != 0)
        return rc;
    for (int q = 0; q < c->size && rc == 0; q++) {
        const struct reader in = {(const char *)received + offset[q],
                                  (const char *)received + offset[q + 1]};
        if (q != c->rank && !take_rank(all, in, r, scoring, c, q, a))
            rc = err_set(ERR_CHECK, "rank %d's samples are not those of its tasks", q);
    }
    free(received);
    n = 0;
    for (int i = c->rank; i < r->num_tasks; i += c->size)
        for (int j = 0; j < r->samples; j++)
            all[i * r->samples + j] = own[n++];
    if (rc == 0)
        *out = all;
    return rc;
}
