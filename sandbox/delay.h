// SPDX-License-Identifier: Apache-2.0
// How long a program waited for a processor, by the kernel's own count, so that a machine that is
// busy is not mistaken for a program that is slow.
#ifndef SANDBOX_DELAY_H
#define SANDBOX_DELAY_H

#include <sys/types.h>

// Seconds that the program in the box of that launcher was ready to run and did not: of its
// threads, that which waited longest. 0 when the kernel does not tell; -1: it has ended just now.
double delay_of_program(pid_t launcher);

#endif
