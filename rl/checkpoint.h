// SPDX-License-Identifier: Apache-2.0
// Checkpoints: RUN/checkpoints/step-NNNNNN, a Hugging Face directory of the policy with what a run
// needs to go on beside it: optimizer.safetensors, state.json, the process reward model (prm/) and
// the reference model (reference/) when the run has them, and MANIFEST.json with the size and hash
// of every file. A checkpoint is written aside and appears at once; it is opened only when every
// hash agrees.
#ifndef RL_CHECKPOINT_H
#define RL_CHECKPOINT_H

#include "policy/optimizer.h"
#include "policy/policy.h"
#include "policy/tokenizer.h"

// Where a run stands: everything else (data order, randomness) is a function of these and the
// config.
struct checkpoint_state {
    int stage;             // index in the config
    int step;              // steps of that stage that are done
    int global_step;       // steps of all stages
    int64_t metrics_bytes; // length of metrics.jsonl: lines past it belong to lost steps
    int64_t num_tokens;    // tokens trained on so far; a prompt counts with each of its samples
    double seconds;        // of all attempts
    double stage_seconds;  // of this stage
    const char *config;    // resolved config as text, compared on resume; borrowed
};

struct checkpoint_parts {
    const struct policy *policy;
    const struct policy *prm;          // NULL: none
    const char *reference;             // directory of the reference model's files; NULL: none
    const struct optimizer *optimizer; // NULL: none
    const struct policy *optimized;    // which of the above the optimiser belongs to
    const struct tokenizer *tokenizer;
};

// Errors: ERR_WRITE; the run's other checkpoints are untouched.
int checkpoint_save(const char *run_path, const struct checkpoint_parts *parts,
                    const struct checkpoint_state *state);

// Path of the newest checkpoint whose files agree with their hashes; free(). Those that do not are
// named in *damaged (a line each, NULL when none; free()). ERR_DATA when there is none.
int checkpoint_find(char **out, char **damaged, const char *run_path);

// Reads state.json; state->config is owned by the caller (free()).
int checkpoint_read_state(struct checkpoint_state *state, const char *path);

// Removes all but the newest `keep` checkpoints (0: keep all).
int checkpoint_prune(const char *run_path, int keep);

#endif
