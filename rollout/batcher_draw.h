// SPDX-License-Identifier: Apache-2.0
// One token for each of some samples, and whether it is their last.
#ifndef ROLLOUT_BATCHER_DRAW_H
#define ROLLOUT_BATCHER_DRAW_H

#include "rollout/batcher.h"

// Draws a token for each of live[0, count) from the first rows of logits, one each, and appends it;
// marks those that are done. ERR_NUMERIC when logits are not finite.
int batcher_draw(struct batcher *s, int count);

// The uniform number of one token: Philox4x32-10 with key philox_mix(seed, step), the prompt id as
// the low and (sample << 32) + position as the high half of the counter; position counts from the
// completion's first token. The first of the four words is used.
double batcher_uniform(uint64_t key, uint64_t id, int sample, int position);

bool batcher_has_penalty(const struct rollout_sampling *p);

#endif
