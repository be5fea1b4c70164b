// SPDX-License-Identifier: Apache-2.0
// The score of form alone: 1 when the whole completion has the form that is asked for, else 0.
// Kinds:
//   steps    every line is a step of reward/steps.h (blank lines aside), and there is one; needs a
//   puzzle, for its rules; program  every line is "NAME = ..." (blank lines aside), and there is
//   one; think    "<think>...</think>" at the start, once, then something that is not blank;
//   pattern  a PCRE2 pattern matches all of it (dot does not match newline unless the pattern says
//   (?s)).
// Without a kind: steps where the reference has a puzzle, program where it has tests, think
// otherwise. A completion that was cut at the length limit does not have the form.
#ifndef REWARD_FORMAT_H
#define REWARD_FORMAT_H

#include "reward/reward.h"

// kind and pattern as in struct reward_component; NULL and "" alike. Errors (ERR_CONFIG): unknown
// kind, a pattern missing, given without its kind, or malformed.
int format_scorer_open(struct reward_scorer *out, const char *kind, const char *pattern);

#endif
