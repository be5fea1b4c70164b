// SPDX-License-Identifier: Apache-2.0
// Latent attention in the absorbed form (arXiv:2405.04434, section 2.1): s[t,u] = scale q[t] .
// kv[u], p = softmax over u <= t, out[t] = sum_u p kv[u][0,R). One key row serves all heads.
#include "base/mem.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Inner product of n elements of x from xi on and of y from yi on.
static double dot(enum dtype type, const void *x, size_t xi, const void *y, size_t yi, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)element_read(x, type, xi + i) * (double)element_read(y, type, yi + i);
    return sum;
}

// One query of one head against keys 0 .. keys-1; p [keys] is scratch.
static void attend(const struct attention_args *a, const struct attention_seq *seq, size_t row,
                   size_t keys, double *p)
{
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr, B = ATTENTION_BLOCK;
    const void *const *blocks = a->kv_blocks + seq->block;
    double max = -HUGE_VAL, total = 0.0;
    for (size_t u = 0; u < keys; u++) {
        p[u] = (double)a->scale * dot(a->type, a->q, row * D, blocks[u / B], u % B * D, D);
        max = fmax(max, p[u]);
    }
    for (size_t u = 0; u < keys; u++) {
        p[u] = exp(p[u] - max);
        total += p[u];
    }
    for (size_t r = 0; r < R; r++) {
        double sum = 0.0;
        for (size_t u = 0; u < keys; u++)
            sum += p[u] * (double)element_read(blocks[u / B], a->type, u % B * D + r);
        element_write(a->out, a->type, row * R + r, (float)(sum / total));
    }
    if (a->lse)
        a->lse[row] = (float)(max + log(total));
}

int ref_attention(struct device *dev, const struct attention_args *a)
{
    (void)dev;
    const size_t H = (size_t)a->H;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos >= 0 && seq->len >= 0);
        double *p = mem_array0((size_t)seq->pos + (size_t)seq->len, sizeof(*p));
        for (size_t i = 0; i < (size_t)seq->len; i++)
            for (size_t h = 0; h < H; h++)
                attend(a, seq, ((size_t)seq->query + i) * H + h, (size_t)seq->pos + i + 1, p);
        free(p);
    }
    return 0;
}

// The share of one query row [t,h] in dq and dkv (double, [len, R+Dr] of the sequence):
// ds = p (dout . kv[u] - dout . out), dq = scale sum_u ds kv[u], dkv[u] += scale ds q + p dout.
static void attend_grad(const struct attention_grad_args *a, size_t first, size_t row, size_t keys,
                        double *dkv)
{
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr, q = row * D, o = row * R;
    const double delta = dot(a->type, a->dout, o, a->out, o, R), scale = (double)a->scale;
    double *dq = mem_array0(D, sizeof(*dq));
    for (size_t u = 0; u < keys; u++) {
        const size_t kv = (first + u) * D;
        const double s = dot(a->type, a->q, q, a->kv, kv, D);
        const double p = exp(scale * s - (double)a->lse[row]);
        const double ds = p * (dot(a->type, a->dout, o, a->kv, kv, R) - delta) * scale;
        for (size_t d = 0; d < D; d++) {
            dq[d] += ds * (double)element_read(a->kv, a->type, kv + d);
            dkv[u * D + d] += ds * (double)element_read(a->q, a->type, q + d);
        }
        for (size_t r = 0; r < R; r++)
            dkv[u * D + r] += p * (double)element_read(a->dout, a->type, o + r);
    }
    for (size_t d = 0; d < D; d++)
        element_write(a->dq, a->dq_type, row * D + d, (float)dq[d]);
    free(dq);
}

int ref_attention_grad(struct device *dev, const struct attention_grad_args *a)
{
    (void)dev;
    const size_t H = (size_t)a->H, D = (size_t)a->R + (size_t)a->Dr;
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        const size_t first = (size_t)seq->query, len = (size_t)seq->len;
        assert(seq->pos == 0 && seq->query >= 0 && first + len <= (size_t)a->T);
        double *dkv = mem_array0(len * D, sizeof(*dkv));
        for (size_t i = 0; i < len; i++)
            for (size_t h = 0; h < H; h++)
                attend_grad(a, first, (first + i) * H + h, i + 1, dkv);
        for (size_t i = 0; i < len * D; i++)
            element_write(a->dkv, a->dkv_type, first * D + i, (float)dkv[i]);
        free(dkv);
    }
    return 0;
}
