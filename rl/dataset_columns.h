// SPDX-License-Identifier: Apache-2.0
// The columns of a data row. Internal to rl/dataset.
#ifndef RL_DATASET_COLUMNS_H
#define RL_DATASET_COLUMNS_H

#include "rl/problem.h"

// A row as it was read.
struct dataset_row {
    const struct json_doc *doc;
    const struct json *object;
    const char *file;
    int line;
};

// Fills *out (zeroed) from the row's columns, in the arena. Errors: ERR_DATA, "FILE:LINE: what".
int dataset_columns(struct problem *out, struct arena *a, const struct dataset_row *row);

#endif
