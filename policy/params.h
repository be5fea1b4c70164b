// SPDX-License-Identifier: Apache-2.0
// The parameters of a model: one block of floats, carved; gradients and moments mirror it. Names
// and shapes are those of Hugging Face files, except that what the code wants together stands
// together (an expert stack, gate and up, the projections of queries, keys and values). Every
// tensor on disk is a contiguous range of the block, so its bytes survive the round trip. In the
// block of a policy that is only read stand the params alone that are read as floats; the others it
// has in packed forms (policy/weights.h), and nowhere else.
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
    int index;     // in params.list
    int layer;     // -1: none
    int shape[3];
    int rank;      // 1, 2, or 3 (stacks: [E, out, in])
    size_t offset; // in floats of the block, 16-float aligned; 0 where it is not there
    size_t size;
    bool decay;   // weight decay applies: two or more dimensions, not the embedding
    bool trained; // false: e_score_correction_bias, which has no gradient
    bool packed;  // forward passes read its packed forms alone
};

struct param_tensor { // one tensor on disk: a part of a param
    char name[96];
    int shape[2];
    int rank;
    int param;           // index of the one that it is a part of
    size_t offset, size; // in floats of the block, or of the param where that is not there
    bool trained;
};

struct params {
    bool read_only; // packed params are not in the block
    int count;
    struct param *list; // [count]
    size_t size;        // floats of the block, padding (zero) included
    float *data;        // in the memory of dev
    struct device *dev; // borrowed; NULL before params_alloc
    int num_tensors;
    struct param_tensor *tensors; // [num_tensors]
};

// Fills the two lists for an architecture; params_alloc then makes the block on a device, zeroed.
void params_layout(struct params *out, const struct arch *arch, bool read_only);
int params_alloc(struct params *p, struct device *dev);
void params_free(struct params *p); // leaves it zeroed

// The param of that name, printf style; NULL when there is none.
const struct param *params_find(const struct params *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

// Whether q has its place in the block.
bool params_hold(const struct params *p, const struct param *q);
// Matrices of q that can be packed one by one: those of a stack; 1 of what is none.
int params_parts(const struct param *q);

// New weights of one tensor, x [t->size]: see policy_create.
void params_init(float *x, const struct param_tensor *t, double init_range, uint64_t seed,
                 struct team *team);

// Host memory that holds the largest tensor; free().
float *params_tensor_buffer(const struct params *p);

// Views of a block that mirrors p's (its weights, a gradient, a moment) as tensors, in the order of
// p->tensors; names and data, which is the block's memory, are borrowed. Not of a policy that is
// only read.
void params_view(struct tensor *out, const struct params *p, const float *block);

#endif
