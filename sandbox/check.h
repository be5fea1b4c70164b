// SPDX-License-Identifier: Apache-2.0
// Which layers of isolation are active: each is tried by a small program that a working layer stops
// or changes, run the way that every program is run.
#ifndef SANDBOX_CHECK_H
#define SANDBOX_CHECK_H

#include "sandbox/sandbox.h"

struct sandbox_layer {
    const char *name; // "root", "network", ...
    const char *what; // what it does to a program
    bool wanted;      // in the tier that programs run in
    bool active;
    char seen[256]; // what the program met: its verdict, and what it printed or died of
};

int sandbox_num_layers(void);
// Tries all of them; out [sandbox_num_layers()]. ERR_ENV when the sandbox broke meanwhile.
int sandbox_check(struct sandbox *sb, struct sandbox_layer *out);

#endif
