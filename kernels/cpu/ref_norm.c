// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv:1910.07467, eq. 4), with the residual addition before it.
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>

int ref_rmsnorm(struct device *dev, const struct rmsnorm_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C;
    assert(!a->add == !a->sum);
    for (size_t t = 0; t < (size_t)a->T; t++) {
        const float *x = a->x + t * a->ldx;
        if (a->add) {
            float *sum = a->sum + t * C;
            for (size_t c = 0; c < C; c++)
                sum[c] = x[c] + a->add[t * C + c];
            x = sum;
        }
        double squares = 0.0;
        for (size_t c = 0; c < C; c++)
            squares += (double)x[c] * (double)x[c];
        const double rstd = 1.0 / sqrt(squares / (double)C + (double)a->eps);
        for (size_t c = 0; c < C; c++)
            element_write(a->y, a->y_type, t * a->ldy + c,
                          (float)((double)a->w[c] * (double)x[c] * rstd));
        if (a->rstd)
            a->rstd[t] = (float)rstd;
    }
    return 0;
}

// With n = x rstd:  dx = rstd (w dy - n mean(w dy n)),  dw = sum_t dy n.
int ref_rmsnorm_grad(struct device *dev, const struct rmsnorm_grad_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, T = (size_t)a->T;
    for (size_t c = 0; c < C; c++) {
        double sum = (double)a->dw[c];
        for (size_t t = 0; t < T; t++)
            sum +=
                (double)a->dy[t * a->lddy + c] * (double)a->x[t * a->ldx + c] * (double)a->rstd[t];
        a->dw[c] = (float)sum;
    }
    for (size_t t = 0; t < T; t++) {
        const float *x = a->x + t * a->ldx, *dy = a->dy + t * a->lddy;
        float *dx = a->dx + t * a->lddx;
        const double rstd = (double)a->rstd[t];
        double mean = 0.0;
        for (size_t c = 0; c < C; c++)
            mean += (double)a->w[c] * (double)dy[c] * (double)x[c] * rstd;
        mean /= (double)C;
        for (size_t c = 0; c < C; c++) {
            const double wdy = (double)a->w[c] * (double)dy[c], n = (double)x[c] * rstd;
            const double old = a->accumulate ? (double)dx[c] : 0.0;
            dx[c] = (float)(old + rstd * (wdy - n * mean));
        }
    }
    return 0;
}
