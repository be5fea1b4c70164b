// SPDX-License-Identifier: Apache-2.0
#include "rollout/batcher.h"

#include "base/error.h"
#include "rollout/batcher_draw.h"
#include "rollout/batcher_memory.h"

#include <assert.h>
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
int batcher_pages_to_end(const struct rollout_request *q)
{
    return batcher_pages((int64_t)q->prompt_len + q->sampling.max_tokens - 1);
}

int batcher_pages_one(const struct rollout_request *q)
{
    const int copies = q->n > 1 && q->prompt_len % KV_PAGE != 0;
    return batcher_pages_to_end(q) + copies;
}

int64_t batcher_pages_all(const struct rollout_request *q)
{
    const int full = q->prompt_len / KV_PAGE;
    return full + (int64_t)q->n * (batcher_pages_to_end(q) - full);
}

// ---- admission

static int *prompt_table(const struct batcher *s, int request)
{
    return &s->prompt_pages[s->first_page[request]];
}

// The pages, not yet held, that earlier prompts have in common with this one.
static int find_shared(const struct batcher *s, const struct rollout_request *q, int *table)
{
    int n = 0;
    for (int before = -1; n < (q->prompt_len - 1) / KV_PAGE; n++) {
        before = pages_find(s->pages, before, &q->prompt[n * KV_PAGE]);
        if (before < 0)
            break;
        table[n] = before;
    }
    return n;
}

static int count_free(const struct pages *p, const int *table, int n)
{
    int free = 0;
    for (int i = 0; i < n; i++)
        free += p->holders[table[i]] == 0;
    return free;
}

// Holds the first `shared` pages of the prompt's table, takes the rest and names the full ones.
static void take_prompt(struct batcher *s, const struct rollout_request *q, int *table, int shared)
{
    for (int i = 0; i < shared; i++)
        pages_hold(s->pages, table[i]);
    for (int i = shared; i < batcher_pages(q->prompt_len); i++) {
        table[i] = pages_take(s->pages);
        if (i < q->prompt_len / KV_PAGE)
            pages_name(s->pages, table[i], i > 0 ? table[i - 1] : -1, &q->prompt[i * KV_PAGE]);
    }
}

static struct batcher_slot *enter(struct batcher *s, int request, int index)
{
    struct batcher_slot *slot = s->idle[s->batch - s->num_live - 1];
    slot->request = request;
    slot->index = index;
    slot->len = 0;
    slot->done = false;
    memset(slot->matched, 0, (size_t)s->stop_strings[request].count * sizeof *slot->matched);
    return s->live[s->num_live++] = slot;
}

// Takes the next sample into the batch, with all the pages that it may come to need; false when
// there is none, no place for it, or not enough pages.
static bool admit_next(struct batcher *s)
{
    if (s->next == s->num_requests || s->num_live == s->batch || s->cancelled[s->next])
        return false;
    const struct rollout_request *q = &s->requests[s->next];
    const bool first = s->next_index == 0, last = s->next_index == q->n - 1;
    const int prompt = batcher_pages(q->prompt_len), total = batcher_pages_to_end(q);
    const int shared = last ? prompt : q->prompt_len / KV_PAGE;
    int *table = prompt_table(s, s->next);
    int needed = total - shared;
    if (first) {
        const int found = s->shared_pages[s->next] = find_shared(s, q, table);
        needed += prompt - found + count_free(s->pages, table, found);
    }
    if (needed > s->pages->num_free)
        return false;

    if (first) {
        take_prompt(s, q, table, s->shared_pages[s->next]);
        s->stats->shared_tokens += (int64_t)s->shared_pages[s->next] * KV_PAGE;
    }
    struct batcher_slot *slot = enter(s, s->next, s->next_index);
    slot->num_pages = total;
    for (int i = 0; i < shared; i++) {
        slot->pages[i] = table[i];
        if (!last) // the last sample takes over the request's hold
            pages_hold(s->pages, table[i]);
    }
    for (int i = shared; i < total; i++)
        slot->pages[i] = pages_take(s->pages);
    s->next_index = last ? 0 : s->next_index + 1;
    s->next += last;
    return true;
}

// From the last to the first, as pages.h asks.
static void release(struct batcher *s, const int *table, int count)
{
    while (count > 0)
        pages_release(s->pages, table[--count]);
}

