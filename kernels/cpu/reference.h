// SPDX-License-Identifier: Apache-2.0
// The plain definition of every operation of kernels/kernels.h: loops as the equations read, sums
// in double, one thread. Nothing here is tuned; the fast variants are compared with it by
// tests/kernelcheck.c.
#ifndef KERNELS_CPU_REFERENCE_H
#define KERNELS_CPU_REFERENCE_H

#include "kernels/kernels.h"

extern const struct kernels reference_kernels;

size_t ref_matmul_packed_size(const struct device *dev, int k, int n);
int ref_matmul_pack(struct device *dev, const struct pack_args *a);
int ref_matmul(struct device *dev, const struct matmul_args *a);
int ref_matmul_grad(struct device *dev, const struct matmul_grad_args *a);
int ref_embed(struct device *dev, const struct embed_args *a);
int ref_embed_grad(struct device *dev, const struct embed_grad_args *a);
int ref_rmsnorm(struct device *dev, const struct rmsnorm_args *a);
int ref_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a);
int ref_rope(struct device *dev, const struct rope_args *a);
int ref_swiglu(struct device *dev, const struct swiglu_args *a);
int ref_swiglu_grad(struct device *dev, const struct swiglu_grad_args *a);
int ref_add(struct device *dev, const struct add_args *a);
int ref_convert(struct device *dev, const struct convert_args *a);
int ref_attention(struct device *dev, const struct attention_args *a);
int ref_attention_grad(struct device *dev, const struct attention_grad_args *a);
int ref_kv_store(struct device *dev, const struct kv_store_args *a);
int ref_heads(struct device *dev, const struct heads_args *a);
int ref_heads_grad(struct device *dev, const struct heads_grad_args *a);
int ref_moe_route(struct device *dev, const struct moe_route_args *a);
int ref_moe_route_grad(struct device *dev, const struct moe_route_grad_args *a);
int ref_moe_balance(struct device *dev, const struct moe_balance_args *a);
int ref_moe_sort(struct device *dev, const struct moe_sort_args *a);
int ref_moe_gather(struct device *dev, const struct moe_gather_args *a);
int ref_moe_gather_grad(struct device *dev, const struct moe_gather_grad_args *a);
int ref_moe_combine(struct device *dev, const struct moe_combine_args *a);
int ref_moe_combine_grad(struct device *dev, const struct moe_combine_grad_args *a);
int ref_linear_logprob(struct device *dev, const struct linear_logprob_args *a);
int ref_linear_logprob_grad(struct device *dev, const struct linear_logprob_grad_args *a);
int ref_sample(struct device *dev, const struct sample_args *a);
int ref_sum_squares(struct device *dev, const struct sum_squares_args *a);
int ref_adamw(struct device *dev, const struct adamw_args *a);

#endif
