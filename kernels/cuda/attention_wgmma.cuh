// SPDX-License-Identifier: Apache-2.0
// Latent attention by warpgroup matrix instructions (wgmma), for Hopper and the one width that
// DeepSeek's models have. Tiles of 64 rows in shared memory as wgmma reads them: strips of 64
// columns, in each a row is 128 bytes, its 16-byte vectors permuted by the row's low three bits.
#ifndef KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define KERNELS_CUDA_ATTENTION_WGMMA_CUH

#include "kernels/cuda/attention_bf16.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/hopper.cuh"

namespace attention
{

constexpr int WIDE_R = 512, WIDE_DR = 64, WIDE_D = WIDE_R + WIDE_DR;
constexpr int WIDE_ROWS = 64; // of a tile: queries as well as keys
constexpr int STRIP_COLUMNS = 64, ROW_BYTES = 128;
constexpr int EIGHT_ROWS = 8 * ROW_BYTES; // bytes
constexpr int STRIP_BYTES = WIDE_ROWS * ROW_BYTES;
constexpr int VALUE_STRIPS = WIDE_R / STRIP_COLUMNS, STRIPS = WIDE_D / STRIP_COLUMNS;
constexpr int TILE_BYTES = STRIPS * STRIP_BYTES;
static_assert(WIDE_ROWS == KEYS, "tiles of rows and of keys look the same");

// The passes (attention_wgmma.cu, attention_grad_wgmma.cu), for the shapes that wide_shape allows,
// which looks at nothing that a batch could change.
int attend_wide(struct device *dev, const struct attention_args *a);
int attend_grad_wide(struct device *dev, const struct attention_grad_args *a);
inline bool wide_shape(const struct device *dev, int R, int Dr)
{
    const int hopper = 90;
    return dev->cuda->arch == hopper && R == WIDE_R && Dr == WIDE_DR;
}

// Rows of a strip as an operand whose terms are columns, 16 terms from `column` on; and as one
// whose terms are rows, from `row` on.
__device__ __forceinline__ uint64_t strip_rows(const unsigned char *strip, int column)
{
    return wgmma_advance(wgmma_operand(strip, EIGHT_ROWS, STRIP_BYTES),
                         column * static_cast<int>(sizeof(bf16)));
}
__device__ __forceinline__ uint64_t strip_columns(const unsigned char *strip, int row)
{
    return wgmma_advance(wgmma_operand(strip, EIGHT_ROWS, STRIP_BYTES), row * ROW_BYTES);
}

// Where 16-byte vector v (of 8) of a row stands in its strip.
__device__ __forceinline__ unsigned char *strip_vector(unsigned char *strip, int row, int v)
{
    return strip + row * ROW_BYTES + ((v ^ (row & 7)) << 4);
}

// Where a warpgroup copies rows from: `valid` rows of WIDTH elements; later ones become zero.
template <int WIDTH> struct strip_source {
    const bf16 *p;
    int valid;

    __device__ __forceinline__ bool aligned() const
    {
        return reinterpret_cast<uintptr_t>(p) % 16 == 0;
    }

    // Starts copying strips [first, first + COUNT) to a tile.
    template <int COUNT> __device__ __forceinline__ void load(unsigned char *tile, int first) const
    {
        const int thread = static_cast<int>(threadIdx.x) % WARPGROUP, v = thread % 8;
        constexpr int PASS = WARPGROUP / 8; // rows at a time
        unsigned char *const to = strip_vector(tile + first * STRIP_BYTES, thread / 8, v);
        const bf16 *const from = p + first * STRIP_COLUMNS + v * VECTOR;
        if (!aligned()) {
            for (int i = thread / 8; i < WIDE_ROWS; i += PASS)
                for (int s = 0; s < COUNT; s++)
                    copy_vector(strip_vector(tile + (first + s) * STRIP_BYTES, i, v),
                                from + (i < valid ? i : 0) * WIDTH + s * STRIP_COLUMNS, i < valid);
            return;
        }
#pragma unroll
        for (int i = 0; i < WIDE_ROWS / PASS; i++) {
            const int row = thread / 8 + i * PASS;
            const bf16 *const source = from + (row < valid ? row : 0) * WIDTH;
#pragma unroll
            for (int s = 0; s < COUNT; s++)
                cp_async_16_zero(to + i * PASS * ROW_BYTES + s * STRIP_BYTES,
                                 source + s * STRIP_COLUMNS, row < valid ? 16 : 0);
        }
    }

    static __device__ __forceinline__ void copy_vector(unsigned char *to, const bf16 *from,
                                                       bool there)
    {
#pragma unroll 1
        for (int j = 0; j < VECTOR; j++)
            reinterpret_cast<bf16 *>(to)[j] = there ? from[j] : __float2bfloat16_rn(0.0f);
    }
};

#if HOPPER_CODE
// Each thread arrives when what it has copied has come; aligned: all of it was.
__device__ __forceinline__ void arrive_strips(mbarrier *done, bool aligned)
{
    if (aligned) {
        cp_async_arrive(done);
        return;
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    mbarrier_arrive(done);
}

// What other threads' copies by cp.async have brought may be read by wgmma.
__device__ __forceinline__ void wait_strips(mbarrier *full, uint32_t phase)
{
    mbarrier_wait(full, phase);
    fence_async_proxy();
}
#endif

} // namespace attention

#endif
