// SPDX-License-Identifier: Apache-2.0
// Heads of grouped-query attention: norm and rotation of queries and keys. Gradients of the norms'
// weights are summed over blocks of tokens, then over blocks, both ascending.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <string.h>

#define TOKEN_BLOCK 64

static float head_rstd(const float *x, int D, float eps)
{
    return 1.0f / sqrtf(vec_dot(x, x, (size_t)D) / (float)D + eps);
}

static void turn_head(const struct heads_args *a, const float *x, const float *norm, size_t t,
                      void *y, size_t at)
{
    const size_t half = (size_t)a->D / 2, row = (size_t)a->position[t] * half;
    const vec rstd = vec_set1(norm ? head_rstd(x, a->D, a->eps) : 1.0f);
    for (size_t i = 0; i < half; i += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(half, i);
        const int n = vec_lanes_at(half, i);
        const vec c = vec_load_mask(a->cos + row + i, m), s = vec_load_mask(a->sin + row + i, m);
        vec u = vec_load_mask(x + i, m), v = vec_load_mask(x + half + i, m);
        if (norm) {
            u = vec_mul(vec_load_mask(norm + i, m), vec_mul(u, rstd));
            v = vec_mul(vec_load_mask(norm + half + i, m), vec_mul(v, rstd));
        }
        vec_store_as(y, a->type, at + i, vec_sub(vec_mul(u, c), vec_mul(v, s)), n);
        vec_store_as(y, a->type, at + half + i, vec_add(vec_mul(u, s), vec_mul(v, c)), n);
    }
}

static void heads_share(void *arg, int rank, int size)
{
    const struct heads_args *a = arg;
    const size_t D = (size_t)a->D, H = (size_t)a->H, Hkv = (size_t)a->Hkv;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t t = (size_t)begin; t < (size_t)end; t++) {
        const float *x = a->x + t * (H + 2 * Hkv) * D;
        for (size_t h = 0; h < H; h++)
            turn_head(a, x + h * D, a->q_norm, t, a->q, (t * H + h) * D);
        for (size_t g = 0; g < Hkv; g++) {
            const size_t at = (t * Hkv + g) * 2 * D;
            turn_head(a, x + (H + g) * D, a->k_norm, t, a->kv, at);
            copy_as(a->kv, a->type, at + D, x, DTYPE_F32, (H + Hkv + g) * D, D);
        }
    }
}

int FAST(heads)(struct device *dev, const struct heads_args *a)
{
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm);
    struct heads_args job = *a;
    cpu_run(dev, 6.0 * a->T * (a->H + 2 * a->Hkv) * a->D, heads_share, &job);
    return 0;
}

// A head on its way back: dx of the element `to` and those after it, from those of dy.
struct head_grad {
    const float *x, *norm; // norm NULL: the rotation alone
    const void *dy;
    enum dtype dy_type;
    size_t from, to;
    float *dw; // [D]
};

// Pairs i and after of the gradient before the rotation.
static inline void turn_back(const struct heads_grad_args *a, const struct head_grad *h, size_t row,
                             size_t i, vec *gu, vec *gv)
{
    const size_t half = (size_t)a->D / 2;
    const vec_mask m = vec_mask_at(half, i);
    const int n = vec_lanes_at(half, i);
    const vec c = vec_load_mask(a->cos + row + i, m), s = vec_load_mask(a->sin + row + i, m);
    const vec du = vec_load_as(h->dy, h->dy_type, h->from + i, n);
    const vec dv = vec_load_as(h->dy, h->dy_type, h->from + half + i, n);
    *gu = vec_add(vec_mul(du, c), vec_mul(dv, s));
    *gv = vec_sub(vec_mul(dv, c), vec_mul(du, s));
}

// dw += g n of the elements from i on; returns w g n.
static inline vec add_norm_grad(const struct head_grad *h, size_t i, vec_mask m, vec g, vec rstd)
{
    const vec gn = vec_mul(g, vec_mul(vec_load_mask(h->x + i, m), rstd));
    vec_store_mask(h->dw + i, vec_add(vec_load_mask(h->dw + i, m), gn), m);
    return vec_mul(vec_load_mask(h->norm + i, m), gn);
}

