// SPDX-License-Identifier: Apache-2.0
// Rotary position tables with the scaling of YaRN (arXiv:2309.00071) or Llama 3.1, and the softmax
// scale that goes with them. A table grows on demand; its rows do not depend on its size.
#ifndef POLICY_ROPE_H
#define POLICY_ROPE_H

#include "kernels/block.h"
#include "policy/arch.h"

struct rope_table {
    int positions;    // rows held
    float *cos, *sin; // [positions, Dr/2] in block, the attention factor included
    struct device_block block;
};

// Bytes of the table once it holds that many rows.
size_t rope_table_bytes(const struct arch *a, int positions);
// Makes the table hold at least `positions` rows in the memory of dev. On failure it is empty.
int rope_table_grow(struct rope_table *t, struct device *dev, const struct arch *a, int positions);
void rope_table_free(struct rope_table *t);

// Frequency of pair i < Dr/2, in radians a position.
double rope_frequency(const struct arch *a, int i);
// What cos and sin are multiplied by.
double rope_attention_factor(const struct arch *a);
// (Dn + Dr)^-1/2 m^2; m is 1 but for YaRN in latent attention.
double rope_softmax_scale(const struct arch *a);

#endif
