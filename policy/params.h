// SPDX-License-Identifier: Apache-2.0
// The parameters of a model: one block of floats, carved; gradients and moments mirror it. Names
// and shapes are those of Hugging Face files, except that what the code wants together stands
// together (an expert stack, gate and up, the projections of queries, keys and values). Every
// tensor on disk is a contiguous range of the block, so its bytes survive the round trip.
#ifndef POLICY_PARAMS_H
#define POLICY_PARAMS_H

#include "kernels/device.h"
#include "policy/arch.h"
#include "policy/safetensors.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct param {
    char name[96]; // e.g. "model.layers.3.self_attn.o_proj.weight"
    int layer;     // -1: none
    int shape[3];
    int rank;      // 1, 2, or 3 (stacks: [E, out, in])
    size_t offset; // in floats, 16-float aligned
    size_t size;
    bool decay;   // weight decay applies: two or more dimensions, not the embedding
    bool trained; // false: e_score_correction_bias, which has no gradient
};

struct param_tensor { // one tensor on disk: a part of a param
    char name[96];
    int shape[2];
    int rank;
    size_t offset, size; // in floats
    bool trained;
};

struct params {
    int count;
    struct param *list;
    size_t size;        // floats of the block, padding (zero) included
    float *data;        // in the memory of dev
    struct device *dev; // borrowed; NULL before params_alloc
    int num_tensors;
    struct param_tensor *tensors; // [num_tensors]
};

// Fills the two lists for an architecture; params_alloc then makes the block on a device, zeroed.
void params_layout(struct params *out, const struct arch *arch);
int params_alloc(struct params *p, struct device *dev);
void params_free(struct params *p); // leaves it zeroed

// The param of that name, printf style; NULL when there is none.
const struct param *params_find(const struct params *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

// New weights: see policy_create.
int params_init(struct params *p, double init_range, uint64_t seed);

// Host memory that holds the largest tensor; free().
float *params_tensor_buffer(const struct params *p);

// Views of a block that mirrors p's (its weights, a gradient, a moment) as tensors, in the order of
// p->tensors; names and data, which is the block's memory, are borrowed.
void params_view(struct tensor *out, const struct params *p, const float *block);

#endif
