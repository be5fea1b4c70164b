// SPDX-License-Identifier: Apache-2.0
// Final answers: where a text states one, and whether two are the same. Numbers are compared
// exactly, as fractions; everything else as text. Nothing is evaluated and nothing is rounded.
//
// Where the answer is: in the last \boxed{...}; else after the last "####" (GSM8K), to the end of
// its line; else after the last "answer is" or "answer:", likewise; else the last number of the
// text. A reference without any of the marks is the answer itself.
//
// A number: a sign, digits with commas between thousands, decimals, "a/b", \frac{a}{b} (also
// \dfrac, \tfrac); around it may stand $, \( \), a currency sign before, a percent sign or a unit
// of letters after ("18 dollars"; not "5 pi" or "3 million"), a final full stop, \text{...}. When
// just one of the two is a percentage, p % is the same as p and as p/100.
#ifndef REWARD_ANSWER_H
#define REWARD_ANSWER_H

#include "reward/reward.h"

// A piece of a text; borrowed.
struct answer_span {
    const char *text;
    size_t len;
};

// The final answer of a completion; false when it has none. Blanks around it are left out.
bool answer_find(struct answer_span *out, const char *text, size_t len);

// The same of a reference, which may also be the bare answer.
struct answer_span answer_of_reference(const char *text);

bool answer_equal(struct answer_span a, struct answer_span b);

// The scorer "answer": 1 when the completion's answer equals the reference's, else 0. Without a
// reference answer: unscorable.
struct reward_scorer answer_scorer(void);

#endif
