// SPDX-License-Identifier: Apache-2.0
// The tests of a problem, as the supervisor holds them: what goes into the box apart from what is
// expected to come out of it.
#ifndef SANDBOX_TESTS_H
#define SANDBOX_TESTS_H

#include "base/str.h"
#include "sandbox/compare.h"
#include "sandbox/sandbox.h"

enum tests_kind {
    TESTS_RUN,    // no expectation: the program only has to end well
    TESTS_STDIN,  // one process a case: standard input in, standard output compared
    TESTS_CALLS,  // one process for all: `entry` is called, results compared
    TESTS_ASSERTS // `check` runs in the program's own process
};

struct tests_case {
    enum compare_mode compare; // of standard output
    double tolerance;
    size_t in, in_len; // in `bytes`: standard input
    size_t want,
        want_len; // in `bytes`: expected output; for calls the encoded result, for messages
    size_t canon, canon_len; // in `bytes`: its canonical form
    bool nan;                // it holds a NaN: nothing equals it
};

struct sandbox_tests {
    enum tests_kind kind;
    int count; // of cases; 1 for asserts, 0 for a mere run (which has one case, with its input)
    struct tests_case *cases;
    struct strbuf bytes;
    struct strbuf entry, check; // texts
    struct strbuf args;         // of calls: an encoded list each, one after the other
};

struct sandbox_tests *tests_new(enum tests_kind kind, int cases);
// Adds a test by standard input, and gives it for compare and tolerance to be set (lines).
struct tests_case *tests_add_stdin(struct sandbox_tests *t, const char *in, size_t in_len,
                                   const char *want, size_t want_len);
// Adds a call; args and result are encoded values. false when they are malformed or too long.
bool tests_add_call(struct sandbox_tests *t, const void *args, size_t args_len, const void *result,
                    size_t result_len);

#endif
