// SPDX-License-Identifier: Apache-2.0
// Vectors of float32 for the fast variants: a fixed set of operations over AVX2 + FMA (8 lanes) or
// AVX-512 (16 lanes). Every fast_*.c is compiled once for each, and for AVX-512 with BF16 or AMX,
// and FAST(name) gives them their names. Operations on a part of a vector take a mask of its first
// n lanes and do the arithmetic of a whole one, so that a tail has the bits it would have
// elsewhere. Minima and maxima keep a NaN of their second operand.
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)

#if defined(TILES_EMULATED)
#define FAST(name) name##_amx_emulated
#elif defined(KERNELS_AMX)
#define FAST(name) name##_amx
#elif defined(__AVX512BF16__)
#define FAST(name) name##_avx512bf16
#else
#define FAST(name) name##_avx512
#endif
#define VEC_WIDTH 16
typedef __m512 vec;
typedef __mmask16 vec_mask;

static inline vec_mask vec_mask_first(int n) { return (vec_mask)((1u << n) - 1u); }
static inline vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec vec_load_mask(const float *p, vec_mask m) // other lanes 0, not read
{
    return _mm512_maskz_loadu_ps(m, p);
}
static inline void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
static inline void vec_store_mask(float *p, vec x, vec_mask m) { _mm512_mask_storeu_ps(p, m, x); }
static inline vec vec_set1(float x) { return _mm512_set1_ps(x); }
static inline vec vec_fma(vec x, vec y, vec z) // x y + z
{
    return _mm512_fmadd_ps(x, y, z);
}
static inline vec vec_add(vec x, vec y) { return _mm512_add_ps(x, y); }
static inline vec vec_sub(vec x, vec y) { return _mm512_sub_ps(x, y); }
static inline vec vec_mul(vec x, vec y) { return _mm512_mul_ps(x, y); }
static inline vec vec_div(vec x, vec y) { return _mm512_div_ps(x, y); }
static inline vec vec_sqrt(vec x) { return _mm512_sqrt_ps(x); }
static inline vec vec_max(vec x, vec y) { return _mm512_max_ps(x, y); }
static inline vec vec_min(vec x, vec y) { return _mm512_min_ps(x, y); }
static inline vec vec_select(vec_mask m, vec x, vec y) // x where m, else y
{
    return _mm512_mask_blend_ps(m, y, x);
}
static inline vec_mask vec_less(vec x, vec y) { return _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ); }
static inline vec vec_round(vec x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vec vec_scale2(vec x, vec n) // x 2^n, n whole
{
    return _mm512_scalef_ps(x, n);
}
static inline float vec_sum(vec x)
{
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float vec_largest(vec x)
{
    const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
// Lane i of a quarter q of the vector is row[4q + j][i]: the rows j, 4 + j, 8 + j, 12 + j as one
// vector.
static inline vec vec_quarters(const float *const *row, size_t at, int j)
{
    vec x = _mm512_castps128_ps512(_mm_loadu_ps(row[j] + at));
    x = _mm512_insertf32x4(x, _mm_loadu_ps(row[4 + j] + at), 1);
    x = _mm512_insertf32x4(x, _mm_loadu_ps(row[8 + j] + at), 2);
    return _mm512_insertf32x4(x, _mm_loadu_ps(row[12 + j] + at), 3);
}
static inline vec vec_unpack_low(vec x, vec y) { return _mm512_unpacklo_ps(x, y); }
static inline vec vec_unpack_high(vec x, vec y) { return _mm512_unpackhi_ps(x, y); }
static inline vec vec_pairs_low(vec x, vec y)
{
    return _mm512_shuffle_ps(x, y, _MM_SHUFFLE(1, 0, 1, 0));
}
static inline vec vec_pairs_high(vec x, vec y)
{
    return _mm512_shuffle_ps(x, y, _MM_SHUFFLE(3, 2, 3, 2));
}

#else

#define FAST(name) name##_avx2
#define VEC_WIDTH  8
typedef __m256 vec;
typedef __m256i vec_mask;

static inline vec_mask vec_mask_first(int n)
{
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(const void *)(lanes + 8 - n));
}
static inline vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline vec vec_load_mask(const float *p, vec_mask m) { return _mm256_maskload_ps(p, m); }
static inline void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
// A masked store takes ten times as long as a whole one on some AVX2 processors.
static inline void vec_store_mask(float *p, vec x, vec_mask m)
{
    if (_mm256_movemask_ps(_mm256_castsi256_ps(m)) == 0xff)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, m, x);
}
static inline vec vec_set1(float x) { return _mm256_set1_ps(x); }
static inline vec vec_fma(vec x, vec y, vec z) { return _mm256_fmadd_ps(x, y, z); }
static inline vec vec_add(vec x, vec y) { return _mm256_add_ps(x, y); }
static inline vec vec_sub(vec x, vec y) { return _mm256_sub_ps(x, y); }
static inline vec vec_mul(vec x, vec y) { return _mm256_mul_ps(x, y); }
static inline vec vec_div(vec x, vec y) { return _mm256_div_ps(x, y); }
static inline vec vec_sqrt(vec x) { return _mm256_sqrt_ps(x); }
static inline vec vec_max(vec x, vec y) { return _mm256_max_ps(x, y); }
static inline vec vec_min(vec x, vec y) { return _mm256_min_ps(x, y); }
static inline vec vec_select(vec_mask m, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(m));
}
static inline vec_mask vec_less(vec x, vec y)
{
    return _mm256_castps_si256(_mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
static inline vec vec_round(vec x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// In two steps, since 2^n itself may overflow or underflow where x 2^n does not.
static inline vec vec_scale2(vec x, vec n)
{
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return vec_mul(vec_mul(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
static inline float vec_sum(vec x)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float vec_largest(vec x)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
static inline vec vec_quarters(const float *const *row, size_t at, int j)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row[j] + at)),
                                _mm_loadu_ps(row[4 + j] + at), 1);
}
static inline vec vec_unpack_low(vec x, vec y) { return _mm256_unpacklo_ps(x, y); }
static inline vec vec_unpack_high(vec x, vec y) { return _mm256_unpackhi_ps(x, y); }
static inline vec vec_pairs_low(vec x, vec y)
{
    return _mm256_shuffle_ps(x, y, _MM_SHUFFLE(1, 0, 1, 0));
}
static inline vec vec_pairs_high(vec x, vec y)
{
    return _mm256_shuffle_ps(x, y, _MM_SHUFFLE(3, 2, 3, 2));
}

#endif

static inline vec vec_zero(void) { return vec_set1(0.0f); }

// e^x within 2 ulp: x = n ln 2 + r, and a polynomial of degree 7 in |r| <= ln(2)/2 (coefficients:
// Cephes, expf). 0 below the smallest normal result, infinity above the largest, 1 at 0 exactly,
// NaN at NaN.
static inline vec vec_exp(vec x)
{
    const vec_mask tiny = vec_less(x, vec_set1(-87.336540f));
    const vec top = vec_min(vec_set1(89.0f), x);
    const vec bounded = vec_max(vec_set1(-88.0f), top);
    const vec n = vec_round(vec_mul(bounded, vec_set1(1.44269504f)));
    vec r = vec_fma(n, vec_set1(-0.693359375f), bounded);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);
    vec p = vec_set1(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set1(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set1(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set1(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set1(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set1(5.0000001201e-1f));
    p = vec_add(vec_fma(p, vec_mul(r, r), r), vec_set1(1.0f));
    return vec_select(tiny, vec_zero(), vec_scale2(p, n));
}

static inline vec vec_sigmoid(vec x)
{
    const vec one = vec_set1(1.0f);
    return vec_div(one, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
}

// Columns at .. at + 3 of VEC_WIDTH rows become 4 vectors: out[d ldo + i] = row[i][at + d].
static inline void vec_transpose4(const float *const *row, size_t at, float *out, size_t ldo)
{
    const vec x0 = vec_quarters(row, at, 0), x1 = vec_quarters(row, at, 1);
    const vec x2 = vec_quarters(row, at, 2), x3 = vec_quarters(row, at, 3);
    const vec low01 = vec_unpack_low(x0, x1), low23 = vec_unpack_low(x2, x3);
    const vec high01 = vec_unpack_high(x0, x1), high23 = vec_unpack_high(x2, x3);
    vec_store(out, vec_pairs_low(low01, low23));
    vec_store(out + ldo, vec_pairs_high(low01, low23));
    vec_store(out + 2 * ldo, vec_pairs_low(high01, high23));
    vec_store(out + 3 * ldo, vec_pairs_high(high01, high23));
}

// The whole vectors of n values and the mask of what is left, for loops of the form
//   for (i = 0; i < n; i += VEC_WIDTH) with m = vec_mask_at(n, i).
static inline vec_mask vec_mask_at(size_t n, size_t i)
{
    return vec_mask_first(n - i < VEC_WIDTH ? (int)(n - i) : VEC_WIDTH);
}

#endif
