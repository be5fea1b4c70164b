// SPDX-License-Identifier: Apache-2.0
#include "rollout/batcher.h"

#include "base/error.h"
#include "base/philox.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <time.h>

static double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int batcher_pages(int64_t tokens) { return (int)((tokens + KV_PAGE - 1) / KV_PAGE); }

// The last token of a completion is never computed with, so it has no row in the cache.
static int pages_to_end(const struct rollout_request *q)
{
    return batcher_pages((int64_t)q->prompt_len + q->sampling.max_tokens - 1);
}

int batcher_pages_one(const struct rollout_request *q)
{
    const int copies = q->n > 1 && q->prompt_len % KV_PAGE != 0;
    return pages_to_end(q) + copies;
}

int64_t batcher_pages_all(const struct rollout_request *q)
{
    const int full = q->prompt_len / KV_PAGE;
    return full + (int64_t)q->n * (pages_to_end(q) - full);
}

double batcher_uniform(uint64_t key, uint64_t id, int sample, int position)
{
    const uint64_t hi = ((uint64_t)(uint32_t)sample << 32) + (uint32_t)position;
    return philox_unit(philox4x32(key, id, hi).v[0]);
}

// ---- memory

static void open_slots(struct batcher *s, int pages_max, int tokens_max)
{
    struct batcher_slot *slots = ARENA_ARRAY(s->work, struct batcher_slot, s->batch);
    const size_t n = (size_t)tokens_max;
    s->live = ARENA_ARRAY(s->work, struct batcher_slot *, s->batch);
    s->idle = ARENA_ARRAY(s->work, struct batcher_slot *, s->batch);
    for (int i = 0; i < s->batch; i++) {
        struct batcher_slot *slot = s->idle[i] = &slots[i];
        slot->pages = arena_push(s->work, (size_t)pages_max * sizeof *slot->pages);
        slot->tokens = arena_push(s->work, n * sizeof *slot->tokens);
        slot->logprob = arena_push(s->work, n * sizeof *slot->logprob);
        slot->entropy = arena_push(s->work, n * sizeof *slot->entropy);
        slot->truncated = arena_push(s->work, n * sizeof *slot->truncated);
    }
}

void batcher_memory_free(struct batcher_memory *m)
{
    device_block_free(&m->logits);
    device_block_free(&m->draws);
    device_block_free(&m->drawn);
}

static size_t drawn_bytes(int batch)
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

static size_t logits_bytes(int batch, int V)
{
    return ((size_t)batch + 1) * (size_t)V * sizeof(float);
}

static size_t draws_bytes(int batch) { return (size_t)batch * sizeof(struct sample_row); }

size_t batcher_memory_bytes(int batch, int V)
{
    return logits_bytes(batch, V) + draws_bytes(batch) + drawn_bytes(batch);
}

static int open_device_memory(struct batcher *s)
{
    struct device *dev = s->policy->dev;
    struct batcher_memory *m = s->memory;
    const size_t B = (size_t)s->batch, V = (size_t)s->policy->arch.V;
    int rc = device_block_reserve(&m->logits, dev, logits_bytes(s->batch, s->policy->arch.V));
    if (rc == 0)
        rc = device_block_reserve(&m->draws, dev, draws_bytes(s->batch));
    if (rc == 0)
        rc = device_block_reserve(&m->drawn, dev, drawn_bytes(s->batch));
    if (rc != 0)
        return rc;
    s->logits = m->logits.data;
    s->carried = s->logits + B * V;
    s->drawn_on_device = carve_drawn(m->drawn.data, s->batch);
    return 0;
}

