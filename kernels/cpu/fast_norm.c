// SPDX-License-Identifier: Apache-2.0
// RMSNorm with the residual addition before it, and its backward. dw is summed over blocks of
// tokens, then over blocks, both ascending.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <math.h>
#include <string.h>

#define TOKEN_BLOCK 256

static void norm_row(const struct rmsnorm_args *a, size_t t)
{
    const size_t C = (size_t)a->C;
    const float *x = a->x + t * a->ldx;
    if (a->add) {
        float *sum = a->sum + t * C;
        for (size_t c = 0; c < C; c++)
            sum[c] = x[c] + a->add[t * C + c];
        x = sum;
    }
    const float rstd = 1.0f / sqrtf(vec_dot(x, x, C) / (float)a->C + a->eps);
    float *y = a->y_type == DTYPE_F32 ? (float *)a->y + t * a->ldy : NULL;
    for (size_t c = 0; y && c < C; c++)
        y[c] = a->w[c] * (x[c] * rstd);
    for (size_t c = 0; !y && c < C; c += VEC_WIDTH) {
        const int n = vec_lanes_at(C, c);
        const vec normed = vec_mul(vec_load_n(x + c, n), vec_set1(rstd));
        vec_store_as(a->y, a->y_type, t * a->ldy + c, vec_mul(vec_load_n(a->w + c, n), normed), n);
    }
    if (a->rstd)
        a->rstd[t] = rstd;
}

static void rmsnorm_share(void *arg, int rank, int size)
{
    const struct rmsnorm_args *a = arg;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        norm_row(a, (size_t)t);
}

int FAST(rmsnorm)(struct device *dev, const struct rmsnorm_args *a)
{
    assert(!a->add == !a->sum);
    struct rmsnorm_args job = *a;
    cpu_run(dev, 5.0 * a->T * a->C, rmsnorm_share, &job);
    return 0;
}

struct norm_grad_job {
    const struct rmsnorm_grad_args *a;
    float *dw; // [blocks,C]
};

// With n = x rstd:  dw += dy n,  dx = rstd (w dy - n mean(w dy n)).
static void norm_grad_row(const struct rmsnorm_grad_args *a, size_t t, float *dw)
{
    const size_t C = (size_t)a->C;
    const float *x = a->x + t * a->ldx, *dy = a->dy + t * a->lddy;
    float *dx = a->dx + t * a->lddx;
    const vec rstd = vec_set1(a->rstd[t]);
    vec sum = vec_zero();
    for (size_t c = 0; c < C; c += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(C, c);
        const vec dyn = vec_mul(vec_load_mask(dy + c, m), vec_mul(vec_load_mask(x + c, m), rstd));
        vec_store_mask(dw + c, vec_add(vec_load_mask(dw + c, m), dyn), m);
        sum = vec_fma(vec_load_mask(a->w + c, m), dyn, sum);
    }
    const vec mean = vec_set1(vec_sum(sum) / (float)a->C);
    for (size_t c = 0; c < C; c += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(C, c);
        const vec wdy = vec_mul(vec_load_mask(a->w + c, m), vec_load_mask(dy + c, m));
        const vec n = vec_mul(vec_load_mask(x + c, m), rstd);
        vec out = vec_mul(rstd, vec_sub(wdy, vec_mul(n, mean)));
        if (a->accumulate)
            out = vec_add(vec_load_mask(dx + c, m), out);
        vec_store_mask(dx + c, out, m);
    }
}

static void rmsnorm_grad_share(void *arg, int rank, int size)
{
    const struct norm_grad_job *job = arg;
    const struct rmsnorm_grad_args *a = job->a;
    int begin, end;
    team_share((a->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK, 1, rank, size, &begin, &end);
    for (int b = begin; b < end; b++) {
        float *dw = job->dw + (size_t)b * (size_t)a->C;
        memset(dw, 0, (size_t)a->C * sizeof(float));
        for (int t = b * TOKEN_BLOCK; t < a->T && t < (b + 1) * TOKEN_BLOCK; t++)
            norm_grad_row(a, (size_t)t, dw);
    }
}

int FAST(rmsnorm_grad)(struct device *dev, const struct rmsnorm_grad_args *a)
{
    const size_t C = (size_t)a->C, blocks = ((size_t)a->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    struct norm_grad_job job = {a, cpu_scratch(dev, CPU_SHARED, blocks * C)};
    cpu_run(dev, 10.0 * a->T * a->C, rmsnorm_grad_share, &job);
    for (size_t b = 0; b < blocks; b++)
        for (size_t c = 0; c < C; c++)
            a->dw[c] += job.dw[b * C + c];
    return 0;
}
