// SPDX-License-Identifier: Apache-2.0
// Executables that were compiled lately, by their source, so that the samples of a group that are
// the same, and the tests of one program, are compiled once. Used by the supervisor's thread alone.
#ifndef SANDBOX_EXECUTABLES_H
#define SANDBOX_EXECUTABLES_H

#include <stddef.h>

enum { EXECUTABLES_MAX = 128 };

struct executables {
    struct executable {
        char *source; // the whole of it: a hash can be made to collide
        size_t len;
        int language;
        int fd;
    } items[EXECUTABLES_MAX];
    int count, next; // next: to be replaced when all are taken
};

// A descriptor of the caller's own; -1: not known.
int executables_get(const struct executables *e, int language, const char *source, size_t len);
void executables_put(struct executables *e, int language, const char *source, size_t len,
                     int fd); // fd stays the caller's
void executables_free(struct executables *e);

#endif
