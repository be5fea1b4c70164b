// SPDX-License-Identifier: Apache-2.0
#include "rl/grpo.h"

#include <assert.h>
#include <math.h>

// Mean, standard deviation (n - 1) and spread of the numbers it was fed, in one pass (Welford).
struct moments {
    size_t n;
    double mean, m2, lo, hi;
};

static void moments_add(struct moments *m, double x)
{
    assert(!isnan(x));
    m->lo = m->n == 0 || x < m->lo ? x : m->lo;
    m->hi = m->n == 0 || x > m->hi ? x : m->hi;
    m->n++;
    const double d = x - m->mean;
    m->mean += d / (double)m->n;
    m->m2 += d * (x - m->mean);
}

// No spread is decided on the numbers themselves: rounding would leave a tiny deviation of equal
// ones.
static bool moments_flat(const struct moments *m) { return m->n < 2 || m->lo == m->hi; }

static double moments_std(const struct moments *m)
{
    return moments_flat(m) ? 0 : sqrt(m->m2 / (double)(m->n - 1));
}

static void moments_add_rewards(struct moments *m, const struct grpo_batch *b, int first, int end)
{
    for (int i = first; i < end; i++)
        if (b->valid[i])
            moments_add(m, b->reward[i]);
}

static void moments_add_steps(struct moments *m, const struct grpo_batch *b, int first, int end)
{
    for (int i = first; i < end && b->step_begin != NULL; i++)
        for (int j = b->step_begin[i]; j < b->step_begin[i + 1] && b->valid[i]; j++)
            if (b->step_valid[j])
                moments_add(m, b->step_reward[j]);
}

// x normalised by its group, and by the spread of whatever the scale says; 0 by a branch where
// there is no spread.
static double normalised(double x, const struct moments *group, const struct moments *all,
                         const struct grpo_advantage_config *c)
{
    if (moments_flat(group))
        return 0;
    const double centred = x - group->mean;
    switch (c->scale) {
    case GRPO_SCALE_GROUP:
        return centred / (moments_std(group) + c->eps);
    case GRPO_SCALE_BATCH:
        return centred / (moments_std(all) + c->eps);
    case GRPO_SCALE_NONE:
        break;
    }
    return centred;
}

// The last valid step of sample i before index j (or any at j = the end), -1 if there is none.
static int step_before(const struct grpo_batch *b, int i, int j)
{
    do
        j--;
    while (j >= b->step_begin[i] && !b->step_valid[j]);
    return j >= b->step_begin[i] ? j : -1;
}

// log of sum_j exp(-r_j / T) over the valid steps of sample i, less the greatest exponent, which
// goes to *shift.
static double soft_min_sum(double *shift, const struct grpo_batch *b, int i, double temperature)
{
    double sum = 0;
    *shift = -HUGE_VAL;
    for (int j = b->step_begin[i]; j < b->step_begin[i + 1]; j++)
        if (b->step_valid[j])
            *shift = fmax(*shift, -b->step_reward[j] / temperature);
    for (int j = b->step_begin[i]; j < b->step_begin[i + 1]; j++)
        if (b->step_valid[j])
            sum += exp(-b->step_reward[j] / temperature - *shift);
    return sum;
}

// Adds weight * (sum of the credit of the steps that end at or after t) to every token t of sample
// i. What a step is worth: its normalised reward, or its share of the soft minimum, w_j r_j with w
// = softmax(-r / T). Returns the first token's sum.
static double spread_steps(double *advantage, const struct grpo_batch *b, int i,
                           const struct moments *group, const struct moments *all,
                           const struct grpo_advantage_config *c)
{
    const size_t begin = b->token_begin[i];
    const bool gated = c->outcome_gate && c->credit == GRPO_CREDIT_SUM && !b->right[i];
    double shift = 0, sum = 1, credit = 0;
    if (c->credit == GRPO_CREDIT_MIN)
        sum = soft_min_sum(&shift, b, i, c->min_temperature);
    int j = step_before(b, i, b->step_begin[i + 1]);
    for (size_t t = b->token_begin[i + 1]; t-- > begin;) {
        while (j >= 0 && (size_t)b->step_token[j] >= t - begin) {
            const double r = b->step_reward[j];
            double worth = c->credit == GRPO_CREDIT_SUM
                               ? normalised(r, group, all, c)
                               : exp(-r / c->min_temperature - shift) / sum * r;
            if (gated)
                worth = fmin(worth, 0);
            credit += worth;
            j = step_before(b, i, j);
        }
        advantage[t] += c->process * credit;
    }
    return credit;
}

static void add_process(double *advantage, const struct grpo_batch *b, int first, int end,
                        const struct moments *group, const struct moments *all,
                        const struct grpo_advantage_config *c)
{
    struct moments first_returns = {0};
    for (int i = first; i < end; i++)
        if (b->valid[i])
            moments_add(&first_returns, spread_steps(advantage, b, i, group, all, c));
    if (c->credit != GRPO_CREDIT_MIN || !c->min_baseline)
        return;
    for (int i = first; i < end; i++)
        for (size_t t = b->token_begin[i]; t < b->token_begin[i + 1] && b->valid[i]; t++)
            advantage[t] -= c->process * first_returns.mean;
}

