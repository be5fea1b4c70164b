// SPDX-License-Identifier: Apache-2.0
// The languages of programs, one row each. A row needs its counterpart in the table of box_main.c.
#ifndef SANDBOX_LANGUAGE_H
#define SANDBOX_LANGUAGE_H

#include "sandbox/sandbox.h"

struct language {
    const char *name; // on the command line, and for gradus-box
    bool compiled;    // made into an executable first; tested by standard input alone
};

extern const struct language languages[SANDBOX_LANGUAGES];

#endif
