// SPDX-License-Identifier: Apache-2.0
// A set of 64-bit keys, open addressing, for what was held out. Any number of threads may ask it at
// once while nobody adds.
#ifndef RL_IDSET_H
#define RL_IDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A zeroed struct is an empty set.
struct idset {
    uint64_t *slots; // [size] key, or 0: free
    size_t size;     // a power of two
    size_t count;
    bool has_zero;
};

void idset_add(struct idset *s, uint64_t key);
bool idset_has(const struct idset *s, uint64_t key);
void idset_free(struct idset *s); // leaves an empty set

#endif