// Sums over groups, on the way to grpo_reward_stats.
struct group_sums {
    int scored, stepped; // groups with a scorable sample, with a scorable step
    double std, step_std;
    int with_std, with_step_std; // groups of two or more
    int flat, step_flat;
};

static void group_sums_add(struct group_sums *s, const struct moments *r, const struct moments *p)
{
    s->scored += r->n > 0;
    s->stepped += p->n > 0;
    s->with_std += r->n > 1;
    s->with_step_std += p->n > 1;
    s->std += moments_std(r);
    s->step_std += moments_std(p);
    s->flat += r->n > 0 && moments_flat(r);
    s->step_flat += p->n > 0 && moments_flat(p);
}

static double share(double sum, int n) { return n > 0 ? sum / n : 0; }

static struct grpo_reward_stats reward_stats(const struct group_sums *s, const struct moments *r,
                                             const struct moments *p, int samples,
                                             enum grpo_scale scale)
{
    const bool batch = scale == GRPO_SCALE_BATCH;
    return (struct grpo_reward_stats){
        .num_samples = (int)r->n,
        .num_unscorable = samples - (int)r->n,
        .reward = r->mean,
        .reward_std = batch ? moments_std(r) : share(s->std, s->with_std),
        .frac_reward_zero_std = share(s->flat, s->scored),
        .step_reward = p->mean,
        .step_reward_std = batch ? moments_std(p) : share(s->step_std, s->with_step_std),
        .frac_step_reward_zero_std = share(s->step_flat, s->stepped)};
}

void grpo_advantages(double *advantage, struct grpo_reward_stats *stats, const struct grpo_batch *b,
                     const struct grpo_advantage_config *c)
{
    const int samples = b->group_begin[b->num_groups];
    struct moments all = {0}, all_steps = {0};
    struct group_sums sums = {0};
    moments_add_rewards(&all, b, 0, samples);
    moments_add_steps(&all_steps, b, 0, samples);
    for (int g = 0; g < b->num_groups; g++) {
        const int first = b->group_begin[g], end = b->group_begin[g + 1];
        struct moments rewards = {0}, steps = {0};
        moments_add_rewards(&rewards, b, first, end);
        moments_add_steps(&steps, b, first, end);
        group_sums_add(&sums, &rewards, &steps);
        for (int i = first; i < end; i++) {
            const double a = b->valid[i] && c->outcome != 0
                                 ? c->outcome * normalised(b->reward[i], &rewards, &all, c)
                                 : 0;
            for (size_t t = b->token_begin[i]; t < b->token_begin[i + 1]; t++)
                advantage[t] = a;
        }
        if (c->process != 0 && b->step_begin != NULL)
            add_process(advantage, b, first, end, &steps, &all_steps, c);
    }
    for (size_t t = 0; t < b->token_begin[samples]; t++)
        advantage[t] = b->mask[t] ? advantage[t] : 0;
    if (stats != NULL)
        *stats = reward_stats(&sums, &all, &all_steps, samples, c->scale);
}

static size_t unmasked(const struct grpo_batch *b, int i)
{
    size_t n = 0;
    for (size_t t = b->token_begin[i]; t < b->token_begin[i + 1]; t++)
        n += b->mask[t] != 0;
    return n;
}

struct grpo_norm grpo_norm(const struct grpo_batch *b, int first_sample, int end_sample)
{
    struct grpo_norm norm = {0};
    for (int i = first_sample; i < end_sample; i++) {
        const size_t n = b->valid[i] ? unmasked(b, i) : 0;
        norm.tokens += n;
        norm.samples += n > 0;
    }
    return norm;
}

double grpo_kl_value(enum grpo_kl kind, double logp, double ref, double *grad)
{
    const double d = logp - ref;
    switch (kind) {
    case GRPO_KL_K1:
        *grad = 1;
        return d;
    case GRPO_KL_K2:
        *grad = d;
        return d * d / 2;
    case GRPO_KL_K3:
        break;
    }
    *grad = -expm1(-d);
    return expm1(-d) + d;
}

// The clipped surrogate -min(min(rho, delta) A, clip(rho) A), its derivative by log rho, and which
// bound was active: -1, 0, +1.
struct clipped {
    double value, grad;
    int side;
};

static struct clipped clipped_term(double log_ratio, double a, const struct grpo_loss_config *c)
{
    const double rho = exp(log_ratio), lo = 1 - c->eps_low, hi = 1 + c->eps_high;
    const double bounded = c->delta > 0 ? fmin(rho, c->delta) : rho;
    const double inside = fmin(fmax(rho, lo), hi);
    const bool unclipped = bounded * a <= inside * a && bounded == rho;
    return (struct clipped){.value = -fmin(bounded * a, inside * a),
                            .grad = unclipped ? -a * rho : 0,
                            .side = rho < lo && a < 0   ? -1
                                    : rho > hi && a > 0 ? 1
                                                        : 0};
}

