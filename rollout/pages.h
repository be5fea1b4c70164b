// SPDX-License-Identifier: Apache-2.0
// Who holds which page of the cache: a stack of free pages and a count of holders for each. Any
// free page serves any purpose, so there is no fragmentation. Storage is policy/kvcache.h's.
#ifndef ROLLOUT_PAGES_H
#define ROLLOUT_PAGES_H

struct pages {
    int count, num_free;
    int peak;     // most pages held at once since pages_open or the last reset by the owner
    int *free;    // [count], the first num_free are the free pages, the last freed on top
    int *holders; // [count]
};

void pages_open(struct pages *p, int count);
void pages_close(struct pages *p); // leaves a zeroed struct

int pages_take(struct pages *p);               // one holder; there must be a free page
void pages_share(struct pages *p, int page);   // one holder more
void pages_release(struct pages *p, int page); // one holder less; free when there is none
int pages_held(const struct pages *p);

#endif