static void release_all(struct batcher *s)
{
    for (int i = 0; i < s->num_live; i++)
        release(s, s->live[i]->pages, s->live[i]->num_pages);
    if (s->next < s->num_requests && s->next_index > 0)
        release(s, prompt_table(s, s->next), batcher_pages(s->requests[s->next].prompt_len));
    s->num_live = s->num_started = 0;
    pages_forget(s->pages);
}

// ---- the end of a sample

// Copies `size` bytes to *at, which moves on; returns where they are.
static void *keep(char **at, const void *data, size_t size)
{
    void *to = *at;
    if (size > 0)
        memcpy(to, data, size);
    *at += size;
    return to;
}

static int finish(struct batcher *s, const struct batcher_slot *slot)
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
    out->finish = slot->why;
    out->stop_string = slot->stop_string;
    release(s, slot->pages, slot->num_pages);
    s->stats->completion_tokens += slot->len;
    return s->on_sample ? s->on_sample(s->arg, out) : 0;
}

// The samples that are done leave the batch.
static int retire(struct batcher *s)
{
    const int live = s->num_live;
    int kept = 0, rc = 0;
    for (int i = 0; i < live; i++) {
        struct batcher_slot *slot = s->live[i];
        if (!slot->done || rc != 0) {
            s->live[kept++] = slot;
            continue;
        }
        s->idle[s->batch - s->num_live--] = slot;
        s->num_started--;
        rc = finish(s, slot);
    }
    return rc;
}

// ---- cancelling

// Passes over the samples of cancelled requests that are not admitted.
static int pass_cancelled(struct batcher *s)
{
    int rc = 0;
    while (rc == 0 && s->next < s->num_requests && s->cancelled[s->next]) {
        const struct rollout_request *q = &s->requests[s->next];
        struct batcher_slot none = {
            .request = s->next, .why = ROLLOUT_CANCELLED, .stop_string = -1};
        if (s->next_index == 0)
            s->shared_pages[s->next] = -1;
        else if (s->next >= s->prefilled)
            break; // its prompt is being computed
        else
            release(s, prompt_table(s, s->next), batcher_pages(q->prompt_len));
        none.index = s->next_index;
        s->next_index = 0;
        s->next++;
        for (; none.index < q->n && rc == 0; none.index++)
            rc = finish(s, &none);
    }
    return rc;
}

static int cancel(struct batcher *s)
{
    for (int i = 0; i < s->num_started; i++) {
        struct batcher_slot *slot = s->live[i];
        if (!s->cancelled[slot->request])
            continue;
        slot->done = true;
        slot->why = ROLLOUT_CANCELLED;
    }
    const int rc = retire(s);
    return rc != 0 ? rc : pass_cancelled(s);
}

// ---- a step

// Its parts: tokens of samples that have one; samples to be started from the carried logits; and
// prompts, those of requests [first, end) to their end.
struct step {
    int started, carried, ends;
    int T, chunks, rows;
    int first, end, done; // done: tokens of prompt `end`
};

static void add_tokens(struct batcher *s, struct step *p, const int *tokens, int len, int pos,
                       const int *pages)
{
    memcpy(&s->tokens[p->T], tokens, (size_t)len * sizeof *tokens);
    s->chunks[p->chunks++] =
        (struct policy_chunk){.start = p->T, .len = len, .pos = pos, .pages = pages};
    p->T += len;
}

static void plan_started(struct batcher *s, struct step *p)
{
    for (int i = 0; i < s->num_started; i++) {
        const struct batcher_slot *slot = s->live[i];
        const int pos = s->requests[slot->request].prompt_len + slot->len - 1;
        s->rows_asked[p->rows++] = p->T;
        add_tokens(s, p, &slot->tokens[slot->len - 1], 1, pos, slot->pages);
    }
    p->started = s->num_started;
    while (p->started + p->carried < s->num_live &&
           s->live[p->started + p->carried]->request < s->prefilled)
        p->carried++;
}

