// SPDX-License-Identifier: Apache-2.0
// What a policy holds for training by several ranks. Internal to policy/.
#ifndef POLICY_PARALLEL_STATE_H
#define POLICY_PARALLEL_STATE_H

#include "kernels/block.h"
#include "policy/activations.h"
#include "policy/parallel.h"
#include "policy/weights.h"

// Rows that this rank's experts were given in the last training pass, of one mixture layer (of all,
// one after the other, in a policy that recomputes). They
// come by rank and then expert, and are computed by expert and then rank.
struct expert_rows {
    int *count; // [group, experts] from each rank of the group, for each own expert
    int M;      // sum of count
    struct device_block rows, gate_up; // [M,C], [M,2F] by expert
};

struct policy_ranks {
    struct comm *comm; // borrowed
    int shards, group;
    struct device_block stack; // gradients put aside, [depth, params.size]
    int stacked;
    struct device_block bucket; // what the ranks' gradients are summed in
    // Expert parallel.
    int layers;
    struct expert_rows *layer;                  // [layers]
    struct device_block in, out, hidden, index; // [M,C], [M,C], [M,F] and indices, of a layer
};

// Whether the training passes of p send rows to other ranks' experts.
bool experts_are_spread(const struct policy *p);
// Bytes of what the experts of a rank keep and use, in passes of T tokens that choose evenly.
size_t experts_bytes(const struct policy *p, int T);
// Collective. This rank begins a training pass.
int experts_begin(struct policy *p);
// Collective. From xs, the rows of the layer's slots, to their results in ys.
int experts_forward(struct policy *p, int layer, const struct layer_acts *l);
// Collective. From ys, which holds d(loss)/d(ys), to dxs; adds to the gradients of the experts.
int experts_backward(struct policy *p, int layer, const struct layer_acts *l);
// Collective. Takes part in the passes of other ranks until every rank calls this.
int experts_finish(struct policy *p);
// At the end of a batch: the sum over the group's ranks, for the own experts; zero for all others.
int experts_reduce(struct policy *p);
void experts_free(struct policy_ranks *r); // not r itself

#endif
