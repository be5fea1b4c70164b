// SPDX-License-Identifier: Apache-2.0
// Small honest and hostile programs, each with the verdict that it must get.
#ifndef TESTS_SANDBOX_ROWS_H
#define TESTS_SANDBOX_ROWS_H

#include "sandbox/sandbox.h"

#define ANY(v)    (1u << (v))
#define OK        ANY(SANDBOX_OK)
#define WRONG     ANY(SANDBOX_WRONG)
#define RUNTIME   ANY(SANDBOX_RUNTIME)
#define SIGNAL    ANY(SANDBOX_SIGNAL)
#define MEMORY    ANY(SANDBOX_MEMORY)
#define CPU       ANY(SANDBOX_CPU)
#define WALL      ANY(SANDBOX_WALL)
#define OUTPUT    ANY(SANDBOX_OUTPUT)
#define VIOLATION ANY(SANDBOX_VIOLATION)
#define COMPILE   ANY(SANDBOX_COMPILE)

#define CTYPES      "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
#define SYSCALL(nr) CTYPES "c.syscall(" #nr ", 0, 0, 0, 0, 0, 0)\n"
// A program that calls f, whose attack must fail by an OSError, and prints how often it did.
#define TRY                                                                                        \
    "failed = []\n"                                                                                \
    "def t(f, *a):\n"                                                                              \
    "    try: f(*a)\n"                                                                             \
    "    except OSError as e: failed.append(e.errno)\n"

struct row {
    const char *name;
    unsigned verdicts; // any of these
    const char *source;
    const char *says; // what standard output is, or is in the detail when it begins with '~'; NULL:
                      // whatever
    struct sandbox_limits limits;
    unsigned cage;         // verdicts in tier cage; 0: the same verdicts and the same to say
    const char *cage_says; // there
    enum sandbox_language language;
};

// Honest programs and their faults; what takes too much; what looks or reaches out.
extern const struct row rows_honest[], rows_resources[], rows_escapes[];
extern const int rows_honest_num, rows_resources_num, rows_escapes_num;

#endif