// What a token's term is multiplied with, in a sample of n unmasked tokens.
static double token_weight(const struct grpo_norm *norm, size_t n, const struct grpo_loss_config *c)
{
    const double samples = norm->samples;
    switch (c->type) {
    case GRPO_LOSS_GRPO:
        return 1 / (samples * (double)n);
    case GRPO_LOSS_BNPO:
    case GRPO_LOSS_DAPO:
        return 1 / (double)norm->tokens;
    case GRPO_LOSS_DR_GRPO:
        return 1 / (samples * c->max_completion_length);
    case GRPO_LOSS_SEQ_SUM:
        break;
    }
    return 1 / samples;
}

// Mean of log rho over the unmasked tokens of sample i.
static double mean_log_ratio(const struct grpo_batch *b, int i, const struct grpo_tokens *x,
                             size_t n)
{
    double sum = 0;
    for (size_t t = b->token_begin[i]; t < b->token_begin[i + 1]; t++)
        if (b->mask[t])
            sum += x->logp[t] - x->old[t];
    return sum / (double)n;
}

// The part of sample i, which has n > 0 unmasked tokens; dlogp is zeroed.
static void add_sample(double *dlogp, struct grpo_loss_sum *sum, const struct grpo_batch *b, int i,
                       size_t n, const struct grpo_tokens *x, double weight,
                       const struct grpo_loss_config *c)
{
    const size_t begin = b->token_begin[i], end = b->token_begin[i + 1];
    const bool whole = c->level == GRPO_LEVEL_SEQUENCE;
    const double mean = whole ? mean_log_ratio(b, i, x, n) : 0;
    double through_mean = 0; // d(loss)/d(mean)
    size_t low = 0, high = 0;
    for (size_t t = begin; t < end; t++) {
        if (!b->mask[t])
            continue;
        const struct clipped k =
            clipped_term(whole ? mean : x->logp[t] - x->old[t], x->advantage[t], c);
        low += k.side < 0;
        high += k.side > 0;
        sum->loss += weight * k.value;
        *(whole ? &through_mean : &dlogp[t]) += weight * k.grad;
        if (c->beta != 0) {
            double grad;
            const double kl = grpo_kl_value(c->kl, x->logp[t], x->ref[t], &grad);
            sum->kl += kl;
            sum->loss += weight * c->beta * kl;
            dlogp[t] += weight * c->beta * grad;
        }
    }
    for (size_t t = begin; t < end && whole; t++)
        dlogp[t] += b->mask[t] ? through_mean / (double)n : 0;
    const double low_share = (double)low / (double)n, high_share = (double)high / (double)n;
    sum->low_min = sum->samples == 0 ? low_share : fmin(sum->low_min, low_share);
    sum->high_max = sum->samples == 0 ? high_share : fmax(sum->high_max, high_share);
    sum->low += whole ? low > 0 : low;
    sum->high += whole ? high > 0 : high;
    sum->tokens += n;
    sum->samples++;
}

void grpo_loss(double *dlogp, struct grpo_loss_sum *sum, const struct grpo_batch *b,
               int first_sample, int end_sample, const struct grpo_tokens *x,
               const struct grpo_norm *norm, const struct grpo_loss_config *c)
{
    assert(c->type != GRPO_LOSS_DR_GRPO || c->max_completion_length > 0);
    for (int i = first_sample; i < end_sample; i++) {
        const size_t n = b->valid[i] ? unmasked(b, i) : 0;
        for (size_t t = b->token_begin[i]; t < b->token_begin[i + 1]; t++)
            dlogp[t] = 0;
        if (n > 0)
            add_sample(dlogp, sum, b, i, n, x, token_weight(norm, n, c), c);
    }
}

void grpo_loss_add(struct grpo_loss_sum *sum, const struct grpo_loss_sum *x)
{
    if (x->samples == 0)
        return;
    sum->low_min = sum->samples == 0 ? x->low_min : fmin(sum->low_min, x->low_min);
    sum->high_max = sum->samples == 0 ? x->high_max : fmax(sum->high_max, x->high_max);
    sum->loss += x->loss;
    sum->kl += x->kl;
    sum->low += x->low;
    sum->high += x->high;
    sum->tokens += x->tokens;
    sum->samples += x->samples;
}

struct grpo_loss_stats grpo_loss_stats(const struct grpo_loss_sum *sum,
                                       const struct grpo_loss_config *c)
{
    const size_t units = c->level == GRPO_LEVEL_SEQUENCE ? (size_t)sum->samples : sum->tokens;
    const double n = units > 0 ? (double)units : 1;
    return (struct grpo_loss_stats){.loss = sum->loss,
                                    .kl = sum->kl / (sum->tokens > 0 ? (double)sum->tokens : 1),
                                    .clip_low_mean = (double)sum->low / n,
                                    .clip_high_mean = (double)sum->high / n,
                                    .clip_region_mean = (double)(sum->low + sum->high) / n,
                                    .clip_low_min = sum->low_min,
                                    .clip_high_max = sum->high_max};
}
