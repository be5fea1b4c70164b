// SPDX-License-Identifier: Apache-2.0
// AdamW and the sum of squares of the gradient norm.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/element.cuh"
#include <cassert>
#include <cmath>

constexpr int OPTIMISER_THREADS = 256;
constexpr int SQUARES_FOURS = 16; // per thread and block: a block sums 16384 elements
constexpr size_t SQUARES_BLOCK = static_cast<size_t>(4) * SQUARES_FOURS * OPTIMISER_THREADS;

static __device__ double block_sum_double(double x)
{
    constexpr int warps = OPTIMISER_THREADS / WARP;
    __shared__ double sums[warps];
    x = warp_total(x);
    if (lane_index() == 0)
        sums[warp_index()] = x;
    __syncthreads();
    x = 0.0;
    for (int w = 0; w < warps; w++)
        x += sums[w];
    return x;
}

// partial[b]: the sum over the b-th SQUARES_BLOCK elements.
static __global__ void __launch_bounds__(OPTIMISER_THREADS)
    squares_kernel(const float *x, size_t n, double *partial)
{
    const size_t first = blockIdx.x * SQUARES_BLOCK;
    double sum = 0.0;
#pragma unroll 4
    for (int i = 0; i < SQUARES_FOURS; i++) {
        const size_t at = first + 4 * (static_cast<size_t>(i) * OPTIMISER_THREADS + threadIdx.x);
        const four v = load_four(x + at, at >= n ? 0 : n - at < 4 ? static_cast<int>(n - at) : 4);
        for (int j = 0; j < 4; j++)
            sum += static_cast<double>(v.x[j]) * static_cast<double>(v.x[j]);
    }
    sum = block_sum_double(sum);
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(OPTIMISER_THREADS)
    squares_total_kernel(const double *partial, int blocks, double *out)
{
    double sum = 0.0;
    for (int b = static_cast<int>(threadIdx.x); b < blocks; b += OPTIMISER_THREADS)
        sum += partial[b];
    sum = block_sum_double(sum);
    if (threadIdx.x == 0)
        *out = sum;
}

extern "C" int cuda_sum_squares(struct device *dev, const struct sum_squares_args *a)
{
    const unsigned int blocks = blocks_for(a->n, SQUARES_BLOCK);
    double *partial = nullptr;
    int rc = scratch(dev, SCRATCH_INNER, &partial, blocks);
    if (rc == 0)
        rc = launch(dev, blocks, OPTIMISER_THREADS, 0, squares_kernel, a->x, a->n, partial);
    if (rc == 0)
        rc = launch(dev, 1, OPTIMISER_THREADS, 0, squares_total_kernel, partial, blocks, a->out);
    return rc;
}

// What a step multiplies with, each rounded once from double.
struct adamw_factors {
    float beta1, keep1; // keep: 1 - beta
    float beta2, keep2;
    float decay;    // 1 - lr weight_decay
    float rate;     // lr / (1 - beta1^step)
    float correct2; // 1 / (1 - beta2^step)
    float eps, grad_scale;
};

static adamw_factors adamw_factors_of(const struct adamw_args *a)
{
    const double beta1 = a->beta1, beta2 = a->beta2, lr = a->lr;
    adamw_factors f = {};
    f.beta1 = a->beta1;
    f.keep1 = static_cast<float>(1.0 - beta1);
    f.beta2 = a->beta2;
    f.keep2 = static_cast<float>(1.0 - beta2);
    f.decay = static_cast<float>(1.0 - lr * a->weight_decay);
    f.rate = static_cast<float>(lr / (1.0 - pow(beta1, a->step)));
    f.correct2 = static_cast<float>(1.0 / (1.0 - pow(beta2, a->step)));
    f.eps = a->eps;
    f.grad_scale = a->grad_scale;
    return f;
}

static __global__ void __launch_bounds__(OPTIMISER_THREADS)
    adamw_kernel(float *p, float *m, float *v, const float *g, size_t n, adamw_factors f)
{
    const size_t at = 4 * (static_cast<size_t>(blockIdx.x) * OPTIMISER_THREADS + threadIdx.x);
    if (at >= n)
        return;
    const int here = n - at < 4 ? static_cast<int>(n - at) : 4;
    const four grad = load_four(g + at, here);
    four first = load_four(m + at, here), second = load_four(v + at, here);
    four weight = load_four(p + at, here);
    for (int i = 0; i < 4; i++) {
        const float x = grad.x[i] * f.grad_scale;
        first.x[i] = f.beta1 * first.x[i] + f.keep1 * x;
        second.x[i] = f.beta2 * second.x[i] + f.keep2 * x * x;
        const float step = first.x[i] / (sqrtf(second.x[i] * f.correct2) + f.eps);
        weight.x[i] = weight.x[i] * f.decay - f.rate * step;
    }
    store_four(p + at, here, weight);
    store_four(m + at, here, first);
    store_four(v + at, here, second);
}

extern "C" int cuda_adamw(struct device *dev, const struct adamw_args *a)
{
    assert(a->step >= 1);
    return launch(dev, blocks_for(a->n, 4 * OPTIMISER_THREADS), OPTIMISER_THREADS, 0, adamw_kernel,
                  a->p, a->m, a->v, a->g, a->n, adamw_factors_of(a));
}
