// SPDX-License-Identifier: Apache-2.0
// A kernel table that is free of the rule that a row has the same bits in every batch: each
// operation is done in whichever way was fastest when tried in the running engine, by its shape and
// its number of rows. What there is to choose from:
// - a product is ours, or cut among the threads by columns, by rows, or not at all, and each
//   thread's part of it computed by the fastest kernel for that (free_parts.h);
// - attention is ours, that of the other instruction set (bfloat16 widened), or, of single queries,
//   ours over halves of the keys that are put together afterwards;
// - latent attention of many rows is absorbed, as ours always is, or its keys and values are
//   expanded for each head, which takes fewer operations where there are many queries.
// All other operations are the device's own. Of a CPU with AVX-512 alone. One at a time.
#ifndef TESTS_PEERS_FREE_TABLE_H
#define TESTS_PEERS_FREE_TABLE_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// In this order: the kernels of parts are tried; then the ways of operations; then the forms of
// attention. What was not met before all is chosen is done as ours.
enum free_phase { FREE_TRY_PARTS, FREE_TRY_WAYS, FREE_TRY_FORMS, FREE_CHOSEN };

// Begins in the first phase, with the table that dev has. Non-zero: the CPU lacks AVX-512.
int free_table_open(struct device *dev);
void free_table_close(void);
const struct kernels *free_table_kernels(void);
void free_table_begin(enum free_phase phase);
long free_table_tries(void); // since it was opened, and primitives of oneDNN
long free_table_created(void);
void free_table_print(void); // what was chosen, with microseconds of each way

#ifdef __cplusplus
}
#endif

#endif
