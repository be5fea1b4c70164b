// SPDX-License-Identifier: Apache-2.0
// What the weight gradients of all types share. Where the outputs have too few tiles to fill the
// GPU, the tokens of a group are cut into splits, whose sums go to scratch memory and are added to
// dW afterwards, ascending. Where a split begins depends on the shapes of the call alone.
#ifndef KERNELS_CUDA_MATMUL_GRAD_CUH
#define KERNELS_CUDA_MATMUL_GRAD_CUH

#include "kernels/cuda/matmul.cuh"

struct grad_job {
    matmul_grad_args args;
    float *partial;     // [splits,batch,n,k] where there is more than one split
    int splits, tokens; // of a split; the last one has all the rest
};

// Do the kernels add to what they find? Else they put: into dW, or into the splits' sums.
__host__ __device__ inline bool grad_adds(const grad_job &job)
{
    return job.splits == 1 && !job.args.overwrite;
}

// Rows of dY and X of one split of group g.
__device__ __forceinline__ row_range split_tokens(const grad_job &job, int g, int split)
{
    const row_range range = group_rows(job.args.segments, job.args.m, g);
    int begin = range.begin + split * job.tokens, end = begin + job.tokens;
    begin = begin < range.end ? begin : range.end;
    end = end < range.end && split + 1 < job.splits ? end : range.end;
    return {begin, end};
}

// Where the sums of group g go.
__device__ __forceinline__ float *split_output(const grad_job &job, int g, int split)
{
    const matmul_grad_args &a = job.args;
    if (job.splits == 1)
        return a.dw + g * a.stride_dw;
    const size_t one = static_cast<size_t>(a.n) * static_cast<size_t>(a.k);
    return job.partial + (static_cast<size_t>(split) * a.batch + g) * one;
}

// tiles: of one group. Chooses the splits and finds memory for them; bfloat16 operands whose rows
// are not aligned to 16 bytes are copied, and the job names the copies.
int grad_job_init(grad_job *job, struct device *dev, const struct matmul_grad_args *a, int tiles);
// dW += (or =) the splits' sums, ascending; nothing to do for one split.
int grad_add_splits(struct device *dev, const grad_job *job);

// The kernels by type; sizes are not 0, but for m.
int matmul_grad_f32(struct device *dev, const struct matmul_grad_args *a);
int matmul_grad_mma(struct device *dev, const struct matmul_grad_args *a);
int matmul_grad_wgmma(struct device *dev,
                      const struct matmul_grad_args *a); // on Hopper; m is not 0

#endif
