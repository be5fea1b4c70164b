// SPDX-License-Identifier: Apache-2.0
#include "rollout/rollout.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/philox.h"
#include "rollout/batcher.h"
#include "rollout/batcher_memory.h"
#include "rollout/pages.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_DEFAULT = 512, PREFILL_DEFAULT = 4096 };

struct rollout_engine {
    struct policy *policy;
    struct rollout_options options;
    struct kv_cache *cache; // NULL until the first run when its size follows the requests
    struct pages pages;
    struct arena results, work; // of the last run; of the current run
    struct batcher_memory memory;
    struct rollout_stats stats;
    struct batcher *running; // NULL but during a run
};

static struct rollout_options complete(const struct rollout_options *o)
{
    struct rollout_options out = *o;
    if (out.max_batch == 0)
        out.max_batch = BATCH_DEFAULT;
    if (out.prefill_tokens == 0)
        out.prefill_tokens = PREFILL_DEFAULT;
    return out;
}

static int open_cache(struct rollout_engine *e, int num_pages)
{
    kv_cache_free(&e->cache);
    pages_close(&e->pages);
    const int rc =
        kv_cache_open(&e->cache, e->policy->dev, &e->policy->arch, e->policy->dtype, num_pages);
    if (rc == 0)
        pages_open(&e->pages, num_pages);
    return rc;
}

int rollout_open(struct rollout_engine **out, struct policy *p, const struct rollout_options *o)
{
    if (o->max_batch < 0 || o->prefill_tokens < 0 || o->cache_tokens < 0 ||
        o->cache_tokens / KV_PAGE >= INT_MAX)
        return err_set(ERR_CONFIG, "rollout: max_batch %d, cache_tokens %lld, prefill_tokens %d",
                       o->max_batch, (long long)o->cache_tokens, o->prefill_tokens);
    struct rollout_engine *e = mem_alloc0(sizeof *e);
    e->policy = p;
    e->options = complete(o);
    const int rc = o->cache_tokens > 0 ? open_cache(e, batcher_pages(o->cache_tokens)) : 0;
    if (rc != 0) {
        rollout_free(&e);
        return rc;
    }
    *out = e;
    return 0;
}

void rollout_free(struct rollout_engine **e)
{
    if (!*e)
        return;
    kv_cache_free(&(*e)->cache);
    pages_close(&(*e)->pages);
    arena_free(&(*e)->results);
    arena_free(&(*e)->work);
    batcher_memory_free(&(*e)->memory);
    free(*e);
    *e = NULL;
}

// ---- checks

static int check_sampling(int r, const struct rollout_sampling *p)
{
    if (p->max_tokens < 1)
        return err_set(ERR_CONFIG, "request %d: max_tokens is %d, at least 1 is needed", r,
                       p->max_tokens);
    if (!(p->temperature >= 0) || !isfinite(p->temperature))
        return err_set(ERR_CONFIG, "request %d: temperature is %g, at least 0 is needed", r,
                       p->temperature);
    if (p->top_k < 0 || !(p->top_p > 0 && p->top_p <= 1) || !(p->min_p >= 0 && p->min_p <= 1))
        return err_set(ERR_CONFIG,
                       "request %d: top_k %d, top_p %g, min_p %g; needed are top_k >= 0, "
                       "0 < top_p <= 1, 0 <= min_p <= 1",
                       r, p->top_k, p->top_p, p->min_p);
    if (!(p->repetition_penalty >= 0) || !isfinite(p->repetition_penalty))
        return err_set(ERR_CONFIG,
                       "request %d: repetition_penalty is %g, at least 0 is needed (0 and 1: off)",
                       r, p->repetition_penalty);
    return 0;
}

static int check_ends(int r, const struct rollout_sampling *p, const struct tokenizer *t)
{
    if (p->num_stop_strings > 0 && t == NULL)
        return err_set(ERR_CONFIG, "request %d: stop strings need a tokenizer, and there is none",
                       r);
    for (int i = 0; i < p->num_stop_strings; i++) {
        if (p->stop_strings[i][0] == '\0')
            return err_set(ERR_CONFIG, "request %d: stop string %d is empty", r, i);
    }
    return 0;
}

