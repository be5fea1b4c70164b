// SPDX-License-Identifier: Apache-2.0
// Mixture of experts: routing (arXiv:2405.04434, 2.2; arXiv:2412.19437, eq. 12-16), and the
// permutation of tokens to experts.
#include "base/mem.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void route_scores(const float *logits, float *scores, int E, enum moe_scoring scoring)
{
    double max = -HUGE_VAL, total = 0.0;
    for (int e = 0; e < E; e++)
        max = fmax(max, (double)logits[e]);
    for (int e = 0; e < E; e++)
        total += exp((double)logits[e] - max);
    for (int e = 0; e < E; e++)
        scores[e] = (float)(scoring == MOE_SOFTMAX ? exp((double)logits[e] - max) / total
                                                   : 1.0 / (1.0 + exp(-(double)logits[e])));
}

// Sets chosen[] of the `count` largest of x[n] among those not `barred`; ties go to the lower
// index, and NaN is never larger.
static void choose_largest(const float *x, int n, const bool *barred, int count, bool *chosen)
{
    memset(chosen, 0, (size_t)n * sizeof(*chosen));
    for (int k = 0; k < count; k++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!chosen[i] && !(barred && barred[i]) && (best < 0 || x[i] > x[best]))
                best = i;
        assert(best >= 0);
        chosen[best] = true;
    }
}

static float group_rank(const float *x, int n, enum moe_group_rank rank)
{
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return rank == MOE_GROUP_MAX || n == 1 ? first : first + second;
}

// Sets barred[] of the experts outside the topk_group best groups.
static void bar_groups(const struct moe_route_args *a, const float *x, bool *barred, float *rank,
                       bool *kept)
{
    const int size = a->E / a->n_group;
    for (int g = 0; g < a->n_group; g++)
        rank[g] = group_rank(x + g * size, size, a->group_rank);
    choose_largest(rank, a->n_group, NULL, a->topk_group, kept);
    for (int e = 0; e < a->E; e++)
        barred[e] = !kept[e / size];
}

int ref_moe_route(struct device *dev, const struct moe_route_args *a)
{
    (void)dev;
    const int E = a->E, K = a->K;
    assert(a->n_group >= 1 && E % a->n_group == 0 && a->topk_group <= a->n_group);
    assert(K <= E / a->n_group * (a->n_group > 1 ? a->topk_group : 1));
    float *x = mem_array0((size_t)E * 2, sizeof(*x));
    bool *flags = mem_array0((size_t)E * 3, sizeof(*flags));
    bool *barred = flags, *chosen = flags + E, *kept = flags + 2 * E;
    for (int t = 0; t < a->T; t++) {
        float *scores = a->scores + (size_t)t * (size_t)E;
        float *weights = a->weights + (size_t)t * (size_t)K;
        int *experts = a->experts + (size_t)t * (size_t)K, k = 0;
        route_scores(a->logits + (size_t)t * (size_t)E, scores, E, a->scoring);
        for (int e = 0; e < E; e++)
            x[e] = scores[e] + (a->bias ? a->bias[e] : 0.0f);
        if (a->n_group > 1)
            bar_groups(a, x, barred, x + E, kept);
        choose_largest(x, E, barred, K, chosen);
        double total = 1e-20;
        for (int e = 0; e < E; e++)
            if (chosen[e]) {
                experts[k++] = e;
                total += (double)scores[e];
            }
        for (k = 0; k < K; k++)
            weights[k] = (float)((double)scores[experts[k]] / (a->normalise ? total : 1.0) *
                                 (double)a->scale);
    }
    free(flags);
    free(x);
    return 0;
}

// With S the sum over the chosen: d a_j = scale / S (dw_j - sum_i dw_i a_i / S) when normalised,
// else scale dw_j; none through the selection.
int ref_moe_route_grad(struct device *dev, const struct moe_route_grad_args *a)
{
    (void)dev;
    const size_t E = (size_t)a->E, K = (size_t)a->K;
    double *da = mem_array0(E, sizeof(*da));
    for (size_t t = 0; t < (size_t)a->T; t++) {
        const float *score = a->scores + t * E, *dweight = a->dweights + t * K;
        const int *experts = a->experts + t * K;
        double total = 1e-20, mixed = 0.0, mean = 0.0;
        memset(da, 0, E * sizeof(*da));
        for (size_t k = 0; k < K; k++) {
            total += (double)score[experts[k]];
            mixed += (double)dweight[k] * (double)score[experts[k]];
        }
        for (size_t k = 0; k < K; k++)
            da[experts[k]] =
                (double)a->scale *
                (a->normalise ? ((double)dweight[k] - mixed / total) / total : (double)dweight[k]);
        for (size_t e = 0; e < E; e++)
            mean += da[e] * (double)score[e];
        for (size_t e = 0; e < E; e++) {
            const double s = (double)score[e];
            a->dlogits[t * E + e] =
                (float)(a->scoring == MOE_SOFTMAX ? s * (da[e] - mean) : da[e] * s * (1.0 - s));
        }
    }
    free(da);
    return 0;
}

