// SPDX-License-Identifier: Apache-2.0
// The parameters of a model: one block of floats, carved; gradients and moments mirror it. Names and shapes are those of Hugging Face files,
// except that what the code wants together stands together (an expert stack, gate and up, W_UK and W_UV): params_export and params_import
// map between the block and the tensors on disk, whose bytes survive the round trip.
#ifndef POLICY_PARAMS_H
#define POLICY_PARAMS_H

#include "policy/arch.h"
#include <stdbool.h>
#include <stddef.h>

struct param {
    char name[96];  // e.g. "model.layers.3.self_attn.o_proj.weight"
    int layer;      // -1: none
    int shape[3];
    int rank;       // 1, 2, or 3 (stacks: [E, out, in])
    size_t offset;  // in floats, 16-float aligned
    size_t size;
    bool decay;     // weight decay applies: two or more dimensions, not the embedding
    bool trained;   // false: e_score_correction_bias, which has no gradient
};

struct params {
    int count;
    struct param *list;
    size_t size; // floats of the block, padding (zero) included
    float *data;
};

#endif
