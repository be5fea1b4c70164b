// SPDX-License-Identifier: Apache-2.0
// Matrix products. The packed form of the reference is the dense [k,n] matrix itself.
#include "kernels/cpu/reference.h"
#include <assert.h>

size_t ref_matmul_packed_size(const struct device *dev, int k, int n)
{
    (void)dev;
    return (size_t)k * (size_t)n;
}

int ref_matmul_pack(struct device *dev, const struct pack_args *a)
{
    (void)dev;
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    assert(a->n >= 0 && a->k >= 0 && a->count >= 0);
    assert(a->ldb >= (a->transposed ? k : n));
    for (size_t g = 0; g < (size_t)a->count; g++) {
        const float *b = a->b + g * a->stride_b;
        float *out = a->out + g * k * n;
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < n; j++)
                out[i * n + j] = a->transposed ? b[j * a->ldb + i] : b[i * a->ldb + j];
    }
    return 0;
}

int ref_matmul(struct device *dev, const struct matmul_args *a)
{
    (void)dev;
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    for (size_t g = 0; g < (size_t)a->batch; g++) {
        const size_t begin = a->segments ? (size_t)a->segments[g] : 0;
        const size_t end = a->segments ? (size_t)a->segments[g + 1] : (size_t)a->m;
        const float *base_a = a->a + (a->segments ? 0 : g * a->stride_a);
        float *base_c = a->c + (a->segments ? 0 : g * a->stride_c);
        const float *b = a->b + g * k * n;
        assert(begin <= end);
        for (size_t i = begin; i < end; i++)
            for (size_t j = 0; j < n; j++) {
                float *c = base_c + i * a->ldc + j;
                double sum = a->accumulate ? (double)*c : 0.0;
                for (size_t l = 0; l < k; l++)
                    sum += (double)base_a[i * a->lda + l] * (double)b[l * n + j];
                *c = (float)sum;
            }
    }
    return 0;
}

int ref_matmul_grad(struct device *dev, const struct matmul_grad_args *a)
{
    (void)dev;
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0);
    for (size_t g = 0; g < (size_t)a->batch; g++) {
        const size_t begin = a->segments ? (size_t)a->segments[g] : 0;
        const size_t end = a->segments ? (size_t)a->segments[g + 1] : (size_t)a->m;
        const float *dy = a->dy + (a->segments ? 0 : g * a->stride_dy);
        const float *x = a->x + (a->segments ? 0 : g * a->stride_x);
        float *dw = a->dw + g * a->stride_dw;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < k; j++) {
                double sum = (double)dw[i * k + j];
                for (size_t t = begin; t < end; t++)
                    sum += (double)dy[t * a->lddy + i] * (double)x[t * a->ldx + j];
                dw[i * k + j] = (float)sum;
            }
    }
    return 0;
}
