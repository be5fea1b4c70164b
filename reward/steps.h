// SPDX-License-Identifier: Apache-2.0
// The checker of arithmetic chains: lines "a op b = c (left: ...)" that combine the numbers of a
// puzzle, two at a time, into its target, judged step by step and exactly.
//
// A step is parsed when it has that form and nothing follows the parenthesis (blanks aside). Its
// operands are taken from the list that the parsed step before it wrote, even a wrong one, so that
// one slip is one wrong step. Then
//   arith_ok   a op b is c, and the rules allow it;
//   left_ok    a and b are in the list, and the numbers written are the others and c, in any order;
//   valid      both;
//   reachable  this step and all before it are valid, and the target can still be made from what is
//   left.
// PUZZLE_INTEGER: numbers are written with digits only and no leading zero, results are 0..399, the
// smaller is taken from the larger, division is exact. PUZZLE_RATIONAL: numbers may have a sign,
// decimals and a denominator ("-6", "7.2", "5/3"); any order; when one of a, b, c is written with a
// decimal point, an error of up to 0.005 counts as right. Numbers of more than 64 characters are
// not parsed.
//
// The outcome of a completion is 1 when it ended by itself, all its steps are valid and exactly the
// target is left, else 0. Under PUZZLE_RATIONAL a line "Answer: EXPRESSION" is no step; the last
// one decides instead: it must use every number once and be worth the target.
#ifndef REWARD_STEPS_H
#define REWARD_STEPS_H

#include "reward/reward.h"

struct step_labels {
    bool parsed;
    bool arith_ok, left_ok, valid, reachable; // false when not parsed
};

// A chain being checked. Errors (false): more numbers than PUZZLE_NUMBERS_MAX or fewer than one;
// PUZZLE_INTEGER: a number or target outside 0..399.
struct chain;
bool chain_open(struct chain **out, const struct reward_puzzle *p);
void chain_free(struct chain **c);

// Judges the next step: one line without its end.
struct step_labels chain_step(struct chain *c, const char *text, size_t len);

// Whether every step so far was valid and exactly the target is left.
bool chain_done(const struct chain *c);

// Whether a line has the form of a step.
bool step_has_form(const char *text, size_t len, enum puzzle_rules rules);

// The scorer "steps". Each step's value is 1 when reachable, else 0. Without a puzzle, or with one
// that chain_open refuses, the result is unscorable. separator: borrowed, NULL: "\n".
struct reward_scorer steps_scorer(const char *separator);

#endif
