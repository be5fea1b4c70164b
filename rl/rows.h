// SPDX-License-Identifier: Apache-2.0
// The rows of a data file as problems.
#ifndef RL_ROWS_H
#define RL_ROWS_H

#include "rl/problem.h"

struct rows;

// Reads a file; the last `holdout` rows (all of them when there are no more) are for evaluation,
// the ones before them for training. limit 0: all rows. `name` is the source's, for errors.
int rows_open(struct rows **out, const char *path, int limit, int holdout, const char *name);
void rows_close(struct rows **r);
int rows_train_count(const struct rows *r);
int rows_eval_count(const struct rows *r);
// A row that has no prompt gets an empty one.
int rows_problem(struct problem *out, struct arena *a, const struct rows *r, int index);

#endif
