// SPDX-License-Identifier: Apache-2.0
// Who holds which page of the cache: a count of holders for each, and the free ones. Any free page
// serves any purpose, so there is no fragmentation. Storage is policy/kvcache.h's.
//
// Pages that are full may be named by what they hold: the tokens of the page and, through the page
// before it, all tokens from position 0 on. They are found again by that name, so that prompts with
// a common beginning share pages. A named page without holders is free, but keeps its name until it
// is taken: blank pages first, then the one longest without holders. Who holds a page holds the
// ones before it and gives them back after it, so none is taken before those that follow it.
#ifndef ROLLOUT_PAGES_H
#define ROLLOUT_PAGES_H

#include "policy/kvcache.h"

struct pages_entry;

struct pages {
    int count, num_free;
    int peak;   // most pages held at once since pages_open or the last reset by the owner
    int *blank; // [count], the first num_blank are free pages without a name, the last freed on top
    int num_blank;
    int *holders;                // [count]
    struct pages_entry *entries; // [count+1]; the last is the end of the ring of free named pages
    int *buckets;                // [num_buckets] of names; a power of two
    int num_buckets;
};

void pages_open(struct pages *p, int count);
void pages_close(struct pages *p); // leaves a zeroed struct

int pages_take(struct pages *p);               // one holder; there must be a free page
void pages_hold(struct pages *p, int page);    // one holder more, of a page that is held or named
void pages_release(struct pages *p, int page); // one holder less; free when there is none
int pages_held(const struct pages *p);

// The page that holds tokens [KV_PAGE] after those of page `before` (-1: from position 0 on); -1
// when none does.
int pages_find(const struct pages *p, int before, const int *tokens);
// Names a page that is held and has no name.
void pages_name(struct pages *p, int page, int before, const int *tokens);
// Takes all names away. No page may be held.
void pages_forget(struct pages *p);

#endif
