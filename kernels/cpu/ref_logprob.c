// SPDX-License-Identifier: Apache-2.0
// The last product with log-probability and entropy, its backward, and sampling. A row of logits
// passes through row_stats in all three.
#include "base/mem.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct row_stats {
    double tau, max, log_total, entropy; // of z = logits / tau
};

// entropy = log S - sum e^(z-m) (z-m) / S, S = sum e^(z-m)
static struct row_stats row_stats(const float *logits, size_t V, float tau)
{
    struct row_stats s = {.tau = tau == 0.0f ? 1.0 : (double)tau, .max = -HUGE_VAL};
    double total = 0.0, weighted = 0.0;
    for (size_t v = 0; v < V; v++)
        s.max = fmax(s.max, (double)logits[v] / s.tau);
    for (size_t v = 0; v < V; v++) {
        const double z = (double)logits[v] / s.tau - s.max;
        total += exp(z);
        weighted += isinf(z) ? 0.0 : exp(z) * z;
    }
    s.log_total = log(total);
    s.entropy = s.log_total - weighted / total;
    return s;
}

static double row_logprob(const struct row_stats *s, float logit)
{
    return (double)logit / s->tau - s->max - s->log_total;
}

// Of row t.
static void row_logits(const void *hidden, const void *w, enum dtype type, size_t t, size_t C,
                       size_t V, float *logits)
{
    for (size_t v = 0; v < V; v++) {
        double sum = 0.0;
        for (size_t c = 0; c < C; c++)
            sum += (double)element_read(hidden, type, t * C + c) *
                   (double)element_read(w, type, c * V + v);
        logits[v] = (float)sum;
    }
}

int ref_linear_logprob(struct device *dev, const struct linear_logprob_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, V = (size_t)a->V;
    float *logits = mem_array0(V, sizeof(*logits));
    for (size_t t = 0; t < (size_t)a->T; t++) {
        assert(a->token[t] >= 0 && a->token[t] < a->V);
        row_logits(a->hidden, a->w, a->type, t, C, V, logits);
        const struct row_stats s = row_stats(logits, V, a->tau[t]);
        a->logprob[t] = (float)row_logprob(&s, logits[a->token[t]]);
        if (a->entropy)
            a->entropy[t] = (float)s.entropy;
    }
    free(logits);
    return 0;
}

// d(logit)_v = (g_logp (1[v = token] - p_v) - g_ent p_v (l_v + entropy)) / tau
int ref_linear_logprob_grad(struct device *dev, const struct linear_logprob_grad_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, V = (size_t)a->V;
    float *logits = mem_array0(V, sizeof(*logits));
    double *dlogits = mem_array0(V, sizeof(*dlogits)), *dw = mem_array0(V * C, sizeof(*dw));
    for (size_t t = 0; t < (size_t)a->T; t++) {
        assert(a->token[t] >= 0 && a->token[t] < a->V);
        row_logits(a->hidden, a->w, a->type, t, C, V, logits);
        const struct row_stats s = row_stats(logits, V, a->tau[t]);
        const double dlogprob = (double)a->dlogprob[t];
        const double dentropy = a->dentropy ? (double)a->dentropy[t] : 0.0;
        for (size_t v = 0; v < V; v++) {
            const double l = row_logprob(&s, logits[v]), p = exp(l);
            const double hit = (int)v == a->token[t] ? 1.0 : 0.0;
            dlogits[v] = (dlogprob * (hit - p) - dentropy * p * (l + s.entropy)) / s.tau;
        }
        for (size_t c = 0; c < C; c++) {
            double sum = 0.0;
            for (size_t v = 0; v < V; v++) {
                sum += dlogits[v] * (double)element_read(a->w_t, a->type, v * C + c);
                dw[v * C + c] += dlogits[v] * (double)element_read(a->hidden, a->type, t * C + c);
            }
            a->dhidden[t * C + c] = (float)sum;
        }
    }
    for (size_t i = 0; i < V * C; i++)
        a->dw[i] = (float)((double)a->dw[i] + dw[i]);
    free(dw);
    free(dlogits);
    free(logits);
    return 0;
}

struct candidate {
    double p;
    int token;
    bool kept;
};

static int by_probability(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static int by_token(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

// Keeps a prefix of the candidates in order of probability: top_k; of those, the fewest whose share
// reaches top_p; of those, the ones with at least min_p times the largest probability. Returns its
// length.
static int truncate_candidates(const struct candidate *c, int n, const struct sample_row *row)
{
    int kept = row->top_k > 0 && row->top_k < n ? row->top_k : n;
    if (row->top_p < 1.0f) {
        double total = 0.0, share = 0.0;
        for (int i = 0; i < kept; i++)
            total += c[i].p;
        for (int i = 0; i < kept; i++) {
            share += c[i].p;
            if (share >= (double)row->top_p * total) {
                kept = i + 1;
                break;
            }
        }
    }
    while (kept > 1 && c[kept - 1].p < (double)row->min_p * c[0].p)
        kept--;
    return kept;
}

// The token where the cumulated probability of the kept, by ascending index, passes u.
static int draw(const float *logits, int V, const struct sample_row *row, struct candidate *c,
                bool *truncated)
{
    double max = -HUGE_VAL, total = 0.0, sum = 0.0;
    for (int v = 0; v < V; v++)
        max = fmax(max, (double)logits[v] / (double)row->temperature);
    for (int v = 0; v < V; v++)
        c[v] = (struct candidate){exp((double)logits[v] / (double)row->temperature - max), v, true};
    qsort(c, (size_t)V, sizeof(*c), by_probability);
    const int kept = truncate_candidates(c, V, row);
    for (int i = 0; i < kept; i++)
        total += c[i].p;
    *truncated = kept < V;
    qsort(c, (size_t)kept, sizeof(*c), by_token);
    for (int i = 0; i < kept; i++) {
        sum += c[i].p;
        if (sum > row->u * total)
            return c[i].token;
    }
    return c[kept - 1].token;
}

int ref_sample(struct device *dev, const struct sample_args *a)
{
    (void)dev;
    assert(a->B == 0 || a->V > 0);
    struct candidate *c = mem_array0((size_t)a->V, sizeof(*c));
    for (int b = 0; b < a->B; b++) {
        const struct sample_row *row = &a->rows[b];
        const float *logits = a->logits + (size_t)b * (size_t)a->V;
        bool truncated = false;
        int token = 0;
        if (row->given) {
            token = row->token;
        } else if (row->temperature == 0.0f) {
            for (int v = 1; v < a->V; v++)
                if (logits[v] > logits[token])
                    token = v;
        } else {
            token = draw(logits, a->V, row, c, &truncated);
        }
        const struct row_stats s = row_stats(logits, (size_t)a->V, row->temperature);
        a->token[b] = token;
        a->logprob[b] = (float)row_logprob(&s, logits[token]);
        a->entropy[b] = (float)s.entropy;
        if (a->truncated)
            a->truncated[b] = truncated;
    }
    free(c);
    return 0;
}
