// SPDX-License-Identifier: Apache-2.0
// What the benches of a device share: what the device does at most, measured in the same run, how a
// call is timed, and how a result is printed.
//
// A case is a number of operations and a number of bytes that have to be moved, each array read or
// written once. The larger of the two times that they take at the limits is the floor under the
// case; its metric is named after it, and `share` is the floor over the measured time.
#ifndef RL_BENCH_H
#define RL_BENCH_H

#include "base/team.h"
#include "kernels/device.h"
#include <stdbool.h>

// Rates a second; 0: not known.
struct bench_limits {
    double flops; // of dense products; a multiply-add counts as two
    double bytes; // read on a CPU, read and written by a copy on a GPU
    double own;   // bytes of the caches that are the cores' own, or the GPU's
    double cache; // and of the largest one
};

struct bench {
    struct team *team;
    struct device *dev;
    enum dtype type;
    bool gpu, json;
    struct bench_limits limits;
};

struct bench_options {
    int threads;     // 0: as many as this process may use
    const char *isa; // NULL: the best
    const char *type;
    const char *only; // a part of the names of the cases to be measured; NULL: all
    bool gpu, json;
};

// Opens the device, measures its limits and says so in a line (not with json). The caller closes
// it after a failure too. Errors: ERR_CONFIG for an unknown name, ERR_ENV.
int bench_open(struct bench *out, const struct bench_options *options);
void bench_close(struct bench *b);

// Seconds of one call, after one that warms up. On a CPU, which others disturb, of the fastest of
// many calls; on a GPU the median of rounds of several calls that follow each other, the device
// being waited for around a round.
int bench_time(double *seconds, const struct bench *b,
               int (*call)(struct device *dev, const void *args), const void *args);

// The line of a case that took so long.
void bench_print(const struct bench *b, const char *bench, const char *name, double flops,
                 double bytes, double seconds);
// The same as tokens a second.
void bench_print_rate(const struct bench *b, const char *bench, const char *name, double tokens,
                      double flops, double bytes, double seconds);
// Any other number. limit 0: there is none.
void bench_print_value(const struct bench *b, const char *bench, const char *name,
                       const char *metric, double value, const char *unit, double limit);

#endif
