// SPDX-License-Identifier: Apache-2.0
// AdamW and the sum of squares, over blocks of the parameters.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <math.h>

#define SUM_BLOCK 4096

struct sum_job {
    const struct sum_squares_args *a;
    double *sums; // [blocks]
    size_t blocks;
};

// Sixteen partial sums in double, whatever the width of a vector.
static double block_squares(const float *x, size_t n)
{
    double sum[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            sum[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t j = 0; i + j < n; j++)
        sum[j] += (double)x[i + j] * (double)x[i + j];
    double total = 0.0;
    for (size_t j = 0; j < 16; j++)
        total += sum[j];
    return total;
}

static void sum_share(void *arg, int rank, int size)
{
    const struct sum_job *job = arg;
    const size_t begin = job->blocks * (size_t)rank / (size_t)size;
    const size_t end = job->blocks * ((size_t)rank + 1) / (size_t)size;
    for (size_t b = begin; b < end; b++) {
        const size_t rest = job->a->n - b * SUM_BLOCK;
        job->sums[b] =
            block_squares(job->a->x + b * SUM_BLOCK, rest < SUM_BLOCK ? rest : SUM_BLOCK);
    }
}

int FAST(sum_squares)(struct device *dev, const struct sum_squares_args *a)
{
    const size_t blocks = (a->n + SUM_BLOCK - 1) / SUM_BLOCK;
    struct sum_job job = {a, (double *)(void *)cpu_scratch(dev, CPU_SHARED, 2 * blocks), blocks};
    cpu_run(dev, 2.0 * (double)a->n, sum_share, &job);
    double total = 0.0;
    for (size_t b = 0; b < blocks; b++)
        total += job.sums[b];
    *a->out = total;
    return 0;
}

struct adamw_job {
    const struct adamw_args *a;
    float keep, rate, inv_root; // 1 - lr wd, lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
};

static void adamw_share(void *arg, int rank, int size)
{
    const struct adamw_job *job = arg;
    const struct adamw_args *a = job->a;
    const vec beta1 = vec_set1(a->beta1), rest1 = vec_set1(1.0f - a->beta1);
    const vec beta2 = vec_set1(a->beta2), rest2 = vec_set1(1.0f - a->beta2);
    const vec keep = vec_set1(job->keep), rate = vec_set1(job->rate), eps = vec_set1(a->eps);
    const vec inv_root = vec_set1(job->inv_root), scale = vec_set1(a->grad_scale);
    const size_t vectors = (a->n + VEC_WIDTH - 1) / VEC_WIDTH;
    const size_t begin = vectors * (size_t)rank / (size_t)size * VEC_WIDTH;
    const size_t end = vectors * ((size_t)rank + 1) / (size_t)size * VEC_WIDTH;
    for (size_t i = begin; i < end; i += VEC_WIDTH) {
        const vec_mask mask = vec_mask_at(a->n, i);
        const vec g = vec_mul(vec_load_mask(a->g + i, mask), scale);
        const vec m = vec_fma(beta1, vec_load_mask(a->m + i, mask), vec_mul(rest1, g));
        const vec v = vec_fma(beta2, vec_load_mask(a->v + i, mask), vec_mul(rest2, vec_mul(g, g)));
        const vec p = vec_mul(vec_load_mask(a->p + i, mask), keep);
        const vec denominator = vec_add(vec_mul(vec_sqrt(v), inv_root), eps);
        vec_store_mask(a->p + i, vec_sub(p, vec_div(vec_mul(rate, m), denominator)), mask);
        vec_store_mask(a->m + i, m, mask);
        vec_store_mask(a->v + i, v, mask);
    }
}

int FAST(adamw)(struct device *dev, const struct adamw_args *a)
{
    assert(a->step >= 1);
    const double correct1 = 1.0 - pow((double)a->beta1, a->step);
    const double correct2 = 1.0 - pow((double)a->beta2, a->step);
    struct adamw_job job = {a, (float)(1.0 - (double)a->lr * (double)a->weight_decay),
                            (float)((double)a->lr / correct1), (float)(1.0 / sqrt(correct2))};
    cpu_run(dev, 20.0 * (double)a->n, adamw_share, &job);
    return 0;
}