static int open_memory(struct batcher *s)
{
    const size_t B = (size_t)s->batch;
    int pages_max = 0, tokens_max = 0;
    size_t prompt_pages = 0;

    s->first_page = ARENA_ARRAY(s->work, size_t, s->num_requests);
    for (int r = 0; r < s->num_requests; r++) {
        const struct rollout_request *q = &s->requests[r];
        s->first_page[r] = prompt_pages;
        prompt_pages += (size_t)batcher_pages(q->prompt_len);
        if (pages_to_end(q) > pages_max)
            pages_max = pages_to_end(q);
        if (q->sampling.max_tokens > tokens_max)
            tokens_max = q->sampling.max_tokens;
    }
    s->prompt_pages = ARENA_ARRAY(s->work, int, prompt_pages);
    open_slots(s, pages_max, tokens_max);

    const size_t T = s->prefill_tokens > s->batch ? (size_t)s->prefill_tokens : B;
    s->tokens = ARENA_ARRAY(s->work, int, T);
    s->rows_asked = ARENA_ARRAY(s->work, int, B);
    s->chunks = ARENA_ARRAY(s->work, struct policy_chunk, B);
    s->draws = ARENA_ARRAY(s->work, struct sample_row, B);
    s->drawn = carve_drawn(arena_push(s->work, drawn_bytes(s->batch)), s->batch);
    return open_device_memory(s);
}

// ---- admission

static int *prompt_table(const struct batcher *s, int request)
{
    return &s->prompt_pages[s->first_page[request]];
}

// Takes the next sample into the batch, with all the pages that it may come to need; false when
// there is none, no place for it, or not enough pages.
static bool admit_next(struct batcher *s)
{
    if (s->next == s->num_requests || s->num_live == s->batch)
        return false;
    const struct rollout_request *q = &s->requests[s->next];
    const bool first = s->next_index == 0, last = s->next_index == q->n - 1;
    const int prompt = batcher_pages(q->prompt_len), total = pages_to_end(q);
    const int shared = last ? prompt : q->prompt_len / KV_PAGE;
    if (total - shared + (first ? prompt : 0) > s->pages->num_free)
        return false;

    int *table = prompt_table(s, s->next);
    for (int i = 0; first && i < prompt; i++)
        table[i] = pages_take(s->pages);
    struct batcher_slot *slot = s->idle[s->batch - s->num_live - 1];
    slot->request = s->next;
    slot->index = s->next_index;
    slot->len = 0;
    slot->num_pages = total;
    for (int i = 0; i < shared; i++) {
        slot->pages[i] = table[i];
        if (!last) // the last sample takes over the request's hold
            pages_share(s->pages, table[i]);
    }
    for (int i = shared; i < total; i++)
        slot->pages[i] = pages_take(s->pages);

    s->live[s->num_live++] = slot;
    s->next_index = last ? 0 : s->next_index + 1;
    s->next += last;
    return true;
}

static void release_slot(struct batcher *s, const struct batcher_slot *slot)
{
    for (int i = 0; i < slot->num_pages; i++)
        pages_release(s->pages, slot->pages[i]);
}

