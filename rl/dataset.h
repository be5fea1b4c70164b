// SPDX-License-Identifier: Apache-2.0
// Data files: JSON Lines, one object a line, packed (.gz, .zst) or not, read into problems. Columns
// go by the names of CLI.md's data section and by those of TRL, verl, GSM8K, HumanEval, MBPP, MATH,
// SVAMP and ProcessBench; numbers puzzles by `nums` and `target`. Which column becomes what is in
// rl/dataset_columns.c.
#ifndef RL_DATASET_H
#define RL_DATASET_H

#include "rl/problem.h"

// Immutable once read: any thread may look at it.
struct dataset {
    struct problem *items; // [count]
    int count;
    struct arena arena; // what the items point to
};

// Reads the first `limit` rows (0: all); path "-" is standard input. Every item has an id: the
// row's own, else the number of its line. An item has a prompt, tokens, or at least a completion.
// Errors (ERR_DATA, "FILE:LINE: what" and the head of the line): no file or no rows, what is not
// JSON, a column of the wrong type, a row with nothing to ask (the columns that it has are listed),
// an id used twice (rows that are samples of one prompt may share an id: they differ in `sample`,
// or have no prompt).
int dataset_open(struct dataset **out, const char *path, int limit);
void dataset_close(struct dataset **d);

#endif
