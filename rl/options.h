// SPDX-License-Identifier: Apache-2.0
// Parsing of a verb's arguments by its table (options_parse is declared in rl/verb.h, beside the
// table's types), and the search for what a misspelt word was meant to be.
#ifndef RL_OPTIONS_H
#define RL_OPTIONS_H

#include "rl/verb.h"

// The name nearest to word, or NULL when none is near enough to be meant.
const char *options_nearest(const char *word, const char *const *names, int count);

#endif
