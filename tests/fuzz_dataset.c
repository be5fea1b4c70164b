// SPDX-License-Identifier: Apache-2.0
// Any bytes as a data file: refused with the file's name, or read into problems that hold together.
#include "base/error.h"
#include "rl/dataset.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_problem(const struct problem *p)
{
    require(p->id && p->line >= 1);
    require(p->prompt || p->tokens || p->completion);
    require(!p->tokens || (p->num_tokens >= 1 && p->prompt_tokens <= p->num_tokens));
    for (int i = 0; i < p->num_steps; i++) {
        require(p->steps[i] != NULL);
        require(!p->labels || isnan(p->labels[i]) || (p->labels[i] >= 0 && p->labels[i] <= 1));
    }
    for (int i = 0; i < p->num_tokens; i++)
        require(p->tokens[i] >= 0 && (!p->loss_mask || p->loss_mask[i] <= 1));
    if (p->tests) {
        struct json_doc *doc = NULL;
        require(json_parse(&doc, p->tests, strlen(p->tests), 0, "tests", 1, ERR_DATA) == 0);
        json_free(&doc);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int fd = memfd_create("rows", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct dataset *d = NULL;
    if (dataset_open(&d, path, 0) != 0)
        require(!d && strstr(err_message(), path));
    else
        for (int i = 0; i < d->count; i++)
            check_problem(&d->items[i]);
    dataset_close(&d);
    close(fd);
    return 0;
}
