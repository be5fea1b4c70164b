// SPDX-License-Identifier: Apache-2.0
// What a policy takes of its device's memory, told before any of it is taken: by the walks that
// carve its blocks, with no block. Not counted: what the host holds (tokens, files), and what the
// device's kernels keep for themselves.
#ifndef POLICY_MEMORY_H
#define POLICY_MEMORY_H

#include "policy/parallel.h"

enum policy_part {
    PART_WEIGHTS,     // float32: all, or what is read as such
    PART_PACKED,      // as products read them, of the policy's type
    PART_GRADIENTS,   // float32, as are moments
    PART_MOMENTS,     // of AdamW, of this rank's range
    PART_ACTIVATIONS, // of the largest pass
    PART_INPUTS,      // of the largest pass, and the tables of rotations
    PART_RANKS,       // what training by several ranks adds
    POLICY_PARTS
};

struct policy_memory {
    size_t bytes[POLICY_PARTS];
};

struct policy_use { // what a policy is for
    enum dtype dtype;
    bool read_only;                   // policy_source.read_only
    bool train;                       // with gradients and an optimiser
    bool recompute;                   // policy.recompute
    const struct policy_pass *passes; // [num_passes]
    int num_passes;
    int positions;                           // of the longest sequence
    const struct parallel_settings *several; // NULL: one rank, one shard
};

// dev: where it will be; nothing is allocated there.
void policy_memory(struct policy_memory *out, struct device *dev, const struct arch *arch,
                   const struct policy_use *use);
size_t policy_memory_total(const struct policy_memory *m);

// Makes p as it is used: whether it recomputes, and room for passes up to these shapes, which then
// allocate nothing.
int policy_reserve(struct policy *p, const struct policy_use *use);

#endif
