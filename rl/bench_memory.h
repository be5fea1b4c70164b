// SPDX-License-Identifier: Apache-2.0
// The arrays of a bench's case in a device's memory, filled with random numbers (zeros would be
// faster than what a model holds).
#ifndef RL_BENCH_MEMORY_H
#define RL_BENCH_MEMORY_H

#include "kernels/device.h"

struct bench_memory {
    struct device *dev;
    int rc; // of the first failure; after it nothing more is done, and pointers are NULL
    void **arrays;
    int count;
    double bytes;  // that a call has to move
    void *numbers; // on the device, of the type last asked for
    enum dtype numbers_type;
};

// Numbers of +-0.5. moves: how often a call has to read or write each, which is counted in bytes.
void *bench_numbers(struct bench_memory *m, enum dtype type, size_t count, int moves);
void *bench_zeros(struct bench_memory *m, size_t bytes, int moves);
void *bench_upload(struct bench_memory *m, const void *from, size_t bytes); // read once
// `count` matrices [k,n], packed; read once.
void *bench_packed(struct bench_memory *m, enum dtype type, int k, int n, int count);
void bench_memory_free(struct bench_memory *m); // leaves rc as it is

#endif
