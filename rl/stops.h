// SPDX-License-Identifier: Apache-2.0
// The tokens that end a completion.
#ifndef RL_STOPS_H
#define RL_STOPS_H

#include "policy/policy.h"
#include "policy/tokenizer.h"

struct stops {
    int ids[GENERATION_STOPS_MAX], count;
};

// Those of the model's files, generation_config.json included; when they name none, the tokenizer's
// (NULL: there is none).
struct stops stops_of(const struct policy *p, const struct tokenizer *t);

#endif
