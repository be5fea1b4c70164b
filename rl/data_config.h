// SPDX-License-Identifier: Apache-2.0
// The config of a verb that judges one data file: a single source, for evaluation, with a reward
// from a file or from what the rows can be judged by.
#ifndef RL_DATA_CONFIG_H
#define RL_DATA_CONFIG_H

#include "rl/config.h"

// The file of a reward holds an array of components, as under `reward` in a run's config. NULL:
// "steps", "code" or "answer", by whether the first row has a puzzle, tests or an answer. model_dir
// may be NULL. Errors: ERR_CONFIG (reward), ERR_DATA (no row, or a first row without anything to
// judge by).
int data_config_open(struct config **out, const char *data_file, const char *reward_file,
                     const char *model_dir);

#endif
