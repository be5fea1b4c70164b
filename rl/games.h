// SPDX-License-Identifier: Apache-2.0
// Numbers games: "make 24: 3 8 5", to be solved in written steps by the integer rules of
// reward/steps.h. A problem is a pure function of (seed, index). The held-out problems do not
// depend on the seed, so that runs with different seeds are measured on the same ones, and no
// training problem has the numbers (in any order) and the target of a held-out one.
#ifndef RL_GAMES_H
#define RL_GAMES_H

#include "rl/problem.h"

struct games_settings {
    const int *numbers; // [num_numbers] how many a puzzle may have, each 2..6; equally often
    int num_numbers;
    int max;                    // numbers are 1..max; max <= 399
    int target_min, target_max; // within 0..399
    int holdout;
    double wins; // share of the training problems' completions that win; the others are random
                 // legal play
    uint64_t seed;
};

// Immutable once open: any thread may read it.
struct games;

// Errors (ERR_CONFIG): settings outside the ranges above, or too few solvable puzzles for them.
int games_open(struct games **out, const struct games_settings *s);
void games_close(struct games **g);

// The index-th training problem, with a random line of play as completion: a winning one, or (see
// wins) any.
void games_problem(struct problem *out, struct arena *a, const struct games *g, uint64_t index);

// The index-th held-out problem, 0 <= index < holdout, likewise.
void games_holdout(struct problem *out, struct arena *a, const struct games *g, int index);

// A row of configs/data/countdown.jsonl: {"id", "nums", "target", "source"}. It is played by the
// rules of fractions, which these sets allow. Errors (ERR_DATA).
int games_read(struct problem *out, struct arena *a, const struct json_doc *doc,
               const struct json *row);

#endif
