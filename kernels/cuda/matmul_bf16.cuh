// SPDX-License-Identifier: Apache-2.0
// What the bfloat16 products share: operands whose rows are aligned, and storing a pair of results.
#ifndef KERNELS_CUDA_MATMUL_BF16_CUH
#define KERNELS_CUDA_MATMUL_BF16_CUH

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/matmul.cuh"

// `batch` matrices of rows of `cols`, stride apart.
struct bf16_matrices {
    const bf16 *p;
    size_t ld, stride;
    int rows, cols, batch;
};

// Whether all rows begin on 16 bytes, as 16-byte copies and tensor maps need.
bool bf16_aligned(const bf16_matrices *m);
// Elements of an aligned copy.
size_t bf16_copy_size(const bf16_matrices *m);
// Copies m to `to` with aligned rows, and makes m name the copy.
int bf16_copy_aligned(struct device *dev, bf16_matrices *m, bf16 *to);

// Where a group of a product puts its results: c = the sum, or += when accumulate.
template <typename T> struct result_rows {
    T *c;
    size_t ldc;
    int rows, cols;
    bool accumulate, pairs; // pairs: two neighbours, the first in an even column, are aligned

    __device__ __forceinline__ void put_one(T *to, float x) const
    {
        narrow(to, accumulate ? x + widen(*to) : x);
    }
    __device__ __forceinline__ void operator()(int row, int col, float x, float y) const
    {
        if (row >= rows || col >= cols)
            return;
        T *to = c + static_cast<size_t>(row) * ldc + col;
        if (pairs && col + 1 < cols) {
            put_pair(to, x, y);
            return;
        }
        put_one(to, x);
        if (col + 1 < cols)
            put_one(to + 1, y);
    }
    __device__ __forceinline__ void put_pair(float *to, float x, float y) const
    {
        float2 *pair = reinterpret_cast<float2 *>(to);
        if (accumulate) {
            const float2 old = *pair;
            x += old.x, y += old.y;
        }
        *pair = make_float2(x, y);
    }
    __device__ __forceinline__ void put_pair(bf16 *to, float x, float y) const
    {
        uint32_t *pair = reinterpret_cast<uint32_t *>(to);
        if (accumulate) {
            const uint32_t old = *pair;
            x += __uint_as_float(old << 16), y += __uint_as_float(old & 0xffff0000u);
        }
        *pair = bf16_pair(x, y);
    }
};

template <typename T> bool aligned_pairs(const void *c, size_t ldc, size_t stride)
{
    return reinterpret_cast<uintptr_t>(c) % (2 * sizeof(T)) == 0 && ldc % 2 == 0 && stride % 2 == 0;
}

#endif
