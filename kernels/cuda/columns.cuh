// SPDX-License-Identifier: Apache-2.0
// Sums of columns, in a fixed order: the last step of gradients whose blocks of tokens were summed
// apart.
#ifndef KERNELS_CUDA_COLUMNS_CUH
#define KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/cuda.cuh"

constexpr int COLUMNS = 32, COLUMN_LANES = 8;

// out[c] += the sum of a column of partial [rows,C]: each lane every eighth row, then the lanes in
// order.
static __global__ void __launch_bounds__(COLUMNS *COLUMN_LANES)
    column_sum_kernel(const float *partial, int rows, int C, float *out)
{
    __shared__ float sums[COLUMN_LANES][COLUMNS];
    const int c = static_cast<int>(blockIdx.x * COLUMNS + threadIdx.x);
    float sum = 0.0f;
#pragma unroll 4
    for (int r = static_cast<int>(threadIdx.y); c < C && r < rows; r += COLUMN_LANES)
        sum += partial[static_cast<size_t>(r) * C + c];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C)
        return;
    for (int lane = 1; lane < COLUMN_LANES; lane++)
        sum += sums[lane][threadIdx.x];
    out[c] += sum;
}

static inline int column_sum(struct device *dev, const float *partial, int rows, int C, float *out)
{
    return launch(dev, blocks_for(static_cast<size_t>(C), COLUMNS), dim3(COLUMNS, COLUMN_LANES), 0,
                  column_sum_kernel, partial, rows, C, out);
}

#endif
