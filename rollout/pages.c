// SPDX-License-Identifier: Apache-2.0
#include "rollout/pages.h"

#include "base/mem.h"
#include "base/philox.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct pages_entry {
    bool named;
    int before, next; // the page before it; the next of its bucket, -1: none
    int older, newer; // in the ring
    int tokens[KV_PAGE];
};

void pages_open(struct pages *p, int count)
{
    assert(count >= 0);
    *p = (struct pages){.count = count, .num_free = count, .num_blank = count, .num_buckets = 1};
    while (p->num_buckets < count)
        p->num_buckets *= 2;
    p->blank = mem_array0((size_t)count, sizeof *p->blank);
    p->holders = mem_array0((size_t)count, sizeof *p->holders);
    p->entries = mem_array0((size_t)count + 1, sizeof *p->entries);
    p->buckets = mem_array0((size_t)p->num_buckets, sizeof *p->buckets);
    for (int i = 0; i < count; i++)
        p->blank[i] = count - 1 - i; // page 0 on top
    for (int i = 0; i < p->num_buckets; i++)
        p->buckets[i] = -1;
    p->entries[count].older = p->entries[count].newer = count;
}

void pages_close(struct pages *p)
{
    free(p->blank);
    free(p->holders);
    free(p->entries);
    free(p->buckets);
    memset(p, 0, sizeof *p);
}

// ---- names

static int *bucket_of(const struct pages *p, int before, const int *tokens)
{
    uint64_t hash = philox_mix((uint64_t)before + 1, 0);
    for (int i = 0; i < KV_PAGE; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * 0x9E3779B97F4A7C15U; // 2^64 over the golden ratio
    return &p->buckets[(hash >> 32) & (uint64_t)(p->num_buckets - 1)];
}

int pages_find(const struct pages *p, int before, const int *tokens)
{
    for (int page = *bucket_of(p, before, tokens); page >= 0; page = p->entries[page].next) {
        const struct pages_entry *e = &p->entries[page];
        if (e->before == before && memcmp(e->tokens, tokens, sizeof e->tokens) == 0)
            return page;
    }
    return -1;
}

void pages_name(struct pages *p, int page, int before, const int *tokens)
{
    struct pages_entry *e = &p->entries[page];
    int *bucket = bucket_of(p, before, tokens);
    assert(p->holders[page] > 0 && !e->named);
    e->named = true;
    e->before = before;
    memcpy(e->tokens, tokens, sizeof e->tokens);
    e->next = *bucket;
    *bucket = page;
}

static void ring_remove(struct pages *p, int page)
{
    const struct pages_entry *e = &p->entries[page];
    p->entries[e->older].newer = e->newer;
    p->entries[e->newer].older = e->older;
}

static void ring_add(struct pages *p, int page)
{
    struct pages_entry *e = &p->entries[page], *end = &p->entries[p->count];
    e->older = end->older;
    e->newer = p->count;
    p->entries[e->older].newer = page;
    end->older = page;
}

// Makes the free named page that is longest without holders a blank one.
static void blank_oldest(struct pages *p)
{
    const int page = p->entries[p->count].newer;
    assert(page < p->count);
    struct pages_entry *e = &p->entries[page];
    int *at = bucket_of(p, e->before, e->tokens);
    while (*at != page)
        at = &p->entries[*at].next;
    *at = e->next;
    ring_remove(p, page);
    e->named = false;
    p->blank[p->num_blank++] = page;
}

void pages_forget(struct pages *p)
{
    assert(pages_held(p) == 0);
    while (p->num_blank < p->num_free)
        blank_oldest(p);
}

// ---- holders

static void count_held(struct pages *p, int page)
{
    p->holders[page] = 1;
    p->num_free--;
    if (pages_held(p) > p->peak)
        p->peak = pages_held(p);
}

int pages_take(struct pages *p)
{
    assert(p->num_free > 0);
    if (p->num_blank == 0)
        blank_oldest(p);
    const int page = p->blank[--p->num_blank];
    assert(p->holders[page] == 0);
    count_held(p, page);
    return page;
}

void pages_hold(struct pages *p, int page)
{
    assert(page >= 0 && page < p->count && (p->holders[page] > 0 || p->entries[page].named));
    if (p->holders[page] > 0) {
        p->holders[page]++;
        return;
    }
    ring_remove(p, page);
    count_held(p, page);
}

void pages_release(struct pages *p, int page)
{
    assert(page >= 0 && page < p->count && p->holders[page] > 0);
    if (--p->holders[page] > 0)
        return;
    p->num_free++;
    if (p->entries[page].named)
        ring_add(p, page);
    else
        p->blank[p->num_blank++] = page;
}

int pages_held(const struct pages *p) { return p->count - p->num_free; }
