// SPDX-License-Identifier: Apache-2.0
// The system calls of what runs in a box, as data: tables with a reason a row, which box_seccomp.c
// compiles. What no row names fails with EPERM.
#ifndef SANDBOX_BOX_POLICY_H
#define SANDBOX_BOX_POLICY_H

#include <stddef.h>
#include <stdint.h>

// Who is filtered.
enum policy_who {
    POLICY_PYTHON,   // a program in the warm interpreter, tier jail
    POLICY_CAGE,     // the same in tier cage, where the files are the host's
    POLICY_COMPILER, // a compiler and the processes that it starts
    POLICY_PROGRAM,  // an executable, and its start
    POLICY_WHOS,
    POLICY_ZYGOTE = POLICY_WHOS // what PID 1 of a box of Python needs besides, to serve programs
                                // and to lock them in
};

enum policy_action {
    POLICY_ALLOW,
    POLICY_KILL,   // the whole process, by SIGSYS: what only an attack uses, so that `violation` is
                   // certain
    POLICY_MISSING // ENOSYS
};

enum { POLICY_ARGS_MAX = 3 };

// Holds for a call when (argument & mask) == value for each of the first num_args args. Arguments
// that the kernel reads as 32 bits are compared as 32 bits.
struct policy_row {
    const char *name; // a name that this architecture or libseccomp lacks is passed over
    unsigned who;     // bits, 1 << enum policy_who
    enum policy_action action;
    const char *reason;
    int num_args;
    struct policy_arg {
        unsigned index;
        uint64_t mask, value;
    } args[POLICY_ARGS_MAX];
};

int policy_num_rows(void);
const struct policy_row *policy_row(int i);

// The path that execveat may be given, once, to start an executable by its descriptor: an empty
// text, which is known by its address.
extern const char policy_empty_path[];

#endif
