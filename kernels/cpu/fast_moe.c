// SPDX-License-Identifier: Apache-2.0
// Mixture of experts: routing and the permutation of tokens to experts, cut by tokens.
#include "kernels/cpu/fast.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void row_add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

// y[n] += scale x from its at-th element on.
static void row_add_scaled(float *y, const void *x, enum dtype type, size_t at, float scale,
                           size_t n)
{
    const vec s = vec_set1(scale);
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        const int lanes = vec_lanes_at(n, i);
        const vec sum = vec_fma(s, vec_load_as(x, type, at + i, lanes), vec_load_n(y + i, lanes));
        vec_store_n(y + i, sum, lanes);
    }
}

// ---- routing

static void softmax_row(const float *logits, float *scores, size_t E)
{
    vec largest = vec_set1(-INFINITY), total = vec_zero();
    for (size_t e = 0; e < E; e += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(E, e);
        largest =
            vec_max(vec_select(m, vec_load_mask(logits + e, m), vec_set1(-INFINITY)), largest);
    }
    const vec max = vec_set1(vec_largest(largest));
    for (size_t e = 0; e < E; e += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(E, e);
        const vec p = vec_exp(vec_sub(vec_load_mask(logits + e, m), max));
        vec_store_mask(scores + e, p, m);
        total = vec_add(total, vec_select(m, p, vec_zero()));
    }
    const vec sum = vec_set1(vec_sum(total));
    for (size_t e = 0; e < E; e += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(E, e);
        vec_store_mask(scores + e, vec_div(vec_load_mask(scores + e, m), sum), m);
    }
}

static void sigmoid_row(const float *logits, float *scores, size_t E)
{
    for (size_t e = 0; e < E; e += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(E, e);
        vec_store_mask(scores + e, vec_sigmoid(vec_load_mask(logits + e, m)), m);
    }
}

// The index of the largest of x[n] that is not taken, the lower one of equals; a NaN is never
// larger. -1 when all are taken.
static int largest_index(const float *x, const unsigned char *taken, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || x[i] > x[best]))
            best = i;
    return best;
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

// Scratch of a row: biased scores and ranks of groups, and flags for both.
struct route_row {
    float *biased, *rank;
    unsigned char *taken, *group_taken;
};

// Marks as taken the experts outside the topk_group best groups.
static void bar_groups(const struct moe_route_args *a, const struct route_row *w)
{
    const int size = a->E / a->n_group;
    for (int g = 0; g < a->n_group; g++)
        w->rank[g] = group_rank(w->biased + g * size, size, a->group_rank);
    memset(w->group_taken, 0, (size_t)a->n_group);
    memset(w->taken, 1, (size_t)a->E);
    for (int k = 0; k < a->topk_group; k++) {
        const int g = largest_index(w->rank, w->group_taken, a->n_group);
        w->group_taken[g] = 1;
        memset(w->taken + g * size, 0, (size_t)size);
    }
}

static void choose_experts(const struct moe_route_args *a, const struct route_row *w, int *experts)
{
    for (int k = 0; k < a->K; k++) {
        const int e = largest_index(w->biased, w->taken, a->E);
        int at = k;
        assert(e >= 0);
        w->taken[e] = 1;
        for (; at > 0 && experts[at - 1] > e; at--)
            experts[at] = experts[at - 1];
        experts[at] = e;
    }
}

static void route_row(const struct moe_route_args *a, const struct route_row *w, size_t t)
{
    const size_t E = (size_t)a->E, K = (size_t)a->K;
    float *scores = a->scores + t * E, *weights = a->weights + t * K;
    int *experts = a->experts + t * K;
    if (a->scoring == MOE_SOFTMAX)
        softmax_row(a->logits + t * E, scores, E);
    else
        sigmoid_row(a->logits + t * E, scores, E);
    for (size_t e = 0; e < E; e++)
        w->biased[e] = scores[e] + (a->bias ? a->bias[e] : 0.0f);
    if (a->n_group > 1)
        bar_groups(a, w);
    else
        memset(w->taken, 0, E);
    choose_experts(a, w, experts);
    float total = 1e-20f;
    for (size_t k = 0; k < K; k++)
        total += scores[experts[k]];
    for (size_t k = 0; k < K; k++)
        weights[k] = (a->normalise ? scores[experts[k]] / total : scores[experts[k]]) * a->scale;
}

