// SPDX-License-Identifier: Apache-2.0
// Matrix products. The packed form of the reference is the dense [k,n] matrix itself.
#include "kernels/cpu/element.h"
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
    for (size_t g = 0; g < (size_t)a->count; g++)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < n; j++) {
                const size_t at = a->transposed ? j * a->ldb + i : i * a->ldb + j;
                const float b = element_read(a->b, a->b_type, g * a->stride_b + at);
                element_write(a->out, a->out_type, (g * k + i) * n + j, b);
            }
    return 0;
}

// B[g][l,j].
static double element_of_b(const struct matmul_args *a, size_t g, size_t l, size_t j)
{
    if (!a->plain)
        return (double)element_read(a->b, a->b_type, (g * (size_t)a->k + l) * (size_t)a->n + j);
    union {
        float wide;
        uint16_t half;
    } rounded;
    element_write(&rounded, a->b_type, 0, a->plain[g * a->stride_b + l * a->ldb + j]);
    return (double)element_read(&rounded, a->b_type, 0);
}

int ref_matmul(struct device *dev, const struct matmul_args *a)
{
    (void)dev;
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0 && a->a_type == a->b_type);
    for (size_t g = 0; g < (size_t)a->batch; g++) {
        const size_t begin = a->segments ? (size_t)a->segments[g] : 0;
        const size_t end = a->segments ? (size_t)a->segments[g + 1] : (size_t)a->m;
        const size_t first_a = a->segments ? 0 : g * a->stride_a;
        const size_t first_c = a->segments ? 0 : g * a->stride_c;
        assert(begin <= end);
        for (size_t i = begin; i < end; i++)
            for (size_t j = 0; j < n; j++) {
                const size_t c = first_c + i * a->ldc + j;
                double sum = a->accumulate ? (double)element_read(a->c, a->c_type, c) : 0.0;
                for (size_t l = 0; l < k; l++)
                    sum += (double)element_read(a->a, a->a_type, first_a + i * a->lda + l) *
                           element_of_b(a, g, l, j);
                element_write(a->c, a->c_type, c, (float)sum);
            }
    }
    return 0;
}

int ref_matmul_grad(struct device *dev, const struct matmul_grad_args *a)
{
    (void)dev;
    const size_t n = (size_t)a->n, k = (size_t)a->k;
    assert(a->n >= 0 && a->k >= 0 && a->batch >= 0 && a->dy_type == a->x_type);
    for (size_t g = 0; g < (size_t)a->batch; g++) {
        const size_t begin = a->segments ? (size_t)a->segments[g] : 0;
        const size_t end = a->segments ? (size_t)a->segments[g + 1] : (size_t)a->m;
        const size_t first_dy = a->segments ? 0 : g * a->stride_dy;
        const size_t first_x = a->segments ? 0 : g * a->stride_x;
        float *dw = a->dw + g * a->stride_dw;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < k; j++) {
                double sum = a->overwrite ? 0.0 : (double)dw[i * k + j];
                for (size_t t = begin; t < end; t++)
                    sum += (double)element_read(a->dy, a->dy_type, first_dy + t * a->lddy + i) *
                           (double)element_read(a->x, a->x_type, first_x + t * a->ldx + j);
                dw[i * k + j] = (float)sum;
            }
    }
    return 0;
}
