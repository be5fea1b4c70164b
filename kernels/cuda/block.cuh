// SPDX-License-Identifier: Apache-2.0
// Sums and scans over groups of warps of a block. Every thread of the block takes part in each.
#ifndef KERNELS_CUDA_BLOCK_CUH
#define KERNELS_CUDA_BLOCK_CUH

#include "kernels/cuda/cuda.cuh"

__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / WARP; }
__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % WARP; }

// Sum over the WARPS warps that stand together with the thread's own, warps ascending. sums: a
// float per warp of the block; the block needs a barrier before they are used again.
template <int WARPS> __device__ __forceinline__ float group_sum(float x, float *sums)
{
    x = warp_sum(x);
    if (WARPS == 1)
        return x;
    const int first = warp_index() / WARPS * WARPS;
    if (lane_index() == 0)
        sums[warp_index()] = x;
    __syncthreads();
    x = sums[first];
    for (int w = 1; w < WARPS; w++)
        x += sums[first + w];
    return x;
}

template <typename T> __device__ __forceinline__ T warp_inclusive_scan(T x)
{
    for (int d = 1; d < WARP; d *= 2) {
        const T y = __shfl_up_sync(ALL_LANES, x, d);
        if (lane_index() >= d)
            x += y;
    }
    return x;
}

template <typename T> __device__ __forceinline__ T warp_total(T x)
{
    for (int d = WARP / 2; d > 0; d /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, d);
    return x;
}

// Sum of the integers of the threads before this one; *total: of all threads. sums may be used
// again at once.
template <int WARPS, typename T>
__device__ __forceinline__ T block_exclusive_scan(T x, T (&sums)[WARPS], T *total)
{
    const T inclusive = warp_inclusive_scan(x);
    if (lane_index() == WARP - 1)
        sums[warp_index()] = inclusive;
    __syncthreads();
    T before = 0, all = 0;
    for (int w = 0; w < WARPS; w++) {
        before += w < warp_index() ? sums[w] : 0;
        all += sums[w];
    }
    __syncthreads();
    *total = all;
    return before + inclusive - x;
}

// Sum of the integers of all threads.
template <int WARPS, typename T> __device__ __forceinline__ T block_total(T x, T (&sums)[WARPS])
{
    T total;
    block_exclusive_scan<WARPS>(x, sums, &total);
    return total;
}

#endif