struct route_job {
    struct device *dev;
    const struct moe_route_args *a;
};

static void route_share(void *arg, int rank, int size)
{
    const struct route_job *job = arg;
    const size_t E = (size_t)job->a->E;
    float *scratch = cpu_scratch(job->dev, rank, 3 * E);
    struct route_row w = {.biased = scratch, .rank = scratch + E};
    w.taken = (unsigned char *)(scratch + 2 * E);
    w.group_taken = w.taken + E;
    int begin, end;
    team_share(job->a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        route_row(job->a, &w, (size_t)t);
}

int FAST(moe_route)(struct device *dev, const struct moe_route_args *a)
{
    assert(a->n_group >= 1 && a->E % a->n_group == 0 && a->topk_group <= a->n_group);
    assert(a->K <= a->E / a->n_group * (a->n_group > 1 ? a->topk_group : 1));
    struct route_job job = {dev, a};
    cpu_run(dev, (double)a->T * a->E * (8 + 2 * a->K), route_share, &job);
    return 0;
}

// With S the sum over the chosen: d a_j = scale / S (dw_j - sum_i dw_i a_i / S) when normalised,
// else scale dw_j.
static void route_grad_row(const struct moe_route_grad_args *a, size_t t)
{
    const size_t E = (size_t)a->E, K = (size_t)a->K;
    const float *score = a->scores + t * E, *dweight = a->dweights + t * K;
    const int *experts = a->experts + t * K;
    float *da = a->dlogits + t * E;
    float total = 1e-20f, mixed = 0.0f, mean = 0.0f;
    for (size_t k = 0; k < K; k++) {
        total += score[experts[k]];
        mixed += dweight[k] * score[experts[k]];
    }
    memset(da, 0, E * sizeof(*da));
    for (size_t k = 0; k < K; k++) {
        const size_t e = (size_t)experts[k];
        da[e] = a->scale * (a->normalise ? (dweight[k] - mixed / total) / total : dweight[k]);
        mean += da[e] * score[e];
    }
    for (size_t e = 0; e < E; e++)
        da[e] = a->scoring == MOE_SOFTMAX ? score[e] * (da[e] - mean)
                                          : da[e] * score[e] * (1.0f - score[e]);
}

static void route_grad_share(void *arg, int rank, int size)
{
    const struct moe_route_grad_args *a = arg;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (int t = begin; t < end; t++)
        route_grad_row(a, (size_t)t);
}

int FAST(moe_route_grad)(struct device *dev, const struct moe_route_grad_args *a)
{
    struct moe_route_grad_args job = *a;
    cpu_run(dev, 6.0 * a->T * (a->E + 4 * a->K), route_grad_share, &job);
    return 0;
}

// ---- balance

// d = sum_i g_i a_i of token t; its gradient is that of d where it is asked for.
static float balance_row(const struct moe_balance_args *a, const float *g, size_t t, bool spread)
{
    const size_t E = (size_t)a->E;
    const float *score = a->scores + t * E;
    float *dlogit = a->dlogits + t * E;
    const bool softmax = a->scoring == MOE_SOFTMAX;
    vec sum = vec_zero();
    for (size_t e = 0; e < E && !softmax; e += VEC_WIDTH)
        sum = vec_add(sum, vec_load_mask(score + e, vec_mask_at(E, e)));
    const float total = softmax ? 1.0f : vec_sum(sum) + 1e-20f, d = vec_dot(g, score, E) / total;
    const vec one = vec_set1(1.0f), mean = vec_set1(d), w = vec_set1(1.0f / total);
    for (size_t e = 0; e < E && spread; e += VEC_WIDTH) {
        const vec_mask m = vec_mask_at(E, e);
        const vec x = vec_load_mask(score + e, m);
        const vec slope = softmax ? x : vec_mul(x, vec_sub(one, x));
        const vec over = vec_mul(w, vec_sub(vec_load_mask(g + e, m), mean));
        vec_store_mask(dlogit + e, vec_fma(over, slope, vec_load_mask(dlogit + e, m)), m);
    }
    return d;
}

static void count_choices(const struct moe_balance_args *a, const struct attention_grad_seq *q,
                          float *count)
{
    const size_t K = (size_t)a->K, first = (size_t)q->query, n = (size_t)q->len;
    for (size_t i = first * K; i < (first + n) * K; i++)
        count[a->experts[i]] += 1.0f; // exact up to 2^24 tokens
}

static double sum_rows(const struct moe_balance_args *a, const struct attention_grad_seq *q,
                       const float *g, bool spread)
{
    double sum = 0.0;
    for (size_t t = (size_t)q->query, end = t + (size_t)q->len; t < end; t++)
        sum += (double)balance_row(a, g, t, spread);
    return sum;
}

// The loss of the sequence that is `own` after `prefix`, by way of f [E]; the gradient of its own
// tokens, and what its prefix's are to be given, added to g [E].
static float balance_sequence(const struct moe_balance_args *a,
                              const struct attention_grad_seq *prefix,
                              const struct attention_grad_seq *own, float *f, float *g)
{
    const float n = (float)prefix->len + (float)own->len;
    if (n == 0.0f)
        return MOE_NO_SEQUENCE;
    memset(f, 0, (size_t)a->E * sizeof(*f));
    count_choices(a, prefix, f);
    count_choices(a, own, f);
    for (int e = 0; e < a->E; e++)
        f[e] *= (float)a->E / ((float)a->K * n);
    const double loss = sum_rows(a, prefix, f, false) + sum_rows(a, own, f, false);
    for (int e = 0; e < a->E; e++) {
        f[e] *= a->weight / n;
        g[e] += f[e];
    }
    sum_rows(a, own, f, true);
    return (float)(loss / (double)n);
}

// The sequence s, which continues none, and those that continue it.
static void balance_family(const struct moe_balance_args *a, int s, float *f, float *g)
{
    const struct attention_grad_seq *q = &a->seqs[s], nothing = {0};
    int end = s + 1;
    memset(g, 0, (size_t)a->E * sizeof(*g));
    for (; end < a->num_seqs && a->seqs[end].prefix == s; end++)
        a->loss[end] = balance_sequence(a, q, &a->seqs[end], f, g);
    a->loss[s] = end > s + 1 ? MOE_NO_SEQUENCE : balance_sequence(a, q, &nothing, f, g);
    sum_rows(a, q, g, true);
}

struct balance_job {
    struct device *dev;
    const struct moe_balance_args *a;
};

static void balance_share(void *arg, int rank, int size)
{
    const struct balance_job *job = arg;
    const size_t E = (size_t)job->a->E;
    float *f = cpu_scratch(job->dev, rank, 2 * E);
    int begin, end;
    team_share(job->a->num_seqs, 1, rank, size, &begin, &end);
    for (int s = begin; s < end; s++)
        if (job->a->seqs[s].prefix < 0)
            balance_family(job->a, s, f, f + E);
}

int FAST(moe_balance)(struct device *dev, const struct moe_balance_args *a)
{
    struct balance_job job = {dev, a};
    cpu_run(dev, 8.0 * a->T * a->E, balance_share, &job);
    return 0;
}

// ---- permutation

// A counting sort on the calling thread: two passes over the pairs.
int FAST(moe_sort)(struct device *dev, const struct moe_sort_args *a)
{
    (void)dev;
    const int pairs = a->T * a->K;
    int *count = a->segments;
    memset(count, 0, ((size_t)a->E + 1) * sizeof(*count));
    for (int p = 0; p < pairs; p++) {
        assert(a->experts[p] >= 0 && a->experts[p] < a->E);
        count[a->experts[p] + 1]++;
    }
    for (int e = 0; e < a->E; e++)
        count[e + 1] += count[e];
    for (int p = 0; p < pairs; p++) {
        const int slot = count[a->experts[p]]++;
        a->slot[p] = slot;
        a->pair[slot] = p;
    }
    // Each count has moved on to the end of its segment, which is the start of the next.
    memmove(count + 1, count, (size_t)a->E * sizeof(*count));
    count[0] = 0;
    return 0;
}

static void gather_share(void *arg, int rank, int size)
{
    const struct moe_gather_args *a = arg;
    const size_t C = (size_t)a->C;
    int begin, end;
    team_share(a->T * a->K, 1, rank, size, &begin, &end);
    for (int s = begin; s < end; s++)
        copy_as(a->xs, a->xs_type, (size_t)s * C, a->x, a->x_type, (size_t)(a->pair[s] / a->K) * C,
                C);
}

int FAST(moe_gather)(struct device *dev, const struct moe_gather_args *a)
{
    struct moe_gather_args job = *a;
    cpu_run(dev, 2.0 * a->T * a->K * a->C, gather_share, &job);
    return 0;
}

static void gather_grad_share(void *arg, int rank, int size)
{
    const struct moe_gather_grad_args *a = arg;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t t = (size_t)begin; t < (size_t)end; t++)
        for (size_t k = 0; k < K; k++)
            row_add(a->dx + t * C, a->dxs + (size_t)a->slot[t * K + k] * C, C);
}

