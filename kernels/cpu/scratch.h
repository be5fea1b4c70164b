// SPDX-License-Identifier: Apache-2.0
// The scratch memory of a CPU device: one growing buffer for the shared rank (first) and one for
// each rank of its team.
#ifndef KERNELS_CPU_SCRATCH_H
#define KERNELS_CPU_SCRATCH_H

#include <stddef.h>

struct scratch_buffer {
    float *data;
    size_t floats;
    char pad[48]; // a cache line each: ranks grow theirs at the same time
};

struct device_scratch {
    int ranks;
    struct scratch_buffer *buffers; // [ranks+1]
};

struct device_scratch *scratch_create(int ranks);
void scratch_free(struct device_scratch **s);

#endif
