// SPDX-License-Identifier: Apache-2.0
// Attention: s[t,u] = scale q[t] . k[u], p = softmax over u <= t, out[t] = sum_u p v[u], where k
// and v are of the part of a row that serves the head (kernels.h).
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

static void check_shape(const struct attention_shape *s)
{
    assert(s->H >= 0 && s->kv_heads > 0 && s->H % s->kv_heads == 0);
    assert(s->value_at == s->Dk || (s->value_at == 0 && s->Dv <= s->Dk));
    (void)s;
}

// Where the part that serves a head begins in a row.
static size_t part_of(const struct attention_shape *s, size_t head)
{
    return head / (size_t)(s->H / s->kv_heads) * (size_t)attention_part(s);
}

// One query of one head against keys 0 .. keys-1; p [keys] is scratch.
static void attend(const struct attention_args *a, const struct attention_seq *seq, size_t query,
                   size_t head, size_t keys, double *p)
{
    const struct attention_shape *s = &a->shape;
    const size_t Dk = (size_t)s->Dk, Dv = (size_t)s->Dv, B = ATTENTION_BLOCK;
    const size_t D = (size_t)attention_row(s), part = part_of(s, head);
    const size_t row = query * (size_t)s->H + head;
    const void *const *blocks = a->kv_blocks + seq->block;
    double max = -HUGE_VAL, total = 0.0;
    for (size_t u = 0; u < keys; u++) {
        const double score = dot(a->type, a->q, row * Dk, blocks[u / B], u % B * D + part, Dk);
        p[u] = (double)s->scale * score;
        max = fmax(max, p[u]);
    }
    for (size_t u = 0; u < keys; u++) {
        p[u] = exp(p[u] - max);
        total += p[u];
    }
    for (size_t d = 0; d < Dv; d++) {
        const size_t at = part + (size_t)s->value_at + d;
        double sum = 0.0;
        for (size_t u = 0; u < keys; u++)
            sum += p[u] * (double)element_read(blocks[u / B], a->type, u % B * D + at);
        element_write(a->out, a->type, row * Dv + d, (float)(sum / total));
    }
    if (a->lse)
        a->lse[row] = (float)(max + log(total));
}

int ref_attention(struct device *dev, const struct attention_args *a)
{
    (void)dev;
    check_shape(&a->shape);
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_seq *seq = &a->seqs[n];
        assert(seq->pos >= 0 && seq->len >= 0);
        double *p = mem_array0((size_t)seq->pos + (size_t)seq->len, sizeof(*p));
        for (size_t i = 0; i < (size_t)seq->len; i++)
            for (size_t h = 0; h < (size_t)a->shape.H; h++)
                attend(a, seq, (size_t)seq->query + i, h, (size_t)seq->pos + i + 1, p);
        free(p);
    }
    return 0;
}

// The share of one query of one head in dq and dkv (double, [N,row]), with keys at rows row[keys]:
// ds = p (dout . v[u] - dout . out), dq = scale sum_u ds k[u], dk[u] += scale ds q, dv[u] += p
// dout.
static void attend_grad(const struct attention_grad_args *a, size_t query, size_t head,
                        const size_t *row, size_t keys, double *dkv)
{
    const struct attention_shape *s = &a->shape;
    const size_t Dk = (size_t)s->Dk, Dv = (size_t)s->Dv, D = (size_t)attention_row(s);
    const size_t at = query * (size_t)s->H + head, q = at * Dk, o = at * Dv;
    const double delta = dot(a->type, a->dout, o, a->out, o, Dv), scale = (double)s->scale;
    double *dq = mem_array0(Dk, sizeof(*dq));
    for (size_t u = 0; u < keys; u++) {
        const size_t k = row[u] * D + part_of(s, head), v = k + (size_t)s->value_at;
        const double score = dot(a->type, a->q, q, a->kv, k, Dk);
        const double p = exp(scale * score - (double)a->lse[at]);
        const double ds = p * (dot(a->type, a->dout, o, a->kv, v, Dv) - delta) * scale;
        for (size_t d = 0; d < Dk; d++) {
            dq[d] += ds * (double)element_read(a->kv, a->type, k + d);
            dkv[k + d] += ds * (double)element_read(a->q, a->type, q + d);
        }
        for (size_t d = 0; d < Dv; d++)
            dkv[v + d] += p * (double)element_read(a->dout, a->type, o + d);
    }
    for (size_t d = 0; d < Dk; d++)
        element_write(a->dq, a->dq_type, q + d, (float)dq[d]);
    free(dq);
}

// Own keys of a sequence: those from the block of its first position on.
static size_t own_keys(const struct attention_grad_seq *seq)
{
    return (size_t)(seq->pos % ATTENTION_BLOCK + seq->len);
}

static void check_seq(const struct attention_grad_args *a, int n)
{
    const struct attention_grad_seq *seq = &a->seqs[n];
    assert(seq->pos >= 0 && seq->len >= 0 && seq->query >= 0 && seq->key >= 0);
    assert(seq->query + seq->len <= a->T && (size_t)seq->key + own_keys(seq) <= (size_t)a->N);
    assert(seq->pos == (seq->prefix < 0 ? 0 : a->seqs[seq->prefix].len));
    assert(seq->prefix < 0 || a->seqs[seq->prefix].prefix < 0);
    assert(seq->prefix < 0 || seq->prefix == n - 1 || a->seqs[n - 1].prefix == seq->prefix);
    (void)seq;
}

int ref_attention_grad(struct device *dev, const struct attention_grad_args *a)
{
    (void)dev;
    check_shape(&a->shape);
    const size_t D = (size_t)attention_row(&a->shape);
    double *dkv = mem_array0((size_t)a->N * D, sizeof(*dkv));
    for (int n = 0; n < a->num_seqs; n++) {
        const struct attention_grad_seq *seq = &a->seqs[n];
        check_seq(a, n);
        const size_t keys = (size_t)seq->pos + (size_t)seq->len;
        const size_t before = keys - own_keys(seq); // of the prefix
        size_t *row = mem_array0(keys, sizeof(*row));
        for (size_t u = 0; u < keys; u++)
            row[u] =
                u < before ? (size_t)a->seqs[seq->prefix].key + u : (size_t)seq->key + u - before;
        for (size_t i = 0; i < (size_t)seq->len; i++)
            for (size_t h = 0; h < (size_t)a->shape.H; h++)
                attend_grad(a, (size_t)seq->query + i, h, row, (size_t)seq->pos + i + 1, dkv);
        free(row);
    }
    for (int n = 0; n < a->num_seqs; n++) {
        const size_t first = (size_t)a->seqs[n].key * D, count = own_keys(&a->seqs[n]) * D;
        for (size_t i = first; i < first + count; i++)
            element_write(a->dkv, a->dkv_type, i, (float)dkv[i]);
    }
    free(dkv);
    return 0;
}