int FAST(moe_gather_grad)(struct device *dev, const struct moe_gather_grad_args *a)
{
    struct moe_gather_grad_args job = *a;
    cpu_run(dev, 3.0 * a->T * a->K * a->C, gather_grad_share, &job);
    return 0;
}

static void combine_share(void *arg, int rank, int size)
{
    const struct moe_combine_args *a = arg;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t p = (size_t)begin * K; p < (size_t)end * K; p++)
        row_add_scaled(a->y + p / K * C, a->ys, a->ys_type, (size_t)a->slot[p] * C, a->weights[p],
                       C);
}

int FAST(moe_combine)(struct device *dev, const struct moe_combine_args *a)
{
    struct moe_combine_args job = *a;
    cpu_run(dev, 4.0 * a->T * a->K * a->C, combine_share, &job);
    return 0;
}

// Inner product of n elements of x, from the at-th on, and y.
static float dot_as(const void *x, enum dtype type, size_t at, const float *y, size_t n)
{
    vec sum = vec_zero();
    if (type == DTYPE_F32)
        return vec_dot((const float *)x + at, y, n);
    for (size_t i = 0; i < n; i += VEC_WIDTH) {
        const int lanes = vec_lanes_at(n, i);
        sum = vec_fma(vec_load_as(x, type, at + i, lanes), vec_load_n(y + i, lanes), sum);
    }
    return vec_sum(sum);
}

