// SPDX-License-Identifier: Apache-2.0
// The scorer "code": runs what the model wrote in the sandbox, against the tests of the reference.
#ifndef REWARD_CODE_H
#define REWARD_CODE_H

#include "base/str.h"
#include "reward/reward.h"
#include "sandbox/sandbox.h"

struct code_scorer_options {
    enum sandbox_language language;
    bool fraction; // the value is the share of tests passed (less than 1 unless the verdict is ok,
                   // 0 after a violation); else 1 or 0
    struct sandbox_limits limits; // of a program
};

// The sandbox is borrowed. 1 when the verdict is ok; every other verdict that speaks of the program
// is 0 (or the share of tests passed); reason says which. Unscorable: no tests, or a verdict of
// internal trouble.
int code_scorer_open(struct reward_scorer *out, struct sandbox *sandbox,
                     const struct code_scorer_options *options);

// The program in a completion: the last fenced block (``` or ```python) when there is one; else the
// completion, after the prompt when it continues it (its first line is indented, and the prompt
// ends inside a function).
void code_extract(struct strbuf *out, const char *prompt, const char *completion, size_t len);

#endif