// rstd (w g - n mean(w g n)) of the elements from i on.
static inline vec norm_back(const struct head_grad *h, size_t i, vec_mask m, vec g, vec rstd,
                            vec mean)
{
    const vec n = vec_mul(vec_load_mask(h->x + i, m), rstd);
    return vec_mul(rstd, vec_sub(vec_mul(vec_load_mask(h->norm + i, m), g), vec_mul(n, mean)));
}

static void turn_head_back(const struct heads_grad_args *a, const struct head_grad *h, size_t t)
{
    const size_t half = (size_t)a->D / 2, row = (size_t)a->position[t] * half;
    const vec rstd = vec_set1(h->norm ? head_rstd(h->x, a->D, a->eps) : 1.0f);
    vec gu, gv, sum = vec_zero();
    for (size_t i = 0; h->norm && i < half; i += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(half, i);
        turn_back(a, h, row, i, &gu, &gv);
        sum = vec_add(sum, add_norm_grad(h, i, m, gu, rstd));
        sum = vec_add(sum, add_norm_grad(h, half + i, m, gv, rstd));
    }
    const vec mean = vec_set1(vec_sum(sum) / (float)a->D);
    for (size_t i = 0; i < half; i += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(half, i);
        const int n = vec_lanes_at(half, i);
        turn_back(a, h, row, i, &gu, &gv);
        if (h->norm) {
            gu = norm_back(h, i, m, gu, rstd, mean);
            gv = norm_back(h, half + i, m, gv, rstd, mean);
        }
        vec_store_as(a->dx, a->type, h->to + i, gu, n);
        vec_store_as(a->dx, a->type, h->to + half + i, gv, n);
    }
}

struct heads_grad_job {
    const struct heads_grad_args *a;
    float *dw; // [blocks,2,D] of queries' and keys' norms
};

static void token_back(const struct heads_grad_args *a, size_t t, float *dw)
{
    const size_t D = (size_t)a->D, H = (size_t)a->H, Hkv = (size_t)a->Hkv;
    const size_t row = t * (H + 2 * Hkv) * D;
    const float *x = a->q_norm ? a->x + row : NULL;
    for (size_t h = 0; h < H; h++)
        turn_head_back(a,
                       &(struct head_grad){.x = x ? x + h * D : NULL,
                                           .norm = a->q_norm,
                                           .dy = a->dq,
                                           .dy_type = a->type,
                                           .from = (t * H + h) * D,
                                           .to = row + h * D,
                                           .dw = dw},
                       t);
    for (size_t g = 0; g < Hkv; g++) {
        const size_t from = (t * Hkv + g) * 2 * D, to = row + (H + g) * D;
        turn_head_back(a,
                       &(struct head_grad){.x = x ? x + (H + g) * D : NULL,
                                           .norm = a->k_norm,
                                           .dy = a->dkv,
                                           .from = from,
                                           .to = to,
                                           .dw = dw + D},
                       t);
        copy_as(a->dx, a->type, to + Hkv * D, a->dkv, DTYPE_F32, from + D, D);
    }
}

static void heads_grad_share(void *arg, int rank, int size)
{
    const struct heads_grad_job *job = arg;
    const struct heads_grad_args *a = job->a;
    int begin, end;
    team_share((a->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK, 1, rank, size, &begin, &end);
    for (int b = begin; b < end; b++) {
        float *dw = job->dw + (size_t)b * 2 * (size_t)a->D;
        memset(dw, 0, 2 * (size_t)a->D * sizeof(float));
        for (int t = b * TOKEN_BLOCK; t < a->T && t < (b + 1) * TOKEN_BLOCK; t++)
            token_back(a, (size_t)t, dw);
    }
}

int FAST(heads_grad)(struct device *dev, const struct heads_grad_args *a)
{
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm && (!a->q_norm || a->x));
    const size_t D = (size_t)a->D, blocks = ((size_t)a->T + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    struct heads_grad_job job = {a, cpu_scratch(dev, CPU_SHARED, blocks * 2 * D)};
    cpu_run(dev, 12.0 * a->T * (a->H + 2 * a->Hkv) * a->D, heads_grad_share, &job);
    for (size_t b = 0; a->q_norm && b < blocks; b++)
        for (size_t i = 0; i < D; i++) {
            a->dq_norm[i] += job.dw[b * 2 * D + i];
            a->dk_norm[i] += job.dw[b * 2 * D + D + i];
        }
    return 0;
}