// out[n] from its at-th element on = scale x.
static void scale_as(void *out, enum dtype type, size_t at, const float *x, float scale, size_t n)
{
    float *wide = type == DTYPE_F32 ? (float *)out + at : NULL;
    for (size_t i = 0; wide && i < n; i++)
        wide[i] = scale * x[i];
    for (size_t i = 0; !wide && i < n; i += VEC_WIDTH) {
        const int lanes = vec_lanes_at(n, i);
        vec_store_as(out, type, at + i, vec_mul(vec_set1(scale), vec_load_n(x + i, lanes)), lanes);
    }
}

static void combine_grad_share(void *arg, int rank, int size)
{
    const struct moe_combine_grad_args *a = arg;
    const size_t C = (size_t)a->C, K = (size_t)a->K;
    int begin, end;
    team_share(a->T, 1, rank, size, &begin, &end);
    for (size_t p = (size_t)begin * K; p < (size_t)end * K; p++) {
        const size_t row = (size_t)a->slot[p] * C;
        const float *dy = a->dy + p / K * C;
        a->dweights[p] = dot_as(a->ys, a->ys_type, row, dy, C);
        scale_as(a->dys, a->dys_type, row, dy, a->weights[p], C);
    }
}

int FAST(moe_combine_grad)(struct device *dev, const struct moe_combine_grad_args *a)
{
    struct moe_combine_grad_args job = *a;
    cpu_run(dev, 5.0 * a->T * a->K * a->C, combine_grad_share, &job);
    return 0;
}
