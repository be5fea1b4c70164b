// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: a line for each step and each evaluation, in TRL's names where TRL has the same
// thing. A line is gathered by name, shown on the console by whoever knows its kind, and appended
// with one write. Its time is the run's seconds, attempts added up.
#ifndef RL_METRICS_H
#define RL_METRICS_H

#include "base/mem.h"
#include <stdint.h>

struct metrics_item {
    const char *name;
    double value; // NaN: written as null
};

// A zeroed struct is an empty line; metrics_begin starts it anew.
struct metrics_line {
    const char *stage; // borrowed
    int step, global_step;
    int count, cap;
    struct metrics_item *items;
    struct arena names;
};

void metrics_begin(struct metrics_line *line, const char *stage, int step, int global_step);
void metrics_put(struct metrics_line *line, double value, const char *name_fmt, ...)
    __attribute__((format(printf, 3, 4)));
void metrics_free(struct metrics_line *line);
double metrics_get(const struct metrics_line *line, const char *name); // NaN when absent

// Opens the file for appending after its first `keep` bytes, cutting off the rest: lines of steps
// that were lost with an interruption. keep < 0 keeps all whole lines.
struct metrics {
    int fd;
    int64_t bytes; // length of the file
};
int metrics_open(struct metrics *out, const char *path, int64_t keep);
int metrics_write(struct metrics *m, const struct metrics_line *line, double seconds);
void metrics_close(struct metrics *m);

#endif
