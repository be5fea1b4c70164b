// SPDX-License-Identifier: Apache-2.0
// One thread's parts of products, each by the kernel that was the fastest for its sizes when tried:
// ours, ours of the other instruction set (bfloat16 widened), oneDNN's primitive for these very
// sizes with weights in its own layout, or, of up to four rows, one that sums along the depth in
// several chains.
#ifndef TESTS_PEERS_FREE_PARTS_H
#define TESTS_PEERS_FREE_PARTS_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FREE_COLUMNS = 32 }; // of a panel of packed weights with AVX-512

struct free_worker;  // of one thread
struct free_weights; // in oneDNN's layouts, of all threads
struct free_weights *free_weights_open(void);
void free_weights_close(struct free_weights **w);

struct free_worker *free_worker_open(struct device *dev, struct free_weights *weights);
void free_worker_close(struct free_worker **w);
struct device *free_worker_device(struct free_worker *w); // like dev, of this thread alone

// C = A B: batch 1, no segments, B packed for AVX-512.
void free_worker_multiply(struct free_worker *w, const struct matmul_args *p);
void free_worker_settle(struct free_worker *w); // what is not met before is done by ours
long free_worker_tries(const struct free_worker *w);
long free_worker_created(const struct free_worker *w); // primitives
void free_worker_print(const struct free_worker *w);

// B [k,n] of a part as its rows lie in memory.
void free_unpack(const struct matmul_args *p, void *out);

#ifdef __cplusplus
}
#endif

#endif
