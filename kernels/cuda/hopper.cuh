// SPDX-License-Identifier: Apache-2.0
// Hopper's own instructions (sm_90a): transaction barriers, bulk and tensor copies to shared
// memory, additions of vectors in memory, and matrix products of a warpgroup. Device code that uses
// them stands inside #if HOPPER_CODE, for it is compiled for older GPUs as well, which never run
// it. The emulation has a file of the same name. PTX ISA 8.1: mbarrier, cp.async.bulk,
// cp.async.bulk.tensor, fence.proxy, red, wgmma.
#ifndef KERNELS_CUDA_HOPPER_CUH
#define KERNELS_CUDA_HOPPER_CUH

#include "kernels/cuda/cuda.cuh"
#include <cuda.h>

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_CODE 1
#else
#define HOPPER_CODE 0
#endif

constexpr int WARPGROUP = 128;

// ---- barriers in shared memory. A phase is over when `count` threads have arrived and all bytes
// that were expected have come; phases alternate between parity 0 and 1.

struct alignas(8) mbarrier {
    uint64_t bits;
};

__device__ __forceinline__ void mbarrier_init(mbarrier *b, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count)
                 : "memory");
}

// After the last mbarrier_init, before the barrier of the block that ends it.
__device__ __forceinline__ void mbarrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(mbarrier *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

// Arrives, and lets the phase wait for `bytes` of copies.
__device__ __forceinline__ void mbarrier_arrive_expect(mbarrier *b, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity is over.
__device__ __forceinline__ void mbarrier_wait(mbarrier *b, uint32_t parity)
{
    uint32_t over = 0;
    do
        asm volatile("{\n\t"
                     ".reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t"
                     "}"
                     : "=r"(over)
                     : "r"(shared_address(b)), "r"(parity)
                     : "memory");
    while (!over);
}

// ---- copies from global to shared memory, which complete on a barrier. One thread begins them.

// Addresses and bytes are multiples of 16.
__device__ __forceinline__ void bulk_copy(void *to_shared, const void *from, int bytes,
                                          mbarrier *done)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(to_shared)),
                 "l"(from), "r"(bytes), "r"(shared_address(done))
                 : "memory");
}

// The copies of cp.async are the thread's own: when all that it has begun have come, it arrives at
// the barrier, whose count it is part of. Who reads them by wgmma needs fence_async_proxy after the
// wait.
__device__ __forceinline__ void cp_async_arrive(mbarrier *b)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b))
                 : "memory");
}

// A map of `depth` matrices of bfloat16 [height, width], rows ld and matrices stride apart
// (elements), which is copied by boxes of box_rows x 64. In shared memory a box is rows of 128
// bytes, 16-byte pieces permuted by bits 7-9 of the address; what is outside the matrix is zero.
struct tensor_map {
    CUtensorMap bits;
};

typedef CUresult tensor_map_encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                   const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                   const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                   CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function; NULL where there is none.
inline tensor_map_encode *find_tensor_map_encode()
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const unsigned int since = 12000; // CUDA 12.0
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               since, cudaEnableDefault, &found);
    const bool usable = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<tensor_map_encode *>(function) : nullptr;
}

// Addresses and strides are multiples of 16 bytes; no size is 0.
inline int tensor_map_init(struct device *dev, tensor_map *out, const __nv_bfloat16 *p, int width,
                           int height, int depth, size_t ld, size_t stride, int box_rows)
{
    static tensor_map_encode *const encode = find_tensor_map_encode();
    if (!encode)
        return err_set(ERR_ENV, "GPU %d: the driver is too old for tensor maps", dev->cuda->index);
    const cuuint64_t element = sizeof(*p);
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(height),
                                static_cast<cuuint64_t>(depth)};
    const cuuint64_t strides[] = {ld * element, (depth > 1 ? stride : ld * sizes[1]) * element};
    const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows), 1}, steps[] = {1, 1, 1};
    const CUresult result = encode(
        &out->bits, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<__nv_bfloat16 *>(p), sizes,
        strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return err_set(ERR_ENV, "GPU %d: no tensor map of %d x %d x %d bfloat16, rows of %zu",
                       dev->cuda->index, depth, height, width, ld);
    return 0;
}

// Copies the box at (column, row, matrix). to_shared is aligned to 1024 bytes; the barrier gets the
// bytes of a whole box.
__device__ __forceinline__ void tensor_copy(void *to_shared, const tensor_map *map, int column,
                                            int row, int matrix, mbarrier *done)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(to_shared)),
                 "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(done))
                 : "memory");
}

