// SPDX-License-Identifier: Apache-2.0
#include "rl/idset.h"

#include "base/mem.h"
#include "base/philox.h"

#include <stdlib.h>

// The slot that holds the key, or the free one where it belongs; size > count.
static size_t find(const struct idset *s, uint64_t key)
{
    size_t i = philox_mix(key, 0) & (s->size - 1);
    while (s->slots[i] != 0 && s->slots[i] != key)
        i = (i + 1) & (s->size - 1);
    return i;
}

static void grow(struct idset *s)
{
    const struct idset old = *s;
    s->size = old.size > 0 ? 2 * old.size : 64;
    s->slots = mem_array0(s->size, sizeof(*s->slots));
    for (size_t i = 0; i < old.size; i++)
        if (old.slots[i] != 0)
            s->slots[find(s, old.slots[i])] = old.slots[i];
    free(old.slots);
}

void idset_add(struct idset *s, uint64_t key)
{
    if (key == 0) {
        s->has_zero = true;
        return;
    }
    if (2 * (s->count + 1) > s->size)
        grow(s);
    const size_t i = find(s, key);
    s->count += s->slots[i] == 0;
    s->slots[i] = key;
}

bool idset_has(const struct idset *s, uint64_t key)
{
    if (key == 0)
        return s->has_zero;
    return s->size > 0 && s->slots[find(s, key)] == key;
}

void idset_free(struct idset *s)
{
    free(s->slots);
    *s = (struct idset){0};
}
