// SPDX-License-Identifier: Apache-2.0
// Latent attention in the absorbed form (arXiv:2405.04434, section 2.1): s[t,u] = scale q[t] .
// kv[u], p = softmax over u <= t, out[t] = sum_u p kv[u][0,R). One key row serves all heads.
#include "base/mem.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

// One query of one head against keys 0 .. keys-1; p [keys] is scratch.
static void attend(const struct attention_args *a, const struct attention_seq *seq, size_t row,
                   size_t keys, double *p)
{
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr;
    const float *const *blocks = a->kv_blocks + seq->block;
    double max = -HUGE_VAL, total = 0.0;
    for (size_t u = 0; u < keys; u++) {
        const float *kv = blocks[u / ATTENTION_BLOCK] + u % ATTENTION_BLOCK * D;
        p[u] = (double)a->scale * dot(a->q + row * D, kv, D);
        max = fmax(max, p[u]);
    }
    for (size_t u = 0; u < keys; u++) {
        p[u] = exp(p[u] - max);
        total += p[u];
    }
    for (size_t r = 0; r < R; r++) {
        double sum = 0.0;
        for (size_t u = 0; u < keys; u++)
            sum += p[u] * (double)blocks[u / ATTENTION_BLOCK][u % ATTENTION_BLOCK * D + r];
        a->out[row * R + r] = (float)(sum / total);
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
    const size_t R = (size_t)a->R, D = R + (size_t)a->Dr;
    const float *q = a->q + row * D, *dout = a->dout + row * R;
    const double delta = dot(dout, a->out + row * R, R), scale = (double)a->scale;
    double *dq = mem_array0(D, sizeof(*dq));
    for (size_t u = 0; u < keys; u++) {
        const float *kv = a->kv + (first + u) * D;
        const double p = exp(scale * dot(q, kv, D) - (double)a->lse[row]);
        const double ds = p * (dot(dout, kv, R) - delta) * scale;
        for (size_t d = 0; d < D; d++) {
            dq[d] += ds * (double)kv[d];
            dkv[u * D + d] += ds * (double)q[d];
        }
        for (size_t r = 0; r < R; r++)
            dkv[u * D + r] += p * (double)dout[r];
    }
    for (size_t d = 0; d < D; d++)
        a->dq[row * D + d] = (float)dq[d];
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
            a->dkv[first * D + i] = (float)dkv[i];
        free(dkv);
    }
    return 0;
}
