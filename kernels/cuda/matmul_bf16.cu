// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/matmul_bf16.cuh"

bool bf16_aligned(const bf16_matrices *m) { return aligned_rows(m->p, m->ld, m->stride); }

static size_t copy_ld(const bf16_matrices *m)
{
    return static_cast<size_t>(round_up(m->cols, 16 / static_cast<int>(sizeof(bf16))));
}

size_t bf16_copy_size(const bf16_matrices *m)
{
    return static_cast<size_t>(m->rows) * m->batch * copy_ld(m);
}

constexpr int COPY_THREADS = 128;

// Block (row, g).
__global__ void __launch_bounds__(COPY_THREADS) copy_rows(bf16_matrices m, bf16 *to, size_t ld)
{
    const size_t row = blockIdx.x, g = blockIdx.y;
    const bf16 *from = m.p + g * m.stride + row * m.ld;
    to += (g * m.rows + row) * ld;
    for (int i = static_cast<int>(threadIdx.x); i < m.cols; i += COPY_THREADS)
        to[i] = from[i];
}

int bf16_copy_aligned(struct device *dev, bf16_matrices *m, bf16 *to)
{
    const size_t ld = copy_ld(m);
    const int rc =
        launch(dev, dim3(m->rows, m->batch), dim3(COPY_THREADS), 0, copy_rows, *m, to, ld);
    m->p = to;
    m->ld = ld;
    m->stride = ld * m->rows;
    return rc;
}
