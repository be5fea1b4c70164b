// SPDX-License-Identifier: Apache-2.0
// The fast operations of one instruction set (their names end in it), and the pieces that several
// of them share.
#ifndef KERNELS_CPU_FAST_H
#define KERNELS_CPU_FAST_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fast_gemm_bf16.h"
#include "kernels/cpu/vec.h"

size_t FAST(matmul_packed_size)(const struct device *dev, int k, int n);
int FAST(matmul_pack)(struct device *dev, const struct pack_args *a);
int FAST(matmul)(struct device *dev, const struct matmul_args *a);
int FAST(matmul_grad)(struct device *dev, const struct matmul_grad_args *a);
int FAST(embed)(struct device *dev, const struct embed_args *a);
int FAST(embed_grad)(struct device *dev, const struct embed_grad_args *a);
int FAST(rmsnorm)(struct device *dev, const struct rmsnorm_args *a);
int FAST(rmsnorm_grad)(struct device *dev, const struct rmsnorm_grad_args *a);
int FAST(rope)(struct device *dev, const struct rope_args *a);
int FAST(swiglu)(struct device *dev, const struct swiglu_args *a);
int FAST(swiglu_grad)(struct device *dev, const struct swiglu_grad_args *a);
int FAST(add)(struct device *dev, const struct add_args *a);
int FAST(convert)(struct device *dev, const struct convert_args *a);
int FAST(attention)(struct device *dev, const struct attention_args *a);
int FAST(attention_grad)(struct device *dev, const struct attention_grad_args *a);
int FAST(kv_store)(struct device *dev, const struct kv_store_args *a);
int FAST(heads)(struct device *dev, const struct heads_args *a);
int FAST(heads_grad)(struct device *dev, const struct heads_grad_args *a);
int FAST(moe_route)(struct device *dev, const struct moe_route_args *a);
int FAST(moe_route_grad)(struct device *dev, const struct moe_route_grad_args *a);
int FAST(moe_balance)(struct device *dev, const struct moe_balance_args *a);
int FAST(moe_sort)(struct device *dev, const struct moe_sort_args *a);
int FAST(moe_gather)(struct device *dev, const struct moe_gather_args *a);
int FAST(moe_gather_grad)(struct device *dev, const struct moe_gather_grad_args *a);
int FAST(moe_combine)(struct device *dev, const struct moe_combine_args *a);
int FAST(moe_combine_grad)(struct device *dev, const struct moe_combine_grad_args *a);
int FAST(linear_logprob)(struct device *dev, const struct linear_logprob_args *a);
int FAST(linear_logprob_grad)(struct device *dev, const struct linear_logprob_grad_args *a);
int FAST(sample)(struct device *dev, const struct sample_args *a);
int FAST(sum_squares)(struct device *dev, const struct sum_squares_args *a);
int FAST(adamw)(struct device *dev, const struct adamw_args *a);

// The rows of group g of a matmul: [*begin, *end) counted over all groups.
static inline void group_rows(const int *segments, int m, int g, int *begin, int *end)
{
    *begin = segments ? segments[g] : g * m;
    *end = segments ? segments[g + 1] : (g + 1) * m;
}

// Statistics of a row z = logits / tau (MATH.md): the maximum, log S with S = sum e^(z - max), and
// the entropy log S - sum e^(z - max) (z - max) / S.
struct row_stats {
    float max, log_total, entropy;
};
struct row_stats FAST(row_stats)(const float *logits, int V, float inv_tau);

static inline float row_inv_tau(float tau) { return tau == 0.0f ? 1.0f : 1.0f / tau; }
static inline float row_logprob(const struct row_stats *s, float logit, float inv_tau)
{
    return logit * inv_tau - s->max - s->log_total;
}

static inline float vec_dot(const float *x, const float *y, size_t n)
{
    vec sum = vec_zero();
    size_t i = 0;
    for (; i + VEC_WIDTH <= n; i += VEC_WIDTH)
        sum = vec_fma(vec_load(x + i), vec_load(y + i), sum);
    if (i < n) {
        const vec_mask m = vec_mask_at(n, i);
        sum = vec_fma(vec_load_mask(x + i, m), vec_load_mask(y + i, m), sum);
    }
    return vec_sum(sum);
}

#endif
