// SPDX-License-Identifier: Apache-2.0
// Heads of grouped-query attention: norm and rotation of queries and keys.
#include "base/mem.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

static double head_rstd(const float *x, size_t D, float eps)
{
    double squares = 0.0;
    for (size_t i = 0; i < D; i++)
        squares += (double)x[i] * (double)x[i];
    return 1.0 / sqrt(squares / (double)D + (double)eps);
}

// y from element `at` on = RoPE(N(x)) at a position; norm NULL: without N.
static void turn_head(const struct heads_args *a, const float *x, const float *norm, size_t t,
                      void *y, size_t at)
{
    const size_t D = (size_t)a->D, half = D / 2, row = (size_t)a->position[t] * half;
    const double rstd = norm ? head_rstd(x, D, a->eps) : 1.0;
    for (size_t i = 0; i < half; i++) {
        const double c = (double)a->cos[row + i], s = (double)a->sin[row + i];
        const double wu = norm ? (double)norm[i] : 1.0, wv = norm ? (double)norm[i + half] : 1.0;
        const double u = wu * (double)x[i] * rstd, v = wv * (double)x[i + half] * rstd;
        element_write(y, a->type, at + i, (float)(u * c - v * s));
        element_write(y, a->type, at + i + half, (float)(u * s + v * c));
    }
}

int ref_heads(struct device *dev, const struct heads_args *a)
{
    (void)dev;
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm);
    const size_t D = (size_t)a->D, H = (size_t)a->H, Hkv = (size_t)a->Hkv;
    for (size_t t = 0; t < (size_t)a->T; t++) {
        const float *x = a->x + t * (H + 2 * Hkv) * D;
        for (size_t h = 0; h < H; h++)
            turn_head(a, x + h * D, a->q_norm, t, a->q, (t * H + h) * D);
        for (size_t g = 0; g < Hkv; g++) {
            const size_t at = (t * Hkv + g) * 2 * D;
            turn_head(a, x + (H + g) * D, a->k_norm, t, a->kv, at);
            for (size_t i = 0; i < D; i++)
                element_write(a->kv, a->type, at + D + i, x[(H + Hkv + g) * D + i]);
        }
    }
    return 0;
}

// A head on its way back: dx of the element `to` and those after it, from those of dy.
struct head_grad {
    const float *x, *norm; // norm NULL: the rotation alone
    const void *dy;
    enum dtype dy_type;
    size_t from, to;
    double *dw; // [D]
};

// Element i < D of the gradient before the rotation.
static double turned_back(const struct heads_grad_args *a, const struct head_grad *h, size_t t,
                          size_t i)
{
    const size_t half = (size_t)a->D / 2, pair = i % half;
    const double c = (double)a->cos[(size_t)a->position[t] * half + pair];
    const double s = (double)a->sin[(size_t)a->position[t] * half + pair];
    const double du = (double)element_read(h->dy, h->dy_type, h->from + pair);
    const double dv = (double)element_read(h->dy, h->dy_type, h->from + pair + half);
    return i < half ? du * c + dv * s : dv * c - du * s;
}

// With g the gradient before the rotation and n = x rstd: dx = rstd (w g - n mean(w g n)),
// dw += g n.
static void turn_head_back(const struct heads_grad_args *a, const struct head_grad *h, size_t t)
{
    const size_t D = (size_t)a->D;
    const double rstd = h->norm ? head_rstd(h->x, D, a->eps) : 1.0;
    double mean = 0.0;
    for (size_t i = 0; h->norm && i < D; i++) {
        const double gn = turned_back(a, h, t, i) * (double)h->x[i] * rstd;
        mean += (double)h->norm[i] * gn / (double)D;
        h->dw[i] += gn;
    }
    for (size_t i = 0; i < D; i++) {
        const double g = turned_back(a, h, t, i);
        const double dx =
            h->norm ? rstd * ((double)h->norm[i] * g - (double)h->x[i] * rstd * mean) : g;
        element_write(a->dx, a->type, h->to + i, (float)dx);
    }
}

int ref_heads_grad(struct device *dev, const struct heads_grad_args *a)
{
    (void)dev;
    assert(a->D % 2 == 0 && !a->q_norm == !a->k_norm && (!a->q_norm || a->x));
    const size_t D = (size_t)a->D, H = (size_t)a->H, Hkv = (size_t)a->Hkv;
    double *dw = mem_array0(2 * D, sizeof(*dw));
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t h = 0; h < H + 2 * Hkv; h++) {
            const size_t to = (t * (H + 2 * Hkv) + h) * D, g = h < H ? 0 : (h - H) % Hkv;
            struct head_grad head = {.x = a->x ? a->x + to : NULL, .to = to};
            if (h < H) {
                head.norm = a->q_norm;
                head.dy = a->dq;
                head.dy_type = a->type;
                head.from = (t * H + h) * D;
                head.dw = dw;
            } else {
                head.norm = a->k_norm;
                head.dy = a->dkv;
                head.from = (t * Hkv + g) * 2 * D;
                head.dw = dw + D;
            }
            if (h < H + Hkv)
                turn_head_back(a, &head, t);
            for (size_t i = 0; h >= H + Hkv && i < D; i++)
                element_write(a->dx, a->type, to + i, a->dkv[head.from + D + i]);
        }
    for (size_t i = 0; a->q_norm && i < D; i++) {
        a->dq_norm[i] = (float)((double)a->dq_norm[i] + dw[i]);
        a->dk_norm[i] = (float)((double)a->dk_norm[i] + dw[D + i]);
    }
    free(dw);
    return 0;
}
