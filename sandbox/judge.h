// SPDX-License-Identifier: Apache-2.0
// From what was seen of a process to what is said about the program. Pure: no clock, no file, no
// process.
#ifndef SANDBOX_JUDGE_H
#define SANDBOX_JUDGE_H

#include "sandbox/tests.h"
#include "sandbox/wire.h"

// What the supervisor knows of one process that has ended.
struct judge_facts {
    struct wire_done done;
    bool wall, output, starved; // killed for it; starved: no processor was free
    uint32_t wall_us;
    const struct strbuf *out, *err, *records; // all that was read, at most the limit and one byte
    const uint8_t *nonce;                     // of the job, 16 bytes
    const struct sandbox_limits *limits;
};

// Adds the process that ran case number `test` to r, which began as judge_begin left it. Times add
// up; the verdict is the worst.
void judge_begin(struct sandbox_result *r, const struct sandbox_tests *t);
void judge_run(struct sandbox_result *r, const struct sandbox_tests *t, int test,
               const struct judge_facts *f);

// The last of the compilers did not make an executable.
void judge_compile(struct sandbox_result *r, const struct judge_facts *f);

// The set-up of its process was not done.
void judge_not_hardened(struct sandbox_result *r, const struct wire_done *d);

// Makes r say `internal`, whatever it said.
void judge_internal(struct sandbox_result *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
