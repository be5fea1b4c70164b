// SPDX-License-Identifier: Apache-2.0
// The reference model of a GRPO stage: the policy as it was when the stage began, t->reference. It
// is only read, so its float32 weights are kept in files alone: RUN/reference, written by rank 0
// while the stage lasts, which checkpoints have copies of.
#ifndef RL_REFERENCE_MODEL_H
#define RL_REFERENCE_MODEL_H

#include "rl/trainer.h"

int reference_begin(struct trainer *t); // of t->policy
// That of a checkpoint, which may have none.
int reference_resume(struct trainer *t, const char *checkpoint);
// The directory of its files, to be freed; NULL where there is none, or not here.
char *reference_files(const struct trainer *t);
void reference_end(struct trainer *t); // none is fine

#endif
