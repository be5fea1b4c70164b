// SPDX-License-Identifier: Apache-2.0
// Latent attention with keys and values expanded for each head (arXiv:2405.04434, eq. 9-11, without
// absorbing), by our kernels: a thread expands what a head sees of a sequence, and attends to it.
#ifndef TESTS_PEERS_FREE_LATENT_H
#define TESTS_PEERS_FREE_LATENT_H

#include "tests/peers/free_parts.h"

#ifdef __cplusplus
extern "C" {
#endif

struct free_expansion;

struct free_expansion *free_expansion_open(struct device *dev, struct free_worker *const *workers);
void free_expansion_close(struct free_expansion **e);

// What three operations of the absorbed form do for the sequences from `first` on: `queries` (its A
// holds the queries as they are projected, of which the first k elements of a head are multiplied),
// attention (the rest of a head stands, rotated, at the end of its q), and `outputs`, the result.
int free_expansion_run(struct free_expansion *e, const struct matmul_args *queries,
                       const struct attention_args *attention, int first,
                       const struct matmul_args *outputs);

#ifdef __cplusplus
}
#endif

#endif
