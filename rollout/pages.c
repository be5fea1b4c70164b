// SPDX-License-Identifier: Apache-2.0
#include "rollout/pages.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void pages_open(struct pages *p, int count)
{
    assert(count >= 0);
    *p = (struct pages){.count = count, .num_free = count};
    p->free = mem_array0((size_t)count, sizeof *p->free);
    p->holders = mem_array0((size_t)count, sizeof *p->holders);
    for (int i = 0; i < count; i++)
        p->free[i] = count - 1 - i; // page 0 on top
}

void pages_close(struct pages *p)
{
    free(p->free);
    free(p->holders);
    memset(p, 0, sizeof *p);
}

int pages_take(struct pages *p)
{
    assert(p->num_free > 0);
    const int page = p->free[--p->num_free];
    assert(p->holders[page] == 0);
    p->holders[page] = 1;
    if (pages_held(p) > p->peak)
        p->peak = pages_held(p);
    return page;
}

void pages_share(struct pages *p, int page)
{
    assert(page >= 0 && page < p->count && p->holders[page] > 0);
    p->holders[page]++;
}

void pages_release(struct pages *p, int page)
{
    assert(page >= 0 && page < p->count && p->holders[page] > 0);
    if (--p->holders[page] == 0)
        p->free[p->num_free++] = page;
}

int pages_held(const struct pages *p) { return p->count - p->num_free; }
