// SPDX-License-Identifier: Apache-2.0
// A block of a device's memory that grows on demand and is reused. A zeroed struct is an empty
// block.
#ifndef KERNELS_BLOCK_H
#define KERNELS_BLOCK_H

#include "kernels/device.h"

struct device_block {
    struct device *dev; // borrowed; NULL: empty
    void *data;
    size_t bytes;
};

// Makes the block at least that large; what was in it is lost when it grows. On failure it is
// empty.
int device_block_reserve(struct device_block *b, struct device *dev, size_t bytes);
void device_block_free(struct device_block *b); // leaves an empty block

// New memory of a device, zeroed.
int device_alloc_zero(struct device *dev, void **out, size_t bytes);
int device_alloc_floats(struct device *dev, float **out, size_t count);
void device_release(struct device *dev, void *p); // NULL is fine

#endif
