// SPDX-License-Identifier: Apache-2.0
// The sampler's distribution is the exact softmax, truncated as asked: chi-square tests over 10^6
// draws with fixed seeds on every instruction set of this machine, and the edges of each
// truncation.
#include "base/philox.h"
#include "base/team.h"
#include "kernels/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { V = 23, B = 500, CALLS = 2000 }; // V: not a multiple of any vector

static struct device *open_device(enum device_isa isa)
{
    struct device *dev = NULL;
    assert_int_equal(device_open(&dev, NULL, isa), 0);
    return dev;
}

// Spread over about 6 nats, with two equal values in the middle.
static void make_logits(float z[V])
{
    for (int v = 0; v < V; v++)
        z[v] = 3.0F * sinf(1.7F * (float)v + 0.3F);
    z[7] = z[15];
}

// Indices of z by falling value, ties by rising index.
static void sort_by_value(int order[V], const float z[V])
{
    for (int v = 0; v < V; v++) {
        int at = v;
        for (; at > 0 && z[order[at - 1]] < z[v]; at--)
            order[at] = order[at - 1];
        order[at] = v;
    }
}

// The definition, in double: softmax at the temperature, the top_k largest, then of those
// (renormalised) the fewest that reach top_p, then those of at least min_p times the largest.
static int exact_distribution(double p[V], const float z[V], const struct sample_row *r)
{
    int order[V], kept = r->top_k > 0 && r->top_k < V ? r->top_k : V;
    double e[V], sum = 0, cumulative = 0;
    sort_by_value(order, z);
    for (int i = 0; i < kept; i++) {
        e[i] = exp(((double)z[order[i]] - (double)z[order[0]]) / (double)r->temperature);
        sum += e[i];
    }
    for (int i = 0; i < kept; i++) {
        cumulative += e[i] / sum;
        if (r->top_p < 1 && cumulative >= (double)r->top_p)
            kept = i + 1;
    }
    while (e[kept - 1] < (double)r->min_p)
        kept--;
    sum = 0;
    for (int i = 0; i < kept; i++)
        sum += e[i];
    for (int v = 0; v < V; v++)
        p[v] = 0;
    for (int i = 0; i < kept; i++)
        p[order[i]] = e[i] / sum;
    return kept;
}

static void draw(struct device *dev, const float *logits, const struct sample_row *rows, int n,
                 int *token, float *logprob, float *entropy, bool *truncated)
{
    const struct sample_args a = {.logits = logits,
                                  .rows = rows,
                                  .token = token,
                                  .logprob = logprob,
                                  .entropy = entropy,
                                  .truncated = truncated,
                                  .B = n,
                                  .V = V};
    assert_int_equal(dev->k->sample(dev, &a), 0);
}

static void count_draws(int64_t count[V], struct device *dev, const float z[V],
                        const struct sample_row *r, bool truncates)
{
    static float logits[B * V], logprob[B], entropy[B];
    static struct sample_row rows[B];
    static int token[B];
    static bool truncated[B];
    struct philox_stream random = philox_stream(20261124, 1);
    for (int i = 0; i < B; i++)
        memcpy(&logits[i * V], z, V * sizeof *z);
    memset(count, 0, V * sizeof *count);
    for (int call = 0; call < CALLS; call++) {
        for (int i = 0; i < B; i++) {
            rows[i] = *r;
            rows[i].u = philox_next_unit(&random);
        }
        draw(dev, logits, rows, B, token, logprob, entropy, truncated);
        for (int i = 0; i < B; i++) {
            assert_in_range(token[i], 0, V - 1);
            assert_int_equal(truncated[i], truncates);
            count[token[i]]++;
        }
    }
}

// The value that chi-square with df degrees of freedom exceeds once in 10^6 (Wilson and Hilferty's
// approximation, z = 4.753).
static double chi_square_limit(int df)
{
    const double k = 2.0 / (9.0 * df), x = 1 - k + 4.753 * sqrt(k);
    return df * x * x * x;
}

static void check_distribution(const struct sample_row *r)
{
    const double n = (double)B * CALLS;
    float z[V];
    double p[V];
    make_logits(z);
    const int kept = exact_distribution(p, z, r);
    assert_true(kept > 1);
    for (enum device_isa isa = DEVICE_REFERENCE; isa <= device_best_isa(); isa++) {
        struct device *dev = open_device(isa);
        int64_t count[V];
        double chi = 0;
        count_draws(count, dev, z, r, kept < V);
        for (int v = 0; v < V; v++) {
            if (p[v] == 0) {
                assert_int_equal(count[v], 0);
                continue;
            }
            const double expected = n * p[v], d = (double)count[v] - expected;
            assert_true(expected > 20); // what the approximation by chi-square needs
            chi += d * d / expected;
        }
        print_message("# %s: %d tokens kept, chi-square %.2f, limit %.2f\n", device_isa_name(isa),
                      kept, chi, chi_square_limit(kept - 1));
        assert_true(chi < chi_square_limit(kept - 1));
        device_free(&dev);
    }
}

static void plain_draws_follow_the_softmax(void **state)
{
    (void)state;
    check_distribution(&(struct sample_row){.temperature = 1, .top_p = 1});
}

static void temperature_divides_the_logits(void **state)
{
    (void)state;
    check_distribution(&(struct sample_row){.temperature = 0.7F, .top_p = 1});
    check_distribution(&(struct sample_row){.temperature = 1.8F, .top_p = 1});
}

