// SPDX-License-Identifier: Apache-2.0
#include "sandbox/executables.h"

#include "base/mem.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int own(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }

int executables_get(const struct executables *e, int language, const char *source, size_t len)
{
    for (int i = 0; i < e->count; i++) {
        const struct executable *x = &e->items[i];
        if (x->language == language && x->len == len && memcmp(x->source, source, len) == 0)
            return own(x->fd);
    }
    return -1;
}

static void forget(struct executable *x)
{
    free(x->source);
    close(x->fd);
}

void executables_put(struct executables *e, int language, const char *source, size_t len, int fd)
{
    const int mine = own(fd);
    if (mine < 0) // it is only not remembered
        return;
    struct executable *x = &e->items[e->next];
    if (e->count == EXECUTABLES_MAX)
        forget(x);
    else
        e->count++;
    e->next = (e->next + 1) % EXECUTABLES_MAX;
    *x = (struct executable){
        .source = mem_strndup(source, len), .len = len, .language = language, .fd = mine};
}

void executables_free(struct executables *e)
{
    for (int i = 0; i < e->count; i++)
        forget(&e->items[i]);
    *e = (struct executables){0};
}
