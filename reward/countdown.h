// SPDX-License-Identifier: Apache-2.0
// Numbers games solved exhaustively: can these numbers, each used once, make the target? Two sets
// of rules: integers (results 0..399, larger minus smaller, exact division), which the generated
// games use, and fractions (any order, any division but by zero), which is the game of 24. Pure
// functions without memory: four integers take about a microsecond, four fractions some tens; each
// number more multiplies that by about fifty.
#ifndef REWARD_COUNTDOWN_H
#define REWARD_COUNTDOWN_H

#include "reward/reward.h"

enum {
    COUNTDOWN_VALUE_MAX = 399,                                                  // of integer games
    COUNTDOWN_MOVES_MAX = 4 * PUZZLE_NUMBERS_MAX * (PUZZLE_NUMBERS_MAX - 1) / 2 // of one position
};

// One step of an integer game: x op y = z, of the numbers at i < j of the list. x >= y for '-' and
// '/'; list order else.
struct countdown_move {
    char op;
    int x, y, z;
    int i, j;
};

// Every move of a position, in a fixed order: pairs by (i, j), then + - * /. Returns how many.
int countdown_moves(struct countdown_move out[COUNTDOWN_MOVES_MAX], const int *numbers, int n);

// The position after a move: the result first, then the others in their order; n - 1 numbers. out
// may not be numbers.
void countdown_apply(int *out, const int *numbers, int n, const struct countdown_move *m);

// Whether n >= 1 integers of 0..399 can make the target.
bool countdown_reachable(const int *numbers, int n, int target);

// num / den in lowest terms, den > 0.
struct fraction {
    int64_t num, den;
};

// The same with fractions. A line of play whose numerator or denominator outgrows 64 bits is given
// up.
bool fractions_reachable(const struct fraction *numbers, int n, int64_t target);

// Whether an expression ("(13 - 9) * (12 - 6)": integers or decimals, + - * /, parentheses, a sign)
// uses exactly the n integers and is worth the target, exactly. It ends at the first '='; what
// follows is not looked at.
bool countdown_expression(const char *text, size_t len, const int64_t *numbers, int n,
                          int64_t target);

#endif
