// SPDX-License-Identifier: Apache-2.0
// Every instruction that CUDA C++ has no word for, and dynamic shared memory. sm_80 and newer. The
// emulation that runs the kernels on a CPU (tests/cuda_emul) has a file of the same name instead of
// this one: each function here has its twin there.
// PTX ISA 8.0, 9.7.8.24 (cp.async), 9.7.13 (warp-level matrix instructions).
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

// The block's dynamic shared memory, 1024-byte aligned.
template <typename T> __device__ __forceinline__ T *dynamic_shared()
{
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return reinterpret_cast<T *>(dynamic_shared_memory);
}

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- a kernel that begins before the one before it has ended (launch_early), on GPUs from Hopper
// on; on others nothing

// Lets the next one begin when all blocks have said so and there is room beside them.
__device__ __forceinline__ void let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits for the end of the kernel before, and for what it has written: for threads that read that,
// or on whose word others write what that one reads.
__device__ __forceinline__ void wait_for_last()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- asynchronous copies from global to shared memory; both addresses aligned to the size

__device__ __forceinline__ void cp_async_16(void *to_shared, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to_shared)),
                 "l"(from)
                 : "memory");
}

// Reads the first `bytes` (0 to 16) only; the rest of the 16 is set to zero.
__device__ __forceinline__ void cp_async_16_zero(void *to_shared, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

// For data that is hardly read again soon: the L2 cache gives its lines up before others.
__device__ __forceinline__ uint64_t l2_evict_first()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ void cp_async_16_zero(void *to_shared, const void *from, int bytes,
                                                 uint64_t policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                     shared_address(to_shared)),
                 "l"(from), "r"(bytes), "l"(policy)
                 : "memory");
}

// Reads the first `bytes` (0 to 4) only; the rest of the 4 is set to zero.
__device__ __forceinline__ void cp_async_4_zero(void *to_shared, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to_shared)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

// Closes the group of the copies that this thread has begun since the last commit.
__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING of this thread's latest groups are under way. Other threads' copies
// are seen after a barrier.
template <int PENDING> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- matrices of 8 x 8 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8 (a
// row is 16 bytes, aligned); lane i gets elements (i / 4, 2 (i % 4) + {0, 1}) of each, or, _trans,
// of each one's transpose.

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- D [16,8] += A [16,k] B [k,8], float32 sums. Lane i with g = i / 4, q = i % 4 holds
// - d: (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1)
// - bf16, k 16: a, pairs of columns: (g, 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8);
//   b, pairs of rows: (2q, g), (2q + 8, g)
// - tf32, k 8: a: (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4); b: (q, g), (q + 4, g)

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2^x, off by 2^-22 of it at most; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The nearest tf32, as the bits of a float32.
__device__ __forceinline__ uint32_t to_tf32(float x)
{
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

#endif
