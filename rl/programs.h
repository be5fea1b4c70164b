// SPDX-License-Identifier: Apache-2.0
// List programs: a function shown by some examples, "[3 1 2] -> [1 2 3]", to be written in Python,
// one line a step, over 18 primitives; judged in the sandbox on the examples and on four hidden
// inputs. A problem is a pure function of (seed, index); the held-out ones do not depend on the
// seed, and no training problem has the program and the examples of one of them.
#ifndef RL_PROGRAMS_H
#define RL_PROGRAMS_H

#include "base/str.h"
#include "rl/problem.h"

enum {
    PROGRAMS_PRIMITIVES = 18,
    PROGRAMS_DEPTH_MAX = 4,
    PROGRAMS_EXAMPLES_MAX = 8,
    PROGRAMS_LIST_MAX = 128 // numbers of a list; what a program of that depth can make is less
};

struct programs_settings {
    int depth; // 1..PROGRAMS_DEPTH_MAX: lines at most; drawn evenly before dull tasks are dropped
    int examples; // 1..PROGRAMS_EXAMPLES_MAX that the prompt shows
    int holdout;
    uint64_t seed;
};

// Immutable once open: any thread may read it.
struct programs;

// Errors (ERR_CONFIG): settings outside the ranges above.
int programs_open(struct programs **out, const struct programs_settings *s);
void programs_close(struct programs **p);

// The index-th training problem: completion is the program, tests are calls of "f".
void programs_problem(struct problem *out, struct arena *a, const struct programs *p,
                      uint64_t index);

// The index-th held-out problem, 0 <= index < holdout, likewise.
void programs_holdout(struct problem *out, struct arena *a, const struct programs *p, int index);

// The Python module to run for a completion: its lines as the body of "def f(x):", which returns x.
// A completion that would not be one (nothing but blank lines, a line that starts with a blank, or
// a carriage return, form feed or NUL anywhere) is passed on as it is, for the sandbox to judge.
void programs_source(struct strbuf *out, const char *completion, size_t len);

// The line of a primitive, and what it does to a list of non-negative numbers in place, as Python
// does.
const char *programs_primitive(int index);
struct int_list {
    int n;
    int64_t at[PROGRAMS_LIST_MAX];
};
void programs_apply(struct int_list *x, int primitive);

#endif
