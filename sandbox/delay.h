// SPDX-License-Identifier: Apache-2.0
// How long a program has been there, and how much of that it waited for a processor, by the
// kernel's own count, so that a machine that is busy is not mistaken for a program that is slow.
#ifndef SANDBOX_DELAY_H
#define SANDBOX_DELAY_H

#include <stdbool.h>
#include <sys/types.h>

struct delay {
    double age;    // seconds since its process was born
    double waited; // seconds that its threads were ready to run and did not, all together: threads
                   // that take turns wait in turn. 0 when the kernel does not tell
};

// Of the program in the box of that launcher; false: it is not born yet, or has ended just now.
bool delay_of_program(struct delay *out, pid_t launcher);

#endif
