// SPDX-License-Identifier: Apache-2.0
// The weights as the passes use them: where each stands in the block, and its packed forms on the
// device. Internal to policy/.
#ifndef POLICY_WEIGHTS_H
#define POLICY_WEIGHTS_H

#include "policy/policy.h"

// `count` matrices [out,in] of a param. A packed form exists where a pass needs it: that of the
// backward pass where the device does not read the block itself (device.reads_plain).
struct matrix {
    const struct param *param; // borrowed
    size_t offset, stride;     // in floats of the block, or of the param where that is not there
    int count, out, in;        // count 0: the model has no such weight
    enum dtype type;           // of the packed forms, and so of the products' operands
    void *to_out;              // packed [in,out]: x W^T, the way of the forward pass
    void *to_in;               // packed [out,in]: y W, its backward, and W_UK's forward
};

enum layer_matrix {
    W_Q_A,         // [Rq,C]
    W_Q,           // [H (Dn+Dr), Rq or C]
    W_KV_A,        // [R+Dr,C]
    W_UK,          // H of [Dn,R], inside kv_b_proj
    W_UV,          // H of [Dv,R], inside kv_b_proj
    W_QKV,         // [H Dr + Hkv (Dr+Dv), C] of grouped-query attention, instead of the above
    W_QKV_BIAS,    // a bias is the weight [.,1] of an input that is 1
    W_O_BIAS,      // likewise
    W_O,           // [C,H Dv]
    W_GATE,        // [E,C], float32 whatever the policy's type
    W_GATE_UP,     // [2 width,C]: the dense FFN, or the shared experts
    W_DOWN,        // [C,width]
    W_EXP_GATE_UP, // E of [2F,C]
    W_EXP_DOWN,    // E of [C,F]
    W_LAYER_COUNT
};

struct layer_weights {
    struct matrix m[W_LAYER_COUNT];
    // Offsets, of what there is. q_norm and kv_norm are over latents, or over a head's query and
    // key.
    size_t norm1, norm2, q_norm, kv_norm, route_bias;
};

struct policy_packed {
    struct layer_weights *layers; // [L]
    struct matrix head;           // [V,C]; the embedding's when tied
    struct matrix score;          // [1,C], float32 as well
    size_t embed, norm, score_bias;
    bool train;         // packed for the backward pass as well
    void *block;        // all packed forms, in the memory of dev
    struct device *dev; // borrowed
};

// Finds the weights of p and makes room for their packed forms, all zero.
int weights_open(struct policy_packed **out, const struct policy *p);
// Bytes of the packed forms, train: those of the backward pass as well; p need not have parameters.
size_t weights_bytes(const struct policy *p, bool train);
// Packs the block, and for the backward pass once p has gradients.
int weights_pack(struct policy_packed *w, const struct policy *p);
// Packs param q of p from the device's memory: `count` of its params_parts, from number `first` on,
// which `from` holds.
int weights_pack_param(const struct policy_packed *w, const struct policy *p, const struct param *q,
                       const float *from, int first, int count);
void weights_free(struct policy_packed **w);

#endif
