// SPDX-License-Identifier: Apache-2.0
// How a model wants its completions drawn: generation_config.json of its directory. What it says is
// a default, which a run's own settings override; the tokens that end a completion always count.
#ifndef POLICY_GENERATION_CONFIG_H
#define POLICY_GENERATION_CONFIG_H

#include "policy/arch.h"
#include <stdbool.h>

enum { GENERATION_STOPS_MAX = 64 };

struct generation_config {
    int stop_ids[GENERATION_STOPS_MAX]; // tokens that end a completion, each once
    int num_stop_ids;
    bool greedy;                                          // "do_sample" is false
    double temperature, top_p, min_p, repetition_penalty; // NaN: not said
    int top_k, max_new_tokens;                            // -1: not said
    char
        ignored[64]; // the first setting that would change completions and is not applied; "": none
    char *text;      // of the file; NULL: there is none
};

// Reads DIR/generation_config.json, if there is one, and adds the end tokens of config.json, which
// `a` holds. Errors (ERR_MODEL, "PATH:LINE: what"): a setting of another type or out of range.
int generation_config_open(struct generation_config *out, const char *dir, const struct arch *a);
// What a model without the file has.
struct generation_config generation_config_of(const struct arch *a);
void generation_config_free(struct generation_config *g); // leaves it zeroed

#endif
