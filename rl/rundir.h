// SPDX-License-Identifier: Apache-2.0
// The directory of a run: one process at a time (lock), status.json, the log, and where everything
// else stands. Written by the main thread only.
#ifndef RL_RUNDIR_H
#define RL_RUNDIR_H

#include <stdbool.h>

enum rundir_state { RUN_RUNNING, RUN_DONE, RUN_FAILED, RUN_INTERRUPTED };

struct rundir_stage { // a line of status.json
    const char *name; // borrowed
    int steps;        // done
    double seconds;
};

struct rundir {
    char *path;
    int lock; // descriptor
};

// Takes the directory for this process: creates it and its folders, or, with resume, opens a used
// one. Errors: ERR_CONFIG when it was used before (the message names the three ways out), when
// there is nothing to resume, or when another process holds it (named by its pid); ERR_WRITE.
int rundir_open(struct rundir **out, const char *path, bool resume);
void rundir_close(struct rundir **run);

char *rundir_file(const struct rundir *run, const char *name); // "PATH/name"; free()
int rundir_write_status(const struct rundir *run, enum rundir_state state, double seconds,
                        const struct rundir_stage *stages, int num_stages);
// Opens log/attempt-N.log, N the first number that is not used, as the log file.
void rundir_open_log(const struct rundir *run);

#endif
