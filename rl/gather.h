// SPDX-License-Identifier: Apache-2.0
// Samples and their scores, given by each rank to all others.
#ifndef RL_GATHER_H
#define RL_GATHER_H

#include "kernels/comm.h"
#include "rl/generate.h"

// Tasks are dealt to the ranks in turn: rank r has tasks r, r + size, ... of num_tasks. Collective.
// own: this rank's samples, [its tasks * samples]; *out: those of all tasks, by task and index, but
// without text and its offsets where they are another rank's. Both live in the arena.
int gather_samples(struct generated **out, const struct generated *own,
                   const struct generate_request *r, const struct scoring *scoring, struct comm *c,
                   struct arena *a);

#endif