static void plan_prompts(struct batcher *s, struct step *p)
{
    const int most = s->prefill_tokens, admitted = s->next + (s->next_index > 0);
    p->first = p->end = s->prefilled;
    p->done = s->prompt_done;
    for (; p->end < admitted && p->T < most; p->end++, p->done = 0) {
        const struct rollout_request *q = &s->requests[p->end];
        const int shared = s->shared_pages[p->end] * KV_PAGE;
        if (shared < 0)
            continue;
        const int from = p->done > shared ? p->done : shared, left = q->prompt_len - from;
        const int len = left < most - p->T ? left : most - p->T;
        add_tokens(s, p, &q->prompt[from], len, from, prompt_table(s, p->end));
        if (len < left) {
            p->done = from + len;
            break;
        }
        s->rows_asked[p->rows++] = p->T - 1;
    }
    p->ends = p->rows - p->started;
}

static float *logits_row(const struct batcher *s, int row)
{
    return &s->logits[(size_t)row * (size_t)s->policy->arch.V];
}

static int copy_row(const struct batcher *s, float *to, const float *from)
{
    struct device *dev = s->policy->dev;
    return dev->memory->copy(dev, to, from, (size_t)s->policy->arch.V * sizeof *to);
}

// Logits of the samples that get their first token, from those of the prompts' ends, which stand
// behind the rows of started samples, and from the carried ones. In place, from the back: a
// sample's row is never before its request's. Returns how many samples have logits then in *count.
static int spread_logits(struct batcher *s, const struct step *p, int *count)
{
    const int begin = p->started + p->carried;
    int last = begin, row = p->rows - 1, rc = 0;
    while (last < s->num_live && s->live[last]->request < p->end)
        last++;
    for (int i = last - 1; i >= begin && rc == 0; i--) {
        if (i != row)
            rc = copy_row(s, logits_row(s, i), logits_row(s, row));
        if (s->live[i - (i > begin)]->request != s->live[i]->request)
            row--;
    }
    for (int i = p->started; i < begin && rc == 0; i++)
        rc = copy_row(s, logits_row(s, i), s->carried);
    // The next request has samples that are not admitted yet.
    if (rc == 0 && last > begin && s->live[last - 1]->request == s->next)
        rc = copy_row(s, s->carried, logits_row(s, last - 1));
    *count = last;
    return rc;
}

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

static int draw(struct batcher *s, const struct step *p)
{
    int count = 0;
    int rc = spread_logits(s, p, &count);
    if (rc == 0 && count > 0)
        rc = batcher_draw(s, count);
    for (int i = p->started; i < count && rc == 0; i++)
        if (!s->live[i]->done)
            rc = copy_partial_page(s, s->live[i]);
    if (rc != 0)
        return rc;
    if (count > 0 && s->stats->first_token_seconds == 0)
        s->stats->first_token_seconds = clock_seconds() - s->start;
    s->num_started = count;
    return retire(s);
}

static void count_step(struct batcher *s, const struct step *p, double seconds)
{
    const int prompts = p->T - p->started;
    const double share = p->T > 0 ? (double)prompts / p->T : 1;
    s->stats->prompt_tokens += prompts;
    s->stats->prefill_seconds += share * seconds;
    s->stats->decode_seconds += (1 - share) * seconds;
    s->steps += p->started > 0;
    s->rows += p->started;
}

static int step(struct batcher *s)
{
    const double start = clock_seconds();
    struct step p = {0};
    int rc = 0;
    plan_started(s, &p);
    plan_prompts(s, &p);
    if (p.T > 0)
        rc = policy_decode(s->policy, s->cache, p.T, s->tokens, p.chunks, s->chunks, p.rows,
                           s->rows_asked, s->logits);
    if (rc != 0)
        return rc;
    s->prefilled = p.end;
    s->prompt_done = p.done;
    rc = draw(s, &p);
    if (rc == 0 && p.T > 0)
        rc = policy_add_load(s->expert_load, s->policy);
    count_step(s, &p, clock_seconds() - start);
    return rc;
}

int batcher_run(struct batcher *s)
{
    s->start = clock_seconds();
    int rc = batcher_memory_open(s);
    while (rc == 0 && (s->next < s->num_requests || s->num_live > 0)) {
        while (admit_next(s)) {
        }
        if (s->num_live > 0) // any one sample fits an empty cache: if not, the next is cancelled
            rc = step(s);
        if (rc == 0)
            rc = cancel(s);
    }
    release_all(s);
    s->stats->mean_batch = s->steps > 0 ? (double)s->rows / (double)s->steps : 0;
    return rc;
}
