// SPDX-License-Identifier: Apache-2.0
// Stable counting sort on the device, without a word to the host.
#ifndef KERNELS_CUDA_SORT_CUH
#define KERNELS_CUDA_SORT_CUH

#include "kernels/cuda/cuda.cuh"

// Item p is order[p], or p itself without an order; its bucket is (keys[item] >> shift) & mask.
struct bucket_sort {
    const int *keys;
    const int *order; // [n] or NULL; not `sorted`
    int n, shift, mask, buckets;
    int *sorted;   // [n]: the items by bucket, those of one bucket in the order they came
    int *slot;     // [n]: where item p went; or NULL
    int *segments; // [buckets+1]: the first slot of every bucket, and n; or NULL
};

// Integers of scratch memory that the sort needs.
size_t bucket_sort_scratch(const struct bucket_sort *s);
int bucket_sort_run(struct device *dev, const struct bucket_sort *s, int *scratch);

#endif
