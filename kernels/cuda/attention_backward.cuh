// SPDX-License-Identifier: Apache-2.0
// What the backward passes of attention share, whatever the element type: delta = dout . out of
// every row, which both of their kernels need.
#ifndef KERNELS_CUDA_ATTENTION_BACKWARD_CUH
#define KERNELS_CUDA_ATTENTION_BACKWARD_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"

namespace attention
{

// The pass on bfloat16 (attention_grad_bf16.cu).
int attend_grad_bfloat16(struct device *dev, const struct attention_grad_args *a);

struct grad_plan {
    attention_grad_args a;
    float *delta; // [T,H]
};

__device__ __forceinline__ tile_rows queries_of_tile(const attention_grad_seq &seq, int tile,
                                                     int size, int H)
{
    return rows_of_tile(attention_seq{seq.query, seq.len, seq.pos, 0}, tile, size, H);
}

constexpr int DELTA_THREADS = 256;

// A warp a row.
template <typename T>
__global__ void __launch_bounds__(DELTA_THREADS) row_deltas(const grad_plan plan)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP, R = plan.a.shape.Dv;
    const size_t row = static_cast<size_t>(blockIdx.x) * (DELTA_THREADS / WARP) +
                       static_cast<size_t>(threadIdx.x) / WARP;
    if (row >= static_cast<size_t>(plan.a.T) * static_cast<size_t>(plan.a.shape.H))
        return;
    const T *const out = static_cast<const T *>(plan.a.out) + row * static_cast<size_t>(R);
    const T *const dout = static_cast<const T *>(plan.a.dout) + row * static_cast<size_t>(R);
    float sum = 0.0f;
    for (int c = 4 * lane; c < R; c += 4 * WARP) {
        const four x = load_four(out + c, R - c), dx = load_four(dout + c, R - c);
        for (int j = 0; j < 4; j++)
            sum = fmaf(x.x[j], dx.x[j], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0)
        plan.delta[row] = sum;
}

// Puts the deltas on the stream. more: floats of scratch memory after them, at *rest, 16-byte
// aligned.
template <typename T>
int plan_backward(struct device *dev, const struct attention_grad_args *a, struct grad_plan *plan,
                  size_t more = 0, float **rest = nullptr)
{
    const size_t rows = static_cast<size_t>(a->T) * static_cast<size_t>(a->shape.H);
    const size_t deltas = (rows + 3) / 4 * 4;
    *plan = {*a, nullptr};
    const int rc = scratch(dev, SCRATCH_OUTER, &plan->delta, deltas + more);
    if (rest)
        *rest = plan->delta + deltas;
    return rc ? rc
              : launch(dev, dim3(blocks_for(rows, DELTA_THREADS / WARP)), dim3(DELTA_THREADS), 0,
                       row_deltas<T>, *plan);
}

} // namespace attention

#endif
