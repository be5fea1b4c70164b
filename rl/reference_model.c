// SPDX-License-Identifier: Apache-2.0
#include "rl/reference_model.h"

#include "base/file.h"

#include <stdlib.h>

char *reference_files(const struct trainer *t)
{
    return t->reference != NULL && t->run != NULL ? rundir_file(t->run, "reference") : NULL;
}

// The files, anew: copies of those in a directory, or (NULL) the policy's.
static int write_files(const struct trainer *t, const char *from)
{
    char *dir = reference_files(t);
    int rc = 0;
    if (dir != NULL) {
        rc = dir_remove_all(dir);
        if (rc == 0)
            rc = dir_make_all(dir);
        if (rc == 0)
            rc = from != NULL ? dir_copy_files(from, dir) : policy_save(t->policy, dir);
    }
    free(dir);
    return rc;
}

int reference_begin(struct trainer *t)
{
    const bool value_head = t->policy->arch.value_head; // as its files have it
    const int rc = policy_clone(&t->reference, t->policy, value_head, /* read_only= */ true);
    return rc != 0 ? rc : write_files(t, NULL);
}

int reference_resume(struct trainer *t, const char *checkpoint)
{
    char *dir = path_join(checkpoint, "reference");
    const struct policy_source source = {
        .dir = dir, .allow_nonfinite = t->config->run.allow_nonfinite, .read_only = true};
    int rc = 0;
    if (dir_exists(dir)) {
        rc = policy_open_source(&t->reference, t->dev, &source, t->config->run.dtype);
        if (rc == 0)
            rc = write_files(t, dir);
    }
    free(dir);
    return rc;
}

void reference_end(struct trainer *t)
{
    char *dir = reference_files(t);
    if (dir != NULL)
        (void)dir_remove_all(dir);
    free(dir);
    policy_free(&t->reference);
}
