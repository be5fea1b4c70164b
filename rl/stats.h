// SPDX-License-Identifier: Apache-2.0
// Statistics of evaluations: several samples of each of n problems. Problems are the independent
// units, so intervals and tests work on one number a problem. Plain arithmetic; no state.
#ifndef RL_STATS_H
#define RL_STATS_H

#include <stdbool.h>
#include <stdint.h>

struct stats_interval {
    double mean, low, high; // 95 %
    int n;                  // problems
};

// Mean of x [n] with the normal approximation mean +- 1.96 s / sqrt(n), s with n - 1, cut to [lo,
// hi]. n = 0 gives zeros; n = 1 gives the whole range.
struct stats_interval stats_mean(const double *x, int n, double lo, double hi);

// pass@k of one problem from `samples` draws of which `right` are right, without bias:
// 1 - C(samples - right, k) / C(samples, k) (Chen et al., arXiv:2107.03374, eq. (1)); k <= samples.
double stats_pass_at_k(int samples, int right, int k);

// Area under the ROC curve: the probability that a positive scores above a negative, ties counting
// one half (Mann and Whitney, 1947). Sorts x. NAN when either kind is missing.
struct stats_scored {
    double score;
    bool positive;
};
double stats_auc(struct stats_scored *x, int n);

// Paired comparison of the same problems: mean of b - a with its interval, and the two-sided
// p-value of a sign-flip permutation test with `rounds` flips from `seed` (counter-based, so
// repeatable).
struct stats_paired {
    struct stats_interval difference;
    double p_value;
    int better, worse; // problems where b is larger, smaller
};
struct stats_paired stats_paired(const double *a, const double *b, int n, uint64_t seed,
                                 int rounds);

#endif
