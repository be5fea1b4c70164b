// SPDX-License-Identifier: Apache-2.0
#ifndef RL_TRAIN_H
#define RL_TRAIN_H

#include "kernels/comm.h"
#include "rl/config.h"

// Runs a config's stages in a run directory, or goes on with one, on the ranks of comm: every rank
// calls this with the same config and path, which are to lead to the same files. version: of the
// program, which the ranks compare. Lines for people go to standard
// error. Returns 0, ERR_INTERRUPTED when a signal ended it after a checkpoint, or what went wrong;
// status.json says the same.
int train_run(const struct config *c, struct comm *comm, const char *version, const char *run_path,
              bool resume);

// What a run of the config does and takes, for a person or as one JSON object; runs nothing, and
// loads no weights. ERR_ENV when it does not fit: the message holds the table and what would help.
int train_plan(struct strbuf *out, const struct config *c, struct comm *comm, bool json);

#endif
