// SPDX-License-Identifier: Apache-2.0
#include "rl/stats.h"

#include "base/mem.h"
#include "base/philox.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct stats_interval stats_mean(const double *x, int n, double lo, double hi)
{
    if (n == 0)
        return (struct stats_interval){0};
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    const double mean = sum / n;
    if (n == 1)
        return (struct stats_interval){mean, lo, hi, n};
    double squares = 0.0;
    for (int i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    const double half = 1.96 * sqrt(squares / (n - 1) / n);
    return (struct stats_interval){mean, fmax(lo, mean - half), fmin(hi, mean + half), n};
}

double stats_pass_at_k(int samples, int right, int k)
{
    assert(k >= 1 && k <= samples && right <= samples);
    if (samples - right < k)
        return 1.0;
    double none = 1.0; // product form of the quotient of binomials
    for (int i = samples - right + 1; i <= samples; i++)
        none *= 1.0 - (double)k / i;
    return 1.0 - none;
}

static int by_score(const void *a, const void *b)
{
    const double x = ((const struct stats_scored *)a)->score;
    const double y = ((const struct stats_scored *)b)->score;
    return (x > y) - (x < y);
}

double stats_auc(struct stats_scored *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_score);
    double positives = 0.0, negatives = 0.0, won = 0.0;
    for (int i = 0, end = 0; i < n; i = end) { // a stretch of equal scores
        double here[2] = {0.0, 0.0};
        for (; end < n && x[end].score == x[i].score; end++)
            here[x[end].positive]++;
        won += here[1] * (negatives + here[0] / 2.0);
        positives += here[1];
        negatives += here[0];
    }
    const double pairs = positives * negatives;
    return pairs > 0.0 ? won / pairs : (double)NAN;
}

struct stats_paired stats_paired(const double *a, const double *b, int n, uint64_t seed, int rounds)
{
    struct stats_paired out = {.p_value = 1.0};
    double *d = mem_array0((size_t)n + 1, sizeof *d);
    double total = 0.0;
    for (int i = 0; i < n; i++) {
        d[i] = b[i] - a[i];
        total += d[i];
        out.better += d[i] > 0.0;
        out.worse += d[i] < 0.0;
    }
    out.difference = stats_mean(d, n, -1.0, 1.0);
    int extreme = 0;
    for (int r = 0; r < rounds; r++) {
        struct philox_stream s = philox_stream(seed, (uint64_t)r);
        double sum = 0.0;
        uint32_t bits = 0;
        for (int i = 0; i < n; i++) {
            if (i % 32 == 0)
                bits = philox_next(&s);
            sum += (bits >> (i % 32)) & 1 ? d[i] : -d[i];
        }
        extreme += fabs(sum) >= fabs(total) - 1e-12 * n;
    }
    out.p_value = (extreme + 1.0) / (rounds + 1.0);
    free(d);
    return out;
}
