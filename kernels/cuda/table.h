// SPDX-License-Identifier: Apache-2.0
// The CUDA variants of the operations of kernels/kernels.h. Array pointers in the argument structs
// are device pointers; the structs themselves are the host's. A slot puts its kernels on the
// device's stream and returns: a failure that shows later is reported by the next sync, upload or
// download.
#ifndef KERNELS_CUDA_TABLE_H
#define KERNELS_CUDA_TABLE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct kernels kernels_cuda;

size_t cuda_matmul_packed_size(const struct device *dev, int k, int n);
int cuda_matmul_pack(struct device *dev, const struct pack_args *a);
int cuda_matmul(struct device *dev, const struct matmul_args *a);
int cuda_matmul_grad(struct device *dev, const struct matmul_grad_args *a);
int cuda_embed(struct device *dev, const struct embed_args *a);
int cuda_embed_grad(struct device *dev, const struct embed_grad_args *a);
int cuda_rmsnorm(struct device *dev, const struct rmsnorm_args *a);
int cuda_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a);
int cuda_rope(struct device *dev, const struct rope_args *a);
int cuda_swiglu(struct device *dev, const struct swiglu_args *a);
int cuda_swiglu_grad(struct device *dev, const struct swiglu_grad_args *a);
int cuda_add(struct device *dev, const struct add_args *a);
int cuda_convert(struct device *dev, const struct convert_args *a);
int cuda_attention(struct device *dev, const struct attention_args *a);
int cuda_attention_grad(struct device *dev, const struct attention_grad_args *a);
int cuda_kv_store(struct device *dev, const struct kv_store_args *a);
int cuda_heads(struct device *dev, const struct heads_args *a);
int cuda_heads_grad(struct device *dev, const struct heads_grad_args *a);
int cuda_moe_route(struct device *dev, const struct moe_route_args *a);
int cuda_moe_route_grad(struct device *dev, const struct moe_route_grad_args *a);
int cuda_moe_balance(struct device *dev, const struct moe_balance_args *a);
int cuda_moe_sort(struct device *dev, const struct moe_sort_args *a);
int cuda_moe_gather(struct device *dev, const struct moe_gather_args *a);
int cuda_moe_gather_grad(struct device *dev, const struct moe_gather_grad_args *a);
int cuda_moe_combine(struct device *dev, const struct moe_combine_args *a);
int cuda_moe_combine_grad(struct device *dev, const struct moe_combine_grad_args *a);
int cuda_linear_logprob(struct device *dev, const struct linear_logprob_args *a);
int cuda_linear_logprob_grad(struct device *dev, const struct linear_logprob_grad_args *a);
int cuda_sample(struct device *dev, const struct sample_args *a);
int cuda_sum_squares(struct device *dev, const struct sum_squares_args *a);
int cuda_adamw(struct device *dev, const struct adamw_args *a);

#ifdef __cplusplus
}
#endif

#endif
