// SPDX-License-Identifier: Apache-2.0
// Elements of float32 or bfloat16 in memory, float32 in registers, four at a time, and the grid of
// the kernels that treat every element alone. An access is one vector where the address allows it;
// which thread holds which element never depends on that.
#ifndef KERNELS_CUDA_ELEMENT_CUH
#define KERNELS_CUDA_ELEMENT_CUH

#include "kernels/cuda/cuda.cuh"

using bf16 = __nv_bfloat16;

struct four {
    float x[4];
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float *p, float x) { *p = x; }
__device__ __forceinline__ void narrow(bf16 *p, float x) { *p = __float2bfloat16_rn(x); }

template <typename T> __device__ __forceinline__ bool four_aligned(const T *p)
{
    return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0;
}

__device__ __forceinline__ four load_vector(const float *p)
{
    const float4 v = *reinterpret_cast<const float4 *>(p);
    return {{v.x, v.y, v.z, v.w}};
}

__device__ __forceinline__ four load_vector(const bf16 *p)
{
    const uint2 v = *reinterpret_cast<const uint2 *>(p);
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
             __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)}};
}

__device__ __forceinline__ void store_vector(float *p, const four &v)
{
    *reinterpret_cast<float4 *>(p) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}

// The bits of two bfloat16, `low` at the lower address.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    const uint32_t l = __bfloat16_as_ushort(__float2bfloat16_rn(low));
    const uint32_t h = __bfloat16_as_ushort(__float2bfloat16_rn(high));
    return l | h << 16;
}

__device__ __forceinline__ void store_vector(bf16 *p, const four &v)
{
    *reinterpret_cast<uint2 *>(p) =
        make_uint2(bf16_pair(v.x[0], v.x[1]), bf16_pair(v.x[2], v.x[3]));
}

// The first n (more than 4 count as 4) elements at p; zeros after them.
template <typename T> __device__ __forceinline__ four load_four(const T *p, int n)
{
    if (n >= 4 && four_aligned(p))
        return load_vector(p);
    four v;
    for (int i = 0; i < 4; i++)
        v.x[i] = i < n ? widen(p[i]) : 0.0f;
    return v;
}

template <typename T> __device__ __forceinline__ void store_four(T *p, int n, const four &v)
{
    if (n >= 4 && four_aligned(p)) {
        store_vector(p, v);
        return;
    }
    for (int i = 0; i < 4 && i < n; i++)
        narrow(p + i, v.x[i]);
}

// Orders floats as unsigned integers; zeros are equal, and NaN is below everything.
__device__ __forceinline__ uint32_t order_key(float x)
{
    if (x != x)
        return 0;
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Among four neighbouring lanes: lane q gives v[j] and gets lane j's v[q].
__device__ __forceinline__ void quad_transpose(uint32_t (&v)[4])
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t got = __shfl_xor_sync(ALL_LANES, odd ? v[i] : v[i + 1], 1);
        v[i] = odd ? got : v[i];
        v[i + 1] = odd ? v[i + 1] : got;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t got = __shfl_xor_sync(ALL_LANES, high ? v[i] : v[i + 2], 2);
        v[i] = high ? got : v[i];
        v[i + 2] = high ? v[i + 2] : got;
    }
}

// Fours of a row of n elements.
__host__ __device__ __forceinline__ int fours(int n) { return (n + 3) / 4; }

// One thread per item of every row: x along the row, y from row to row.
struct row_grid {
    dim3 grid, block;
};

inline row_grid row_grid_for(size_t rows, int items)
{
    const unsigned int threads = 256;
    unsigned int x = 1;
    while (x < threads && x < static_cast<unsigned int>(items))
        x *= 2;
    return {dim3(blocks_for(rows, threads / x), blocks_for(static_cast<size_t>(items), x)),
            dim3(x, threads / x)};
}

__device__ __forceinline__ size_t grid_row()
{
    return static_cast<size_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

__device__ __forceinline__ int grid_item()
{
    return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
}

#endif