// Makes this thread's ordinary writes to shared memory visible to wgmma and to copies.
__device__ __forceinline__ void fence_async_proxy()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of `threads` threads of the block, by number (1 to 15).
__device__ __forceinline__ void named_barrier(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// p[0..3] += x, in memory: nothing is read into the multiprocessor, and nothing waited for.
// Aligned to 16 bytes. An element may get one addition in a kernel, for the order of several is
// open. Subnormal numbers count as zeros.
__device__ __forceinline__ void add_in_memory(float *p, const float (&x)[4])
{
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x[0]), "f"(x[1]),
                 "f"(x[2]), "f"(x[3])
                 : "memory");
}

// ---- products of a warpgroup: D [64,n] += A [64,16] B [16,n], bfloat16 in, float32 sums. Lane i
// of warp w holds in d[4 j + 2 h + e] row 16 w + 8 h + i / 4, column 8 j + 2 (i % 4) + e.
//
// Operands are in shared memory, permuted like a tensor map's boxes. Without TRANS (terms in a
// row): rows of 128 bytes, eight of them in 1024 bytes, the next eight `eights` bytes further; a
// step of 16 terms is 32 bytes on. With TRANS (a row per term, of 64 rows of A or columns of B):
// eight terms in 1024 bytes, the next eight `eights` bytes and the next 64 rows or columns `strips`
// bytes further; a step of 16 terms is two times `eights` on.

__device__ __forceinline__ uint64_t wgmma_operand(const void *p, int eights, int strips)
{
    const uint64_t swizzle_128 = 1;
    const uint64_t address = (shared_address(p) & 0x3ffffu) >> 4;
    return address | static_cast<uint64_t>(strips >> 4) << 16 |
           static_cast<uint64_t>(eights >> 4) << 32 | swizzle_128 << 62;
}

// The operand `bytes` further on.
__device__ __forceinline__ uint64_t wgmma_advance(uint64_t operand, int bytes)
{
    return operand + static_cast<uint64_t>(bytes >> 4);
}

// Before the first wgmma, and before one whose d was written by other instructions.
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most PENDING of the latest groups are under way.
template <int PENDING> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving accesses to d over this point.
template <int N> __device__ __forceinline__ void wgmma_keep(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off
#define WGMMA_REGISTERS_16 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_REGISTERS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_REGISTERS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SUMS_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
    "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_SUMS_16(d, i) WGMMA_SUMS_8(d, i), WGMMA_SUMS_8(d, i + 8)
#define WGMMA_SUMS_32(d, i) WGMMA_SUMS_16(d, i), WGMMA_SUMS_16(d, i + 16)
#define WGMMA_SUMS_64(d, i) WGMMA_SUMS_32(d, i), WGMMA_SUMS_32(d, i + 32)
#define WGMMA_SUMS_128(d, i) WGMMA_SUMS_64(d, i), WGMMA_SUMS_64(d, i + 64)
// clang-format on

// One function per width n, chosen by the size of d; the strings are the operands' places.
#define WGMMA(n, registers, a, b, trans_a, trans_b)                                                \
    template <bool TRANS_A, bool TRANS_B>                                                          \
    __device__ __forceinline__ void wgmma(float(&d)[registers], uint64_t operand_a,                \
                                          uint64_t operand_b)                                      \
    {                                                                                              \
        asm volatile("{\n\t"                                                                       \
                     ".reg .pred add;\n\t"                                                         \
                     "setp.eq.u32 add, 0, 0;\n\t"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "                   \
                     "{" WGMMA_REGISTERS_##registers "}, " a ", " b ", add, 1, 1, " trans_a        \
                                                     ", " trans_b ";\n\t"                          \
                                                     "}"                                           \
                     : WGMMA_SUMS_##registers(d, 0)                                                \
                     : "l"(operand_a), "l"(operand_b), "n"(TRANS_A ? 1 : 0),                       \
                       "n"(TRANS_B ? 1 : 0));                                                      \
    }
WGMMA(32, 16, "%16", "%17", "%18", "%19")
WGMMA(64, 32, "%32", "%33", "%34", "%35")
WGMMA(128, 64, "%64", "%65", "%66", "%67")
WGMMA(256, 128, "%128", "%129", "%130", "%131")
#undef WGMMA

// The same with A in registers: those of mma_m16n8k16_bf16 for each warp's 16 rows.
template <bool TRANS_B>
__device__ __forceinline__ void wgmma_held(float (&d)[128], const uint32_t (&a)[4],
                                           uint64_t operand_b)
{
    asm volatile("{\n\t"
                 ".reg .pred add;\n\t"
                 "setp.eq.u32 add, 0, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{" WGMMA_REGISTERS_128 "}, {%128, %129, %130, %131}, %132, add, 1, 1, %133;\n\t"
                 "}"
                 : WGMMA_SUMS_128(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(operand_b),
                   "n"(TRANS_B ? 1 : 0));
}

// ---- registers: what a thread of a warpgroup may use from here on (a multiple of 8, 24 to 256).
// All warps of the warpgroup call it. Those that are given up must have been given before others
// are asked for.

template <int N> __device__ __forceinline__ void registers_lower()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void registers_raise()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#endif
