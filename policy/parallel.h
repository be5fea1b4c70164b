// SPDX-License-Identifier: Apache-2.0
// Training of a policy by several ranks. Every rank holds all weights and computes the gradient of
// its part of the batch; the parameter block is cut into one range a rank, and a rank reduces the
// gradient of its range, keeps the optimiser's moments of it and updates it (ZeRO-1,
// arXiv:1910.02054, section 5.1), after which all ranks give each other their ranges.
//
// A batch is cut into shards, a fixed number of them whatever the number of ranks. A rank has
// neighbouring shards and sums their gradients in the order of comm_pairwise; so are those of ranks
// summed. A run with the same shards on another number of ranks therefore computes the same bits as
// long as the shards of a rank are a power of two; with one shard a rank (the default) results of
// different numbers of ranks differ by the rounding of these sums.
//
// Expert parallel: neighbouring ranks form groups, and the E routed experts of a layer are divided
// among the ranks of each group. In training passes the rows go to the ranks that compute their
// experts and back, and so do their gradients. The gradients that an expert gets from each rank of
// the group stay apart (in the places of the experts that the rank does not compute) until the end
// of the batch and are then summed in that same order: forward and gradients have the bits of data
// parallel training.
//
// Calls that say "collective" are made by all ranks alike (kernels/comm.h).
#ifndef POLICY_PARALLEL_H
#define POLICY_PARALLEL_H

#include "kernels/comm.h"
#include "policy/policy.h"

struct parallel_settings {
    struct comm *comm; // borrowed
    int shards;        // of a batch; a multiple of the ranks
    int expert_group;  // ranks in a group; 1: no expert parallel
};

// To be called before policy_train_begin. Does nothing for one shard on one rank. ERR_CONFIG when
// ranks, shards, groups and experts do not divide.
int parallel_open(struct policy *p, const struct parallel_settings *s);
void parallel_free(struct policy_ranks **r);

// Shards of a batch, and those of them that are this rank's, [*first, *first + count).
int parallel_shards(const struct policy *p);
int parallel_own_shards(const struct policy *p, int *first);
// Collective. The gradient of one of the rank's shards, the `index`th from 0, is complete: it is
// put aside and the gradient is zero again, or, after the last one, is the sum of them all.
int parallel_shard_done(struct policy *p, int index);

// Collective. After the last shard: the gradient of this rank's range becomes the sum over ranks.
int parallel_reduce(struct policy *p);
// The range of the parameter block that a rank updates; all of it on one rank.
void parallel_range(const struct policy *p, int rank, size_t *begin, size_t *end);
int parallel_rank(const struct policy *p);

// The block is also cut, whatever the number of ranks up to this many, into blocks whose sums of
// squares make the norm of the gradient: [parallel_block(b), parallel_block(b + 1)).
#define PARALLEL_BLOCKS 64
int parallel_blocks(const struct policy *p);
size_t parallel_block(const struct policy *p, int b);
// The blocks [*first, *first + count) of this rank's range.
int parallel_own_blocks(const struct policy *p, int *first);
// Collective. x[n] becomes the sum over ranks.
int parallel_sum(const struct policy *p, double *x, int n);
int parallel_sum_load(struct policy *p); // of expert_load and the balance losses

// Bytes of what p->ranks, which are set, share: gradients put aside, what gradients are summed in,
// and, of passes of T tokens whose experts are spread, the rows of the own experts when every
// expert has equally many.
size_t parallel_bytes(const struct policy *p, int T);

// An error that all ranks have alike (comm_common).
int parallel_common(const struct policy *p, int rc);

// Collective. part: this rank's range of something that mirrors the parameter block; whole receives
// that of every rank (part may be its place in whole). root >= 0: only that rank receives it, and
// whole is not looked at elsewhere. All in the device's memory.
int parallel_collect(const struct policy *p, const float *part, float *whole, int root);

#endif
