// SPDX-License-Identifier: Apache-2.0
// The weight files of a Hugging Face directory: model.safetensors, or shards with
// model.safetensors.index.json. Everything is checked against the architecture before memory of the
// model's size is asked for. Internal to policy/.
#ifndef POLICY_MODEL_FILES_H
#define POLICY_MODEL_FILES_H

#include "policy/policy.h"

struct adapter;
struct model_files;

int model_files_open(struct model_files **out, const char *dir);
void model_files_free(struct model_files **f);
bool model_files_have(const struct model_files *f, const char *name);

// How many layers for multi-token prediction, past the model's last, the files really hold.
int model_files_mtp_layers(const struct model_files *f, const struct arch *a);

struct model_load {
    const struct adapter *adapter; // merged into the weights; NULL: none
    bool allow_nonfinite;
    int64_t nonfinite; // out: values that are NaN or Inf, where that is allowed
};
// Makes p's block and packed forms (its layout is filled) and reads every tensor into them.
// Missing, misshapen and unexpected tensors are listed together; those of multi-token-prediction
// layers, a tied head and rotary tables are passed over. F8_E4M3 is multiplied by its blocks'
// scales, NAME_scale_inv. A value head that is absent is zero. What was read of the files does not
// stay in the process's memory.
int model_files_load(struct policy *p, const struct model_files *f, struct model_load *load);

#endif