static int check_request(const struct rollout_engine *e, int r, const struct rollout_request *q)
{
    const struct arch *a = &e->policy->arch;
    if (q->prompt_len < 1)
        return err_set(ERR_DATA, "request %d: the prompt has no tokens", r);
    if (q->n < 1)
        return err_set(ERR_CONFIG, "request %d: %d samples are asked for, at least 1 is needed", r,
                       q->n);
    int rc = check_sampling(r, &q->sampling);
    if (rc == 0)
        rc = check_ends(r, &q->sampling, e->options.tokenizer);
    if (rc != 0)
        return rc;
    if ((int64_t)q->prompt_len + q->sampling.max_tokens > a->max_positions)
        return err_set(ERR_CONFIG,
                       "request %d: %d prompt tokens and max_tokens %d exceed the model's %d "
                       "positions",
                       r, q->prompt_len, q->sampling.max_tokens, a->max_positions);
    for (int i = 0; i < q->prompt_len; i++) {
        if (q->prompt[i] < 0 || q->prompt[i] >= a->V)
            return err_set(ERR_DATA, "request %d: prompt token %d is %d, ids are 0 to %d", r, i,
                           q->prompt[i], a->V - 1);
    }
    return 0;
}

// ---- the size of the cache

// Half of the device's memory; on a CPU only the pages that a run touches become resident.
static int pages_in_memory(int64_t *out, struct device *dev, size_t page_bytes)
{
    *out = INT_MAX;
    if (!dev->memory->available)
        return 0;
    size_t bytes;
    const int rc = dev->memory->available(dev, &bytes);
    if (rc != 0)
        return rc;
    const size_t pages = bytes / 2 / page_bytes;
    *out = pages < INT_MAX ? (int64_t)pages : INT_MAX;
    return 0;
}

// Pages that let `batch` samples of the longest request run at once, or all samples if that is
// less.
static int64_t fewer_pages(int64_t all, int64_t longest, int batch)
{
    return all < longest * batch ? all : longest * batch;
}

static int64_t pages_wanted(const struct rollout_request *q, int num_requests, int batch)
{
    int64_t all = 0, longest = 0;
    for (int r = 0; r < num_requests; r++) {
        all += batcher_pages_all(&q[r]);
        if (batcher_pages_one(&q[r]) > longest)
            longest = batcher_pages_one(&q[r]);
    }
    return fewer_pages(all, longest, batch);
}

static int fit_cache(struct rollout_engine *e, const struct rollout_request *q, int num_requests,
                     int batch)
{
    const struct arch *a = &e->policy->arch;
    const bool fixed = e->options.cache_tokens > 0;
    int64_t limit;
    int rc = 0;
    if (fixed)
        limit = e->cache->num_pages;
    else
        rc = pages_in_memory(&limit, e->policy->dev, kv_page_bytes(a, e->policy->dtype));
    if (rc != 0)
        return rc;
    for (int r = 0; r < num_requests; r++) {
        const int need = batcher_pages_one(&q[r]);
        if (need > limit)
            return err_set(ERR_CONFIG,
                           "request %d: %d prompt tokens and max_tokens %d need %d cache pages of "
                           "%d tokens (%zu bytes each), and %s %lld",
                           r, q[r].prompt_len, q[r].sampling.max_tokens, need, KV_PAGE,
                           kv_page_bytes(a, e->policy->dtype),
                           fixed ? "the cache has" : "half of the memory holds", (long long)limit);
    }
    int64_t want = pages_wanted(q, num_requests, batch);
    if (want > limit)
        want = limit;
    if (e->cache && (fixed || e->cache->num_pages >= want))
        return 0;
    return open_cache(e, (int)want);
}

