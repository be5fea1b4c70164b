// SPDX-License-Identifier: Apache-2.0
// What every file of CUDA kernels includes: the state of a CUDA device, launching, scratch memory
// and the few warp operations that all of them share. Instructions that need inline PTX are in
// ptx.cuh.
#ifndef KERNELS_CUDA_CUDA_CUH
#define KERNELS_CUDA_CUDA_CUH

#include "base/error.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/table.h"
#include "kernels/device.h"
#include <cstddef>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

// Scratch buffers of a device. A slot that calls another slot, and is in the middle of using
// scratch memory itself, must use another buffer than the callee: SCRATCH_INNER belongs to the
// matrix products, SCRATCH_OUTER to whatever calls them.
enum cuda_scratch_use { SCRATCH_INNER, SCRATCH_OUTER, SCRATCH_USES };

struct cuda_scratch {
    void *data;
    size_t bytes;
};

struct cuda_state {
    cudaStream_t stream; // everything of the device is put here, in order
    int index;           // of the GPU
    int arch;            // 10 * major + minor of its compute capability
    int num_sms;
    size_t shared_max; // bytes of shared memory that a block may have
    struct cuda_scratch scratch[SCRATCH_USES];
};

// Sets the message "GPU <index>: <what>: <CUDA's words>"; returns ERR_ENV.
int cuda_fail(const struct device *dev, cudaError_t error, const char *what);
// The same for the launch of a kernel, naming it.
int cuda_fail_launch(const struct device *dev, cudaError_t error, const void *kernel);

// Uninitialised device memory, 256-byte aligned, valid until the same buffer is asked for again.
// It grows to the largest size asked for and stays: only a call with a new largest size allocates.
int cuda_scratch_bytes(struct device *dev, enum cuda_scratch_use use, void **out, size_t bytes);

template <typename T>
int scratch(struct device *dev, enum cuda_scratch_use use, T **out, size_t count)
{
    void *p = nullptr;
    const int rc = cuda_scratch_bytes(dev, use, &p, count * sizeof(T));
    if (rc == 0)
        *out = static_cast<T *>(p);
    return rc;
}

// Puts kernel<<<grid, block, shared_bytes>>>(args...) on the device's stream. A grid without blocks
// is nothing to do. early: its blocks may begin before the kernel before it has ended; see
// wait_for_last.
template <typename... Params, typename... Args>
int launch_as(struct device *dev, bool early, dim3 grid, dim3 block, size_t shared_bytes,
              void (*kernel)(Params...), Args... args)
{
    const size_t shared_without_asking = 48 * 1024;
    const int hopper = 90;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return 0;
    cudaLaunchAttribute serial = {};
    serial.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    serial.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = dev->cuda->stream;
    config.attrs = &serial;
    config.numAttrs = early && dev->cuda->arch >= hopper ? 1 : 0;
    cudaError_t error = cudaSuccess;
    if (shared_bytes > shared_without_asking)
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared_bytes));
    if (error == cudaSuccess)
        error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
    return error == cudaSuccess
               ? 0
               : cuda_fail_launch(dev, error, reinterpret_cast<const void *>(kernel));
}

template <typename... Params, typename... Args>
int launch(struct device *dev, dim3 grid, dim3 block, size_t shared_bytes,
           void (*kernel)(Params...), Args... args)
{
    return launch_as(dev, false, grid, block, shared_bytes, kernel, args...);
}

template <typename... Params, typename... Args>
int launch_early(struct device *dev, dim3 grid, dim3 block, size_t shared_bytes,
                 void (*kernel)(Params...), Args... args)
{
    return launch_as(dev, true, grid, block, shared_bytes, kernel, args...);
}

// Blocks of `per` items that hold n items.
inline unsigned int blocks_for(size_t n, size_t per)
{
    return static_cast<unsigned int>((n + per - 1) / per);
}

constexpr int WARP = 32;
constexpr unsigned int ALL_LANES = 0xffffffffu;

// Sum and maximum over the lanes of a full warp, the same bits in every lane. The order of the sum
// is fixed: pairs 16 lanes apart, then 8, 4, 2, 1.
__device__ __forceinline__ float warp_sum(float x)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lane));
    return x;
}

#endif