static void release_all(struct batcher *s)
{
    for (int i = 0; i < s->num_live; i++)
        release_slot(s, s->live[i]);
    if (s->next < s->num_requests && s->next_index > 0) {
        const int prompt = batcher_pages(s->requests[s->next].prompt_len);
        for (int i = 0; i < prompt; i++)
            pages_release(s->pages, prompt_table(s, s->next)[i]);
    }
    s->num_live = s->num_started = 0;
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

// Copies `size` bytes to *at, which moves on; returns where they are.
static void *keep(char **at, const void *data, size_t size)
{
    void *to = memcpy(*at, data, size);
    *at += size;
    return to;
}

static int finish(struct batcher *s, struct batcher_slot *slot, enum rollout_finish why)
{
    struct rollout_sample *out = &s->samples[s->first_sample[slot->request] + slot->index];
    const size_t n = (size_t)slot->len;
    const size_t bytes = n * (sizeof *slot->tokens + sizeof *slot->logprob + sizeof *slot->entropy +
                              sizeof *slot->truncated);
    char *at = arena_push(s->results, bytes);
    out->request = slot->request;
    out->index = slot->index;
    out->len = slot->len;
    out->tokens = keep(&at, slot->tokens, n * sizeof *slot->tokens);
    out->logprob = keep(&at, slot->logprob, n * sizeof *slot->logprob);
    out->entropy = keep(&at, slot->entropy, n * sizeof *slot->entropy);
    out->truncated = keep(&at, slot->truncated, n * sizeof *slot->truncated);
    out->finish = why;
    release_slot(s, slot);
    s->stats->completion_tokens += slot->len;
    return s->on_sample ? s->on_sample(s->arg, out) : 0;
}

// ---- one token for some samples

// Gives a sample that goes on its own copy of the prompt's partly filled page.
static int copy_partial_page(struct batcher *s, const struct batcher_slot *slot)
{
    const struct rollout_request *q = &s->requests[slot->request];
    const int full = q->prompt_len / KV_PAGE, rows = q->prompt_len % KV_PAGE;
    if (rows == 0 || slot->index == q->n - 1)
        return 0;
    return kv_cache_copy_page(s->cache, slot->pages[full], prompt_table(s, slot->request)[full],
                              rows);
}

// Appends drawn token `row` to a sample; *why is set and true returned in *done when that ends it.
static int append(struct batcher *s, struct batcher_slot *slot, int row, bool *done,
                  enum rollout_finish *why)
{
    const struct rollout_sampling *p = &s->requests[slot->request].sampling;
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
    slot->truncated[slot->len] = s->drawn.truncated[row];
    slot->len++;
    const bool stop = is_stop(p, token);
    *done = stop || slot->len == p->max_tokens;
    *why = stop ? ROLLOUT_STOP : ROLLOUT_LENGTH;
    return 0;
}

// Fills s->drawn for live[begin, end) from logits [end - begin, V].
static int draw_tokens(struct batcher *s, int begin, int end)
{
    for (int i = begin; i < end; i++) {
        const struct batcher_slot *slot = s->live[i];
        const struct rollout_request *q = &s->requests[slot->request];
        s->draws[i - begin] = (struct sample_row){
            .temperature = (float)q->sampling.temperature,
            .top_k = q->sampling.top_k,
            .top_p = (float)q->sampling.top_p,
            .min_p = (float)q->sampling.min_p,
            .u = batcher_uniform(s->key, q->id, slot->index, slot->len),
        };
    }
    struct device *dev = s->policy->dev;
    const struct batcher_drawn *out = &s->drawn_on_device;
    const struct sample_args args = {.logits = s->logits,
                                     .rows = s->memory->draws.data,
                                     .token = out->token,
                                     .logprob = out->logprob,
                                     .entropy = out->entropy,
                                     .truncated = out->truncated,
                                     .B = end - begin,
                                     .V = s->policy->arch.V};
    int rc = dev->memory->upload(dev, s->memory->draws.data, s->draws,
                                 (size_t)args.B * sizeof *s->draws);
    if (rc == 0)
        rc = dev->k->sample(dev, &args);
    if (rc == 0)
        rc = dev->memory->download(dev, s->drawn.token, out->token, drawn_bytes(s->batch));
    return rc;
}

// Draws a token for each of live[begin, end) from logits [end - begin, V]; the finished leave.
static int draw(struct batcher *s, int begin, int end)
{
    int rc = draw_tokens(s, begin, end);
    int i = begin, kept = begin;
    for (; i < end && rc == 0; i++) {
        struct batcher_slot *slot = s->live[i];
        bool done = false;
        enum rollout_finish why;
        rc = append(s, slot, i - begin, &done, &why);
        if (done) {
            s->idle[s->batch - s->num_live + (i - kept)] = slot;
            rc = finish(s, slot, why);
            continue;
        }
        s->live[kept++] = slot;
        if (rc == 0 && slot->len == 1)
            rc = copy_partial_page(s, slot);
    }
    memmove(&s->live[kept], &s->live[i], (size_t)(s->num_live - i) * sizeof *s->live);
    s->num_live -= i - kept;
    s->num_started = end - (i - kept);
    return rc;
}

// ---- prompts

static float *logits_row(const struct batcher *s, int row)
{
    return &s->logits[(size_t)row * (size_t)s->policy->arch.V];
}

static int copy_row(const struct batcher *s, float *to, const float *from)
{
    struct device *dev = s->policy->dev;
    return dev->memory->copy(dev, to, from, (size_t)s->policy->arch.V * sizeof *to);
}

// First tokens of the admitted samples of requests [first, end), whose logits are one row each. The
// rows are spread to one a sample in place, from the back: a sample's row is never before its
// request's.
static int start_samples(struct batcher *s, int first, int end)
{
    const int begin = s->num_started;
    int last = begin, rc = 0;
    while (last < s->num_live && s->live[last]->request < end)
        last++;
    if (end - 1 == s->next) // with samples that are not admitted yet
        rc = copy_row(s, s->carried, logits_row(s, end - 1 - first));
    for (int i = last - 1; i >= begin && rc == 0; i--) {
        const int to = i - begin, from = s->live[i]->request - first;
        if (to != from)
            rc = copy_row(s, logits_row(s, to), logits_row(s, from));
    }
    return rc != 0 ? rc : draw(s, begin, last);
}

// First tokens of samples whose prompt was computed when others of its samples were admitted.
static int start_carried(struct batcher *s)
{
    if (s->num_started == s->num_live)
        return 0;
    const int request = s->live[s->num_started]->request;
    if (request >= s->prefilled)
        return 0;
    const int rc = copy_row(s, s->logits, s->carried);
    return rc != 0 ? rc : start_samples(s, request, request + 1);
}

// One call over the next prompt tokens of the admitted requests.
static int prefill(struct batcher *s)
{
    const int first = s->prefilled, end = s->live[s->num_live - 1]->request + 1;
    int T = 0, chunks = 0, rows = 0, r = first, done = s->prompt_done;
    while (r < end && T < s->prefill_tokens) {
        const struct rollout_request *q = &s->requests[r];
        const int left = q->prompt_len - done, room = s->prefill_tokens - T;
        const int len = left < room ? left : room;
        memcpy(&s->tokens[T], &q->prompt[done], (size_t)len * sizeof *s->tokens);
        s->chunks[chunks++] =
            (struct policy_chunk){.start = T, .len = len, .pos = done, .pages = prompt_table(s, r)};
        T += len;
        done += len;
        if (done == q->prompt_len) {
            s->rows_asked[rows++] = T - 1;
            done = 0;
            r++;
        }
    }
    const int rc = policy_decode(s->policy, s->cache, T, s->tokens, chunks, s->chunks, rows,
                                 s->rows_asked, s->logits);
    if (rc != 0)
        return rc;
    s->stats->prompt_tokens += T;
    s->prefilled = r;
    s->prompt_done = done;
    return rows == 0 ? 0 : start_samples(s, first, r);
}

// ---- the run

static int decode(struct batcher *s)
{
    const int B = s->num_live;
    for (int i = 0; i < B; i++) {
        const struct batcher_slot *slot = s->live[i];
        s->tokens[i] = slot->tokens[slot->len - 1];
        s->chunks[i] =
            (struct policy_chunk){.start = i,
                                  .len = 1,
                                  .pos = s->requests[slot->request].prompt_len + slot->len - 1,
                                  .pages = slot->pages};
        s->rows_asked[i] = i;
    }
    const int rc =
        policy_decode(s->policy, s->cache, B, s->tokens, B, s->chunks, B, s->rows_asked, s->logits);
    if (rc != 0)
        return rc;
    s->steps++;
    s->rows += B;
    return draw(s, 0, B);
}

int batcher_run(struct batcher *s)
{
    int rc = open_memory(s);
    while (rc == 0 && (s->next < s->num_requests || s->num_live > 0)) {
        while (admit_next(s)) {
        }
        assert(s->num_live > 0); // any one sample fits an empty cache
        const double t0 = clock_seconds();
        rc = start_carried(s);
        while (rc == 0 && s->num_started < s->num_live)
            rc = prefill(s);
        const double t1 = clock_seconds();
        if (rc == 0 && s->num_live > 0)
            rc = decode(s);
        s->stats->prefill_seconds += t1 - t0;
        s->stats->decode_seconds += clock_seconds() - t1;
    }
    release_all(s);
    s->stats->mean_batch = s->steps > 0 ? (double)s->rows / (double)s->steps : 0;
    return rc;
}
