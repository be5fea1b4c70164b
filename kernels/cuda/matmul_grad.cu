// SPDX-License-Identifier: Apache-2.0
// Gradients of weights: the splits, and the choice of the kernels by type and device.
#include "kernels/cuda/matmul_grad.cuh"
#include <cassert>

int grad_job_init(grad_job *job, struct device *dev, const struct matmul_grad_args *a, int tiles)
{
    const int least_tokens = 256; // of a split
    const int wanted = div_up(dev->cuda->num_sms, tiles * a->batch);
    const int most = div_up(a->m, least_tokens);
    const int splits = wanted < most ? wanted : most > 0 ? most : 1;
    const int granularity = 64; // keeps the chunks of the sums whole
    job->args = *a;
    job->partial = nullptr;
    job->splits = splits;
    job->tokens = round_up(div_up(a->m, splits), granularity);
    if (splits == 1)
        return 0;
    const size_t one = static_cast<size_t>(a->n) * static_cast<size_t>(a->k);
    return scratch(dev, SCRATCH_INNER, &job->partial, one * a->batch * splits);
}

constexpr int ADD_THREADS = 256;

__global__ void __launch_bounds__(ADD_THREADS) add_splits(grad_job job)
{
    const matmul_grad_args &a = job.args;
    const size_t one = static_cast<size_t>(a.n) * static_cast<size_t>(a.k);
    const size_t all = one * a.batch, step = static_cast<size_t>(gridDim.x) * ADD_THREADS;
    for (size_t i = static_cast<size_t>(blockIdx.x) * ADD_THREADS + threadIdx.x; i < all;
         i += step) {
        float *dw = a.dw + i / one * a.stride_dw + i % one;
        float sum = *dw;
        for (int s = 0; s < job.splits; s++)
            sum += job.partial[s * all + i];
        *dw = sum;
    }
}

int grad_add_splits(struct device *dev, const grad_job *job)
{
    if (job->splits == 1)
        return 0;
    const size_t all = static_cast<size_t>(job->args.n) * job->args.k * job->args.batch;
    const unsigned int blocks = blocks_for(all, ADD_THREADS);
    const unsigned int most = static_cast<unsigned int>(dev->cuda->num_sms) * 8;
    return launch(dev, dim3(blocks < most ? blocks : most), dim3(ADD_THREADS), 0, add_splits, *job);
}

extern "C" int cuda_matmul_grad(struct device *dev, const struct matmul_grad_args *a)
{
    assert(a->m >= 0 && a->n >= 0 && a->k >= 0 && a->batch >= 0);
    if (a->n == 0 || a->k == 0 || a->batch == 0)
        return 0;
    return matmul_grad_f32(dev, a);
}
