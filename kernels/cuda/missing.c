// SPDX-License-Identifier: Apache-2.0
// Stands in for the operations whose kernels are not written yet.
#include "base/error.h"
#include "kernels/cuda/table.h"

#define MISSING(name, args)                                                                        \
    __attribute__((weak)) int cuda_##name(struct device *dev, const struct args *a)                \
    {                                                                                              \
        (void)dev, (void)a;                                                                        \
        return err_set(ERR_ENV, "the GPU has no kernel for \"%s\" yet", #name);                    \
    }

__attribute__((weak)) size_t cuda_matmul_packed_size(const struct device *dev, int k, int n)
{
    (void)dev;
    return (size_t)k * (size_t)n;
}
MISSING(matmul_pack, pack_args)
MISSING(matmul, matmul_args)
MISSING(matmul_grad, matmul_grad_args)
MISSING(embed, embed_args)
MISSING(embed_grad, embed_grad_args)
MISSING(rmsnorm, rmsnorm_args)
MISSING(rmsnorm_grad, rmsnorm_grad_args)
MISSING(rope, rope_args)
MISSING(swiglu, swiglu_args)
MISSING(swiglu_grad, swiglu_grad_args)
MISSING(add, add_args)
MISSING(attention, attention_args)
MISSING(attention_grad, attention_grad_args)
MISSING(moe_route, moe_route_args)
MISSING(moe_route_grad, moe_route_grad_args)
MISSING(moe_sort, moe_sort_args)
MISSING(moe_gather, moe_gather_args)
MISSING(moe_gather_grad, moe_gather_grad_args)
MISSING(moe_combine, moe_combine_args)
MISSING(moe_combine_grad, moe_combine_grad_args)
MISSING(linear_logprob, linear_logprob_args)
MISSING(linear_logprob_grad, linear_logprob_grad_args)
MISSING(sample, sample_args)
MISSING(sum_squares, sum_squares_args)
MISSING(adamw, adamw_args)
