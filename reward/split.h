// SPDX-License-Identifier: Apache-2.0
// The one place that says what a step is. A completion is cut at every occurrence of the separator
// ("\n" by default); what follows the last one is a step too. Pieces that are empty or all white
// space (space, \t, \r, \n) are not steps, so blank lines neither add a step nor shift the
// numbering. The process reward model is trained and read at the token that ends a step's
// separator: the same function serves training, scoring and reports, so that they cannot disagree.
#ifndef REWARD_SPLIT_H
#define REWARD_SPLIT_H

#include "reward/reward.h"

// Cuts text[0..len) and fills begin, end and token of each step, the rest zeroed; *out is in the
// arena (NULL when there are none). token_ends[num_tokens] may be NULL. Returns the number of
// steps. separator: NULL or "" means "\n".
int steps_split(struct reward_step **out, struct arena *a, const char *text, size_t len,
                const char *separator, const int *token_ends, int num_tokens);

#endif