static void top_k_keeps_the_k_largest(void **state)
{
    (void)state;
    check_distribution(&(struct sample_row){.temperature = 1, .top_p = 1, .top_k = 5});
}

static void top_p_keeps_the_fewest_that_reach_p(void **state)
{
    (void)state;
    check_distribution(&(struct sample_row){.temperature = 1, .top_p = 0.83F});
}

static void min_p_keeps_what_is_near_the_largest(void **state)
{
    (void)state;
    check_distribution(&(struct sample_row){.temperature = 1, .top_p = 1, .min_p = 0.07F});
}

static void truncations_apply_one_after_the_other(void **state)
{
    (void)state;
    check_distribution(
        &(struct sample_row){.temperature = 1.2F, .top_k = 15, .top_p = 0.95F, .min_p = 0.03F});
}

// One draw from z for each of some u, and the largest token seen.
static void check_always(const float z[V], struct sample_row r, int expected, bool truncates)
{
    static const double us[] = {1e-12, 0.1, 0.5, 0.9, 1 - 1e-12};
    for (enum device_isa isa = DEVICE_REFERENCE; isa <= device_best_isa(); isa++) {
        struct device *dev = open_device(isa);
        for (size_t i = 0; i < sizeof us / sizeof *us; i++) {
            int token = -1;
            float logprob, entropy;
            bool truncated = !truncates;
            r.u = us[i];
            draw(dev, z, &r, 1, &token, &logprob, &entropy, &truncated);
            assert_int_equal(token, expected);
            assert_int_equal(truncated, truncates);
        }
        device_free(&dev);
    }
}

static int largest(const float z[V])
{
    int order[V];
    sort_by_value(order, z);
    return order[0];
}

static void top_k_one_and_tiny_top_p_and_min_p_one_take_the_largest(void **state)
{
    (void)state;
    float z[V];
    make_logits(z);
    const int best = largest(z);
    check_always(z, (struct sample_row){.temperature = 1, .top_p = 1, .top_k = 1}, best, true);
    check_always(z, (struct sample_row){.temperature = 1, .top_p = 1e-6F}, best, true);
    check_always(z, (struct sample_row){.temperature = 1, .top_p = 1, .min_p = 1}, best, true);
}

static void temperature_zero_takes_the_largest_and_of_equals_the_first(void **state)
{
    (void)state;
    float z[V];
    make_logits(z);
    check_always(z, (struct sample_row){.top_p = 1}, largest(z), false);
    z[19] = z[4] = z[11] = 9;
    check_always(z, (struct sample_row){.top_p = 1}, 4, false);
}

static void ties_at_the_border_of_top_k_go_to_the_lower_index(void **state)
{
    (void)state;
    float z[V] = {0};
    z[20] = z[6] = z[13] = 5;
    check_always(z, (struct sample_row){.temperature = 1, .top_p = 1, .top_k = 1}, 6, true);
    check_always(z, (struct sample_row){.temperature = 1, .top_p = 0.01F}, 6, true);
}

static void truncation_that_removes_nothing_is_not_recorded(void **state)
{
    (void)state;
    float z[V] = {0};
    const struct sample_row r = {
        .temperature = 1, .top_k = V, .top_p = 1, .min_p = 1, .u = 0.999}; // all equal
    for (enum device_isa isa = DEVICE_REFERENCE; isa <= device_best_isa(); isa++) {
        struct device *dev = open_device(isa);
        int token = -1;
        float logprob, entropy;
        bool truncated = true;
        draw(dev, z, &r, 1, &token, &logprob, &entropy, &truncated);
        assert_int_equal(token, V - 1);
        assert_false(truncated);
        device_free(&dev);
    }
}

static void logprob_and_entropy_ignore_truncation(void **state)
{
    (void)state;
    float z[V];
    double p[V], entropy = 0;
    make_logits(z);
    const float taus[] = {0, 0.7F, 1};
    for (int t = 0; t < 3; t++) {
        const float tau = taus[t] > 0 ? taus[t] : 1; // 0 counts as 1
        exact_distribution(p, z, &(struct sample_row){.temperature = tau, .top_p = 1});
        entropy = 0;
        for (int v = 0; v < V; v++)
            entropy -= p[v] * log(p[v]);
        for (enum device_isa isa = DEVICE_REFERENCE; isa <= device_best_isa(); isa++) {
            struct device *dev = open_device(isa);
            const struct sample_row r = {
                .temperature = taus[t], .top_k = 3, .top_p = 0.9F, .u = 0.4};
            int token = -1;
            float logprob = 0, h = 0;
            draw(dev, z, &r, 1, &token, &logprob, &h, NULL);
            // float32 with |z| <= 5: a few units in the last place
            assert_true(fabs((double)logprob - log(p[token])) < 5e-6);
            assert_true(fabs((double)h - entropy) < 5e-6);
            device_free(&dev);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_draws_follow_the_softmax),
        cmocka_unit_test(temperature_divides_the_logits),
        cmocka_unit_test(top_k_keeps_the_k_largest),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_p),
        cmocka_unit_test(min_p_keeps_what_is_near_the_largest),
        cmocka_unit_test(truncations_apply_one_after_the_other),
        cmocka_unit_test(top_k_one_and_tiny_top_p_and_min_p_one_take_the_largest),
        cmocka_unit_test(temperature_zero_takes_the_largest_and_of_equals_the_first),
        cmocka_unit_test(ties_at_the_border_of_top_k_go_to_the_lower_index),
        cmocka_unit_test(truncation_that_removes_nothing_is_not_recorded),
        cmocka_unit_test(logprob_and_entropy_ignore_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