// With d_t = sum_i g_i a_ti, da_ti = g_i goes through softmax as a_ti (g_i - d_t), and through
// sigmoid and the division by the sum of scores as s_ti (1 - s_ti) (g_i - d_t) / sum. Returns d_t.
static double balance_row(const struct moe_balance_args *a, const double *g, size_t t, bool spread)
{
    const size_t E = (size_t)a->E;
    const float *score = a->scores + t * E;
    const bool softmax = a->scoring == MOE_SOFTMAX;
    double total = 1e-20, d = 0.0;
    for (size_t e = 0; e < E; e++)
        total += (double)score[e];
    if (softmax)
        total = 1.0;
    for (size_t e = 0; e < E; e++)
        d += g[e] * (double)score[e] / total;
    for (size_t e = 0; e < E && spread; e++) {
        const double s = (double)score[e];
        a->dlogits[t * E + e] += (float)((g[e] - d) * s / total * (softmax ? 1.0 : 1.0 - s));
    }
    return d;
}

// The loss of the sequence that is `own` after `prefix`, by way of f [E]; the gradient of its own
// tokens, and what its prefix's are to be given, added to g [E].
static double balance_sequence(const struct moe_balance_args *a,
                               const struct attention_grad_seq *prefix,
                               const struct attention_grad_seq *own, double *f, double *g)
{
    const struct attention_grad_seq *parts[2] = {prefix, own};
    const double n = (double)prefix->len + (double)own->len;
    double loss = 0.0;
    if (n == 0.0)
        return (double)MOE_NO_SEQUENCE;
    memset(f, 0, (size_t)a->E * sizeof(*f));
    for (int i = 0; i < 2; i++)
        for (int p = parts[i]->query * a->K; p < (parts[i]->query + parts[i]->len) * a->K; p++)
            f[a->experts[p]] += (double)a->E / ((double)a->K * n);
    for (int i = 0; i < 2; i++)
        for (int t = parts[i]->query; t < parts[i]->query + parts[i]->len; t++)
            loss += balance_row(a, f, (size_t)t, false) / n;
    for (int e = 0; e < a->E; e++) {
        f[e] *= (double)a->weight / n;
        g[e] += f[e];
    }
    for (int t = own->query; t < own->query + own->len; t++)
        balance_row(a, f, (size_t)t, true);
    return loss;
}

int ref_moe_balance(struct device *dev, const struct moe_balance_args *a)
{
    (void)dev;
    const struct attention_grad_seq nothing = {0};
    double *f = mem_array0(2 * (size_t)a->E, sizeof(*f)), *g = f + a->E;
    for (int s = 0, end; s < a->num_seqs; s = end) {
        const struct attention_grad_seq *q = &a->seqs[s];
        memset(g, 0, (size_t)a->E * sizeof(*g));
        for (end = s + 1; end < a->num_seqs && a->seqs[end].prefix == s; end++)
            a->loss[end] = (float)balance_sequence(a, q, &a->seqs[end], f, g);
        a->loss[s] = end > s + 1 ? MOE_NO_SEQUENCE : (float)balance_sequence(a, q, &nothing, f, g);
        for (int t = q->query; t < q->query + q->len; t++)
            balance_row(a, g, (size_t)t, true);
    }
    free(f);
    return 0;
}

int ref_moe_sort(struct device *dev, const struct moe_sort_args *a)
{
    (void)dev;
    const int pairs = a->T * a->K;
    memset(a->segments, 0, ((size_t)a->E + 1) * sizeof(int));
    int slot = 0;
    for (int e = 0; e < a->E; e++) {
        for (int p = 0; p < pairs; p++)
            if (a->experts[p] == e) {
                a->slot[p] = slot;
                a->pair[slot++] = p;
            }
        a->segments[e + 1] = slot;
    }
    assert(slot == pairs);
    return 0;
}

int ref_moe_gather(struct device *dev, const struct moe_gather_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    for (size_t s = 0; s < (size_t)a->T * K; s++)
        for (size_t c = 0; c < C; c++)
            element_write(a->xs, a->xs_type, s * C + c,
                          element_read(a->x, a->x_type, (size_t)a->pair[s] / K * C + c));
    return 0;
}

int ref_moe_gather_grad(struct device *dev, const struct moe_gather_grad_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t c = 0; c < C; c++)
            for (size_t k = 0; k < K; k++)
                a->dx[t * C + c] += a->dxs[(size_t)a->slot[t * K + k] * C + c];
    return 0;
}

int ref_moe_combine(struct device *dev, const struct moe_combine_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    for (size_t t = 0; t < (size_t)a->T; t++)
        for (size_t c = 0; c < C; c++) {
            double sum = (double)a->y[t * C + c];
            for (size_t k = 0; k < K; k++) {
                const size_t slot = (size_t)a->slot[t * K + k];
                sum += (double)a->weights[t * K + k] *
                       (double)element_read(a->ys, a->ys_type, slot * C + c);
            }
            a->y[t * C + c] = (float)sum;
        }
    return 0;
}

int ref_moe_combine_grad(struct device *dev, const struct moe_combine_grad_args *a)
{
    (void)dev;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    for (size_t p = 0; p < (size_t)a->T * K; p++) {
        const size_t row = (size_t)a->slot[p] * C;
        const float *dy = a->dy + p / K * C;
        double sum = 0.0;
        for (size_t c = 0; c < C; c++) {
            sum += (double)element_read(a->ys, a->ys_type, row + c) * (double)dy[c];
            element_write(a->dys, a->dys_type, row + c, a->weights[p] * dy[c]);
        }
        a->dweights[p] = (float)sum;
    }
    return 0;
}