int rollout_plan(struct rollout_memory *out, struct device *dev, const struct arch *arch,
                 enum dtype dtype, const struct rollout_options *o, const struct rollout_request *q,
                 int num_requests)
{
    const struct rollout_options options = complete(o);
    const size_t page = kv_page_bytes(arch, dtype);
    const int64_t samples = (int64_t)num_requests * q->n;
    const int batch = samples < options.max_batch ? (int)samples : options.max_batch;
    // Where samples wait for places, prompts are computed beside others' samples.
    const int64_t rows = (int64_t)num_requests * q->prompt_len + (samples > batch ? batch : 0);
    const int prefill = rows < options.prefill_tokens ? (int)rows : options.prefill_tokens;
    const int positions = q->prompt_len + q->sampling.max_tokens;
    int64_t limit;
    int64_t pages = fewer_pages(num_requests * batcher_pages_all(q), batcher_pages_one(q), batch);
    const int rc = pages_in_memory(&limit, dev, page);
    if (rc != 0)
        return rc;
    pages = pages < limit ? pages : limit;
    pages = options.cache_tokens > 0 ? batcher_pages(options.cache_tokens) : pages;
    *out = (struct rollout_memory){
        .cache = (size_t)pages * page,
        .sampling = batcher_memory_bytes(batch, arch->V),
        .pass = {.T = prefill > batch ? prefill : batch,
                 .num_targets = batch,
                 .num_seqs = batch,
                 .num_blocks = policy_decode_blocks(batch * batcher_pages(positions), batch)},
        .positions = positions,
    };
    return 0;
}

// ---- the run

static int count_samples(int *total, int *first, const struct rollout_engine *e,
                         const struct rollout_request *q, int num_requests)
{
    int64_t sum = 0;
    for (int r = 0; r < num_requests; r++) {
        const int rc = check_request(e, r, &q[r]);
        if (rc != 0)
            return rc;
        first[r] = (int)sum;
        sum += q[r].n;
        if (sum > INT_MAX)
            return err_set(ERR_CONFIG, "request %d: more than %d samples in one run", r, INT_MAX);
    }
    *total = (int)sum;
    return 0;
}

static int run_requests(const struct rollout_sample **out, int *count, struct rollout_engine *e,
                        struct batcher *s)
{
    const struct rollout_request *q = s->requests;
    int *first = ARENA_ARRAY(&e->work, int, s->num_requests);
    int total = 0;
    int rc = count_samples(&total, first, e, q, s->num_requests);
    if (rc != 0)
        return rc;
    s->batch = total < e->options.max_batch ? total : e->options.max_batch;
    rc = total > 0 ? fit_cache(e, q, s->num_requests, s->batch) : 0;
    if (rc != 0)
        return rc;
    e->pages.peak = 0;
    s->cache = e->cache;
    s->first_sample = first;
    s->samples = ARENA_ARRAY(&e->results, struct rollout_sample, total);
    s->cancelled = ARENA_ARRAY(&e->work, bool, s->num_requests);
    s->expert_load = ARENA_ARRAY(&e->work, int64_t, e->policy->arch.L * e->policy->arch.E);
    e->running = s;
    rc = total > 0 ? batcher_run(s) : 0;
    e->running = NULL;
    e->stats.held_pages = pages_held(&e->pages);
    assert(e->stats.held_pages == 0);
    e->stats.peak_pages = e->pages.peak;
    e->stats.num_pages = e->pages.count;
    e->stats.max_batch = s->batch;
    e->stats.max_violation = policy_load_violation(&e->policy->arch, s->expert_load);
    if (rc != 0)
        return rc;
    *out = s->samples;
    *count = total;
    return 0;
}

int rollout_run(const struct rollout_sample **out, int *count, struct rollout_engine *e,
                uint64_t step, const struct rollout_request *requests, int num_requests,
                rollout_callback *on_sample, void *arg)
{
    arena_free(&e->results);
    e->stats = (struct rollout_stats){0};
    struct batcher s = {
        .policy = e->policy,
        .pages = &e->pages,
        .work = &e->work,
        .results = &e->results,
        .memory = &e->memory,
        .key = philox_mix(e->options.seed, step),
        .requests = requests,
        .num_requests = num_requests,
        .prefill_tokens = e->options.prefill_tokens,
        .tokenizer = e->options.tokenizer,
        .on_sample = on_sample,
        .arg = arg,
        .stats = &e->stats,
    };
    const int rc = run_requests(out, count, e, &s);
    arena_free(&e->work);
    return rc;
}

void rollout_cancel(struct rollout_engine *e, int request)
{
    assert(e->running != NULL && request >= 0 && request < e->running->num_requests);
    e->running->cancelled[request] = true;
}

void rollout_get_stats(const struct rollout_engine *e, struct rollout_stats *out)
{
    *out = e->stats;
}
