// SPDX-License-Identifier: Apache-2.0
// A problem to be solved: what the generators make and the dataset readers read. All of it lives in
// the arena that it was made in.
#ifndef RL_PROBLEM_H
#define RL_PROBLEM_H

#include "reward/reward.h"

struct problem {
    const char *id;
    const char *source; // of the data set; NULL: not said
    const char *prompt;
    const char *completion;             // to learn from by SFT; NULL: none
    const char *answer;                 // reference; NULL: none
    const char *tests;                  // JSON text, as CLI.md's data section says; NULL: none
    const struct reward_puzzle *puzzle; // NULL: none
};

#endif
