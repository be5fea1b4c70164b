// SPDX-License-Identifier: Apache-2.0
#include "rollout/batcher_memory.h"

#include "rollout/batcher_draw.h"

struct most {
    int pages, tokens, strings; // of a sample
    bool penalty;
};

static void open_slots(struct batcher *s, const struct most *most)
{
    struct batcher_slot *slots = ARENA_ARRAY(s->work, struct batcher_slot, s->batch);
    const size_t n = (size_t)most->tokens;
    s->live = ARENA_ARRAY(s->work, struct batcher_slot *, s->batch);
    s->idle = ARENA_ARRAY(s->work, struct batcher_slot *, s->batch);
    for (int i = 0; i < s->batch; i++) {
        struct batcher_slot *slot = s->idle[i] = &slots[i];
        slot->pages = arena_push(s->work, (size_t)most->pages * sizeof *slot->pages);
        slot->matched = arena_push(s->work, (size_t)most->strings * sizeof *slot->matched);
        slot->tokens = arena_push(s->work, n * sizeof *slot->tokens);
        slot->logprob = arena_push(s->work, n * sizeof *slot->logprob);
        slot->entropy = arena_push(s->work, n * sizeof *slot->entropy);
        slot->truncated = arena_push(s->work, n * sizeof *slot->truncated);
    }
}

void batcher_memory_free(struct batcher_memory *m)
{
    device_block_free(&m->logits);
    device_block_free(&m->penalised);
    device_block_free(&m->draws);
    device_block_free(&m->drawn);
}

size_t batcher_drawn_bytes(int batch)
{
    const struct batcher_drawn *d = NULL;
    return (size_t)batch *
           (sizeof *d->token + sizeof *d->logprob + sizeof *d->entropy + sizeof *d->truncated);
}

static struct batcher_drawn carve_drawn(void *block, int batch)
{
    struct batcher_drawn d = {.token = block};
    d.logprob = (float *)(d.token + batch);
    d.entropy = d.logprob + batch;
    d.truncated = (bool *)(d.entropy + batch);
    return d;
}

static size_t logits_bytes(int rows, int V) { return (size_t)rows * (size_t)V * sizeof(float); }

static size_t draws_bytes(int batch) { return (size_t)batch * sizeof(struct sample_row); }

size_t batcher_memory_bytes(int batch, int V)
{
    return logits_bytes(batch + 1, V) + draws_bytes(batch) + batcher_drawn_bytes(batch);
}

static int open_device_memory(struct batcher *s)
{
    struct device *dev = s->policy->dev;
    struct batcher_memory *m = s->memory;
    const int B = s->batch, V = s->policy->arch.V; // one row more is carried
    int rc = device_block_reserve(&m->logits, dev, logits_bytes(B + 1, V));
    if (rc == 0)
        rc = device_block_reserve(&m->draws, dev, draws_bytes(B));
    if (rc == 0)
        rc = device_block_reserve(&m->drawn, dev, batcher_drawn_bytes(B));
    if (rc == 0 && s->row != NULL)
        rc = device_block_reserve(&m->penalised, dev, logits_bytes(B, V));
    if (rc != 0)
        return rc;
    s->logits = m->logits.data;
    s->carried = s->logits + (size_t)B * (size_t)V;
    s->drawn_on_device = carve_drawn(m->drawn.data, B);
    return 0;
}

// What any request needs the most of.
static void open_requests(struct batcher *s, struct most *most)
{
    size_t prompt_pages = 0;
    s->first_page = ARENA_ARRAY(s->work, size_t, s->num_requests);
    s->shared_pages = ARENA_ARRAY(s->work, int, s->num_requests);
    s->stop_strings = ARENA_ARRAY(s->work, struct stop_strings, s->num_requests);
    for (int r = 0; r < s->num_requests; r++) {
        const struct rollout_request *q = &s->requests[r];
        const struct rollout_sampling *p = &q->sampling;
        const int pages = batcher_pages_to_end(q);
        s->first_page[r] = prompt_pages;
        prompt_pages += (size_t)batcher_pages(q->prompt_len);
        stop_strings_init(&s->stop_strings[r], p->stop_strings, p->num_stop_strings, s->work);
        most->pages = pages > most->pages ? pages : most->pages;
        most->tokens = p->max_tokens > most->tokens ? p->max_tokens : most->tokens;
        most->strings = p->num_stop_strings > most->strings ? p->num_stop_strings : most->strings;
        most->penalty = most->penalty || batcher_has_penalty(p);
    }
    s->prompt_pages = ARENA_ARRAY(s->work, int, prompt_pages);
}

int batcher_memory_open(struct batcher *s)
{
    const size_t B = (size_t)s->batch;
    const size_t T = s->prefill_tokens > s->batch ? (size_t)s->prefill_tokens : B;
    struct most most = {0};
    open_requests(s, &most);
    open_slots(s, &most);
    s->tokens = ARENA_ARRAY(s->work, int, T);
    s->rows_asked = ARENA_ARRAY(s->work, int, B);
    s->chunks = ARENA_ARRAY(s->work, struct policy_chunk, B);
    s->draws = ARENA_ARRAY(s->work, struct sample_row, B);
    s->drawn = carve_drawn(arena_push(s->work, batcher_drawn_bytes(s->batch)), s->batch);
    if (most.penalty) {
        s->row = ARENA_ARRAY(s->work, float, s->policy->arch.V);
        s->seen = ARENA_ARRAY(s->work, bool, s->policy->arch.V);
    }
    return open_device_memory(s);
}
