// SPDX-License-Identifier: Apache-2.0
// Elements of an array whose type is known at run time, as the reference reads and writes them.
#ifndef KERNELS_CPU_ELEMENT_H
#define KERNELS_CPU_ELEMENT_H

#include "kernels/kernels.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float bf16_widen(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof(y));
    return y;
}

// To the nearest, ties to even; a NaN stays one.
static inline uint16_t bf16_round(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float element_read(const void *array, enum dtype type, size_t i)
{
    return type == DTYPE_BF16 ? bf16_widen(((const uint16_t *)array)[i])
                              : ((const float *)array)[i];
}

static inline void element_write(void *array, enum dtype type, size_t i, float x)
{
    if (type == DTYPE_BF16)
        ((uint16_t *)array)[i] = bf16_round(x);
    else
        ((float *)array)[i] = x;
}

#endif
