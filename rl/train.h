// SPDX-License-Identifier: Apache-2.0
#ifndef RL_TRAIN_H
#define RL_TRAIN_H

#include "rl/config.h"

// Runs a config's stages in a run directory, or goes on with one. Lines for people go to standard
// error. Returns 0, ERR_INTERRUPTED when a signal ended it after a checkpoint, or what went wrong;
// status.json says the same.
int train_run(const struct config *c, const char *run_path, bool resume);

#endif
