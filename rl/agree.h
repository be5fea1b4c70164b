// SPDX-License-Identifier: Apache-2.0
// That the ranks of a run train the same thing: checked when it starts and every so many steps.
// Collective; nothing is done in a run of one process.
#ifndef RL_AGREE_H
#define RL_AGREE_H

#include "rl/trainer.h"

// Same program (`version`, and the bytes of its file), instruction set or kind of GPU, resolved
// config, tokenizer, data files and weights. The error says in what ranks differ from rank 0, and
// which.
int agree_start(struct trainer *t, const char *version, const char *config);
// Same weights of what is trained. ERR_CHECK.
int agree_weights(struct trainer *t);

#endif
