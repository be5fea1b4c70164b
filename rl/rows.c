// SPDX-License-Identifier: Apache-2.0
#include "rl/rows.h"

#include "base/error.h"
#include "rl/dataset.h"

#include <assert.h>
#include <stdlib.h>

struct rows {
    struct dataset *data;
    int train;
};

int rows_open(struct rows **out, const char *path, int limit, int holdout, const char *name)
{
    struct dataset *data = NULL;
    const int rc = dataset_open(&data, path, limit);
    if (rc)
        return err_set(rc, "data \"%s\": %s", name, err_message());
    struct rows *r = mem_alloc0(sizeof *r);
    r->data = data;
    r->train = holdout < data->count ? data->count - holdout : 0;
    *out = r;
    return 0;
}

void rows_close(struct rows **r)
{
    if (!r || !*r)
        return;
    dataset_close(&(*r)->data);
    free(*r);
    *r = NULL;
}

int rows_train_count(const struct rows *r) { return r->train; }

int rows_eval_count(const struct rows *r) { return r->data->count - r->train; }

int rows_problem(struct problem *out, struct arena *a, const struct rows *r, int index)
{
    (void)a; // the file's arena outlives the call's
    assert(index >= 0 && index < r->data->count);
    *out = r->data->items[index];
    if (!out->prompt)
        out->prompt = "";
    return 0;
}
