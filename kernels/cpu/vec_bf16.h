// SPDX-License-Identifier: Apache-2.0
// bfloat16 in memory, float32 in vectors: loads that widen, stores that round to the nearest (ties
// to even; a NaN stays one), and pairs, which put two numbers into the halves of a 32-bit lane, the
// first in the lower one. `n` is how many lanes are meant, 1 .. VEC_WIDTH: of the others loads give
// 0 and stores write nothing.
#ifndef KERNELS_CPU_VEC_BF16_H
#define KERNELS_CPU_VEC_BF16_H

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"
#include <string.h>

#if defined(__AVX512F__)

typedef __m512i vec_bits;

static inline vec_bits vec_load_u16(const uint16_t *p, int n)
{
    if (n == VEC_WIDTH)
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vec_mask_first(n), p));
}
static inline void vec_store_u16(uint16_t *p, vec_bits x, int n)
{
    const __m256i low = _mm512_cvtepi32_epi16(x);
    if (n == VEC_WIDTH)
        _mm256_storeu_si256((__m256i *)(void *)p, low);
    else
        _mm256_mask_storeu_epi16(p, vec_mask_first(n), low);
}
static inline void vec_store_bits(uint32_t *p, vec_bits x) { _mm512_storeu_si512(p, x); }
static inline vec_bits vec_upper(vec_bits x) { return _mm512_slli_epi32(x, 16); }
static inline vec_bits vec_lower(vec_bits x) { return _mm512_srli_epi32(x, 16); }
static inline vec_bits vec_or(vec_bits x, vec_bits y) { return _mm512_or_si512(x, y); }
static inline vec_bits vec_as_bits(vec x) { return _mm512_castps_si512(x); }
static inline vec vec_as_floats(vec_bits x) { return _mm512_castsi512_ps(x); }
static inline vec_bits vec_keep_upper(vec_bits x)
{
    return _mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u));
}

// The bits of x rounded to bfloat16 in the upper halves; the lower ones hold anything.
static inline vec_bits vec_round_upper(vec x)
{
    const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
}

#else

typedef __m256i vec_bits;

static inline vec_bits vec_load_u16(const uint16_t *p, int n)
{
    if (n == VEC_WIDTH)
        return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    uint16_t part[VEC_WIDTH] = {0};
    memcpy(part, p, (size_t)n * sizeof *p);
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)part));
}
static inline void vec_store_u16(uint16_t *p, vec_bits x, int n)
{
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    uint16_t part[VEC_WIDTH];
    if (n == VEC_WIDTH) {
        _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(packed));
        return;
    }
    _mm_storeu_si128((__m128i *)(void *)part, _mm256_castsi256_si128(packed));
    memcpy(p, part, (size_t)n * sizeof *p);
}
static inline void vec_store_bits(uint32_t *p, vec_bits x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}
static inline vec_bits vec_upper(vec_bits x) { return _mm256_slli_epi32(x, 16); }
static inline vec_bits vec_lower(vec_bits x) { return _mm256_srli_epi32(x, 16); }
static inline vec_bits vec_or(vec_bits x, vec_bits y) { return _mm256_or_si256(x, y); }
static inline vec_bits vec_as_bits(vec x) { return _mm256_castps_si256(x); }
static inline vec vec_as_floats(vec_bits x) { return _mm256_castsi256_ps(x); }
static inline vec_bits vec_keep_upper(vec_bits x)
{
    return _mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000u));
}

static inline vec_bits vec_round_upper(vec x)
{
    const __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan));
}

#endif

// Lanes of n items left from the i-th on.
static inline int vec_lanes_at(size_t n, size_t i)
{
    return n - i < VEC_WIDTH ? (int)(n - i) : VEC_WIDTH;
}

static inline vec vec_load_bf16(const uint16_t *p, int n)
{
    return vec_as_floats(vec_upper(vec_load_u16(p, n)));
}
static inline void vec_store_bf16(uint16_t *p, vec x, int n)
{
    vec_store_u16(p, vec_lower(vec_round_upper(x)), n);
}

// n float32. A whole vector is faster than one with a mask of all lanes.
static inline vec vec_load_n(const float *p, int n)
{
    return n == VEC_WIDTH ? vec_load(p) : vec_load_mask(p, vec_mask_first(n));
}
static inline void vec_store_n(float *p, vec x, int n)
{
    if (n == VEC_WIDTH)
        vec_store(p, x);
    else
        vec_store_mask(p, x, vec_mask_first(n));
}

// Elements [i, i + n) of an array of either type.
static inline vec vec_load_as(const void *array, enum dtype type, size_t i, int n)
{
    if (type == DTYPE_BF16)
        return vec_load_bf16((const uint16_t *)array + i, n);
    return vec_load_n((const float *)array + i, n);
}
static inline void vec_store_as(void *array, enum dtype type, size_t i, vec x, int n)
{
    if (type == DTYPE_BF16)
        vec_store_bf16((uint16_t *)array + i, x, n);
    else
        vec_store_n((float *)array + i, x, n);
}

// y[0,n) from its yi-th element on = x from its xi-th on, in the other's type.
static inline void copy_as(void *y, enum dtype y_type, size_t yi, const void *x, enum dtype x_type,
                           size_t xi, size_t n)
{
    const size_t size = dtype_size(x_type);
    if (x_type == y_type && n > 0)
        memcpy((char *)y + yi * size, (const char *)x + xi * size, n * size);
    for (size_t i = 0; x_type != y_type && i < n; i += VEC_WIDTH) {
        const int lanes = vec_lanes_at(n, i);
        vec_store_as(y, y_type, yi + i, vec_load_as(x, x_type, xi + i, lanes), lanes);
    }
}

static inline vec_bits vec_pair(vec first, vec second) // rounded
{
    return vec_or(vec_lower(vec_round_upper(first)), vec_keep_upper(vec_round_upper(second)));
}
static inline vec_bits vec_load_pair(const uint16_t *first, const uint16_t *second, int n)
{
    return vec_or(vec_load_u16(first, n), vec_upper(vec_load_u16(second, n)));
}

#endif
