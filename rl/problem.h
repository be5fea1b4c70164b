// SPDX-License-Identifier: Apache-2.0
// A problem to be solved: what the generators make and the dataset readers read. All of it lives in
// the arena that it was made in.
#ifndef RL_PROBLEM_H
#define RL_PROBLEM_H

#include "reward/reward.h"

struct problem {
    const char *id;
    const char *source; // of the data set; NULL: not said
    const char *prompt; // of a conversation, what the user said last
    const char
        *conversation; // JSON text for rl/chat.h, which gives prompt and completion; NULL: none
    const char *completion;             // to learn from by SFT; NULL: none
    const char *answer;                 // reference; NULL: none
    const char *tests;                  // JSON text, as CLI.md's data section says; NULL: none
    const struct reward_puzzle *puzzle; // NULL: none

    // Data files may also give:
    int sample;               // which sample of its prompt a completion is; -1: not said
    int line;                 // of the file
    int num_steps;            // steps of the completion
    const char *const *steps; // [num_steps], NULL: not split
    const float *labels;      // [num_steps] 1 right .. 0 wrong, NaN: not judged; NULL: none
    const int *tokens;        // [num_tokens] ids, in place of the prompt's text; NULL: none
    int num_tokens;
    int prompt_tokens;              // how many of the tokens are not learned; 0: not said
    const unsigned char *loss_mask; // [num_tokens] 1: learned; NULL: not said
};

#endif
