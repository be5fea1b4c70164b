// SPDX-License-Identifier: Apache-2.0
// Which of some ways of doing the same is the fastest: each is tried in turn until there are enough
// times of it, then that with the least median is taken, or ours where no other takes 2% less. A
// way is its number; the first one given is ours. Used by one thread at a time.
#ifndef TESTS_PEERS_FREE_CHOICE_H
#define TESTS_PEERS_FREE_CHOICE_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FREE_WAYS = 4, FREE_TRIES = 15 };

struct free_choice {
    int ways[FREE_WAYS], num_ways; // to choose from
    int tries[FREE_WAYS];          // of a way
    double seconds[FREE_WAYS][FREE_TRIES];
    int best; // -1: not settled
};

struct free_choice free_choice_of(const int *ways, int num_ways); // of one: settled
int free_choice_next(const struct free_choice *c); // the way to take now, the best once settled
void free_choice_add(struct free_choice *c, int way, double seconds); // of a way taken
void free_choice_settle(struct free_choice *c); // with what there is; ours where nothing was tried
double free_choice_median(const struct free_choice *c, int way);               // 0: not tried
void free_choice_print(const struct free_choice *c, const char *const *names); // of ways; a line

// Numbers of rows that share a choice: each of its own up to 64, then eighths of powers of two.
int free_choice_bucket(int m);

double free_clock(void); // seconds

#ifdef __cplusplus
}
#endif

#endif
