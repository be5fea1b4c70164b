// SPDX-License-Identifier: Apache-2.0
// A job on its way: which program has to run next for it (the rewriting of its asserts, the
// compiler, the program itself once a test), and what came of the one that ran last. Used by the
// supervisor's thread, with no lock held.
#ifndef SANDBOX_WORK_H
#define SANDBOX_WORK_H

#include "sandbox/asserts.h"
#include "sandbox/executables.h"
#include "sandbox/sandbox.h"
#include "sandbox/slot.h"

enum work_phase { WORK_BEGIN, WORK_SPLIT, WORK_COMPILE, WORK_RUN };

struct work {
    struct work *next; // in a queue
    uint64_t id;
    enum sandbox_language language;
    char *source;
    size_t source_len;
    const struct sandbox_tests *given,
        *tests; // tests: those that run, `given` or what it was rewritten as
    struct sandbox_limits limits;
    bool run_all;
    enum work_phase phase;
    int test;          // the next stdin test
    int tries;         // of the program that runs now
    unsigned compiler; // the next to be tried
    int executable;    // -1: not compiled yet
    struct sandbox_result result;
};

// What is known from earlier jobs.
struct work_known {
    struct asserts_cache asserts;
    struct executables executables;
};

enum { WORK_TRIES_MAX = 2 };

// Copies the job. What cannot be run at all is judged at once: *judged then, and it has to be told.
struct work *work_new(const struct sandbox_job *job, bool *judged);
void work_free(struct work *w);

// The program that has to run next. room holds what it points to until it was handed over.
void work_next(struct work *w, struct slot_program *p, struct asserts_room *room,
               const struct work_known *known);
// That program ended, in that slot. Returns whether another has to run.
bool work_ended(struct work *w, struct slot *s, const struct wire_done *done,
                struct work_known *known, size_t keep_output);

#endif
