// SPDX-License-Identifier: Apache-2.0
// Gradients of weights: the splits, and the choice of the kernels by type and device.
#include "kernels/cuda/matmul_bf16.cuh"
#include "kernels/cuda/matmul_grad.cuh"
#include <cassert>

static int choose_splits(const struct device *dev, const struct matmul_grad_args *a, int tiles)
{
    const int least_tokens = 256; // of a split
    const int wanted = div_up(dev->cuda->num_sms, tiles * a->batch);
    const int most = div_up(a->m, least_tokens);
    return wanted < most ? wanted : most > 0 ? most : 1;
}

static bf16_matrices operand(const struct matmul_grad_args *a, const void *p, size_t ld,
                             size_t stride, int cols)
{
    bf16_matrices m = {static_cast<const bf16 *>(p), ld, stride, a->m, cols, a->batch};
    if (a->segments) {
        m.stride = 0;
        m.batch = 1;
    }
    return m;
}

int grad_job_init(grad_job *job, struct device *dev, const struct matmul_grad_args *a, int tiles)
{
    const int granularity = 64; // keeps the chunks of the sums whole
    job->args = *a;
    job->partial = nullptr;
    job->splits = choose_splits(dev, a, tiles);
    job->tokens = round_up(div_up(a->m, job->splits), granularity);
    const size_t one = static_cast<size_t>(a->n) * static_cast<size_t>(a->k);
    size_t size_partial = job->splits > 1 ? one * a->batch * job->splits : 0, size_dy = 0;
    size_t size_x = 0;
    bf16_matrices dy = operand(a, a->dy, a->lddy, a->stride_dy, a->n);
    bf16_matrices x = operand(a, a->x, a->ldx, a->stride_x, a->k);
    if (a->dy_type == DTYPE_BF16 && !(bf16_aligned(&dy) && bf16_aligned(&x))) {
        size_dy = bf16_copy_size(&dy);
        size_x = bf16_copy_size(&x);
    }
    if (size_partial + size_dy + size_x == 0)
        return 0;
    const size_t align = 64; // floats, of what stands behind the sums
    size_partial = (size_partial + align - 1) / align * align;
    int rc = scratch(dev, SCRATCH_INNER, &job->partial, size_partial + (size_dy + size_x + 1) / 2);
    if (rc != 0 || size_dy + size_x == 0)
        return rc;
    bf16 *copies = reinterpret_cast<bf16 *>(job->partial + size_partial);
    rc = bf16_copy_aligned(dev, &dy, copies);
    if (rc == 0)
        rc = bf16_copy_aligned(dev, &x, copies + size_dy);
    job->args.dy = dy.p, job->args.lddy = dy.ld, job->args.stride_dy = dy.stride;
    job->args.x = x.p, job->args.ldx = x.ld, job->args.stride_x = x.stride;
    return rc;
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
        float sum = a.overwrite ? 0.0f : *dw;
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
    assert(a->dy_type == a->x_type);
    if (a->n == 0 || a->k == 0 || a->batch == 0)
        return 0;
    if (a->dy_type == DTYPE_F32)
        return matmul_grad_f32(dev, a);
    const int hopper = 90; // wgmma is its alone
    if (dev->cuda->arch == hopper && a->m > 0)
        return matmul_grad_wgmma(dev, a);
    return matmul_grad_mma(dev, a);
}
