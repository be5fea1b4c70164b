// SPDX-License-Identifier: Apache-2.0
// AdamW (arXiv:1711.05101, algorithm 2 with a constant schedule multiplier) and the sum of squares
// of the gradient norm.
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>

int ref_sum_squares(struct device *dev, const struct sum_squares_args *a)
{
    (void)dev;
    double sum = 0.0;
    for (size_t i = 0; i < a->n; i++)
        sum += (double)a->x[i] * (double)a->x[i];
    *a->out = sum;
    return 0;
}

int ref_adamw(struct device *dev, const struct adamw_args *a)
{
    (void)dev;
    assert(a->step >= 1);
    const double beta1 = (double)a->beta1, beta2 = (double)a->beta2, lr = (double)a->lr;
    const double correct1 = 1.0 - pow(beta1, a->step), correct2 = 1.0 - pow(beta2, a->step);
    for (size_t i = 0; i < a->n; i++) {
        const double g = (double)a->g[i] * (double)a->grad_scale;
        const double m = beta1 * (double)a->m[i] + (1.0 - beta1) * g;
        const double v = beta2 * (double)a->v[i] + (1.0 - beta2) * g * g;
        const double p = (double)a->p[i] * (1.0 - lr * (double)a->weight_decay);
        a->p[i] = (float)(p - lr * (m / correct1) / (sqrt(v / correct2) + (double)a->eps));
        a->m[i] = (float)m;
        a->v[i] = (float)v;
    }
    return 0;
}
