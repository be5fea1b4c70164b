// SPDX-License-Identifier: Apache-2.0
// The thread team: every rank runs once, nothing is read before it was written, shares cover all
// items.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/team.h"

#include <pthread.h>
#include <unistd.h>

enum { RANKS_MAX = 8 };

struct tally {
    int calls[RANKS_MAX];
    int size;
    int seconds_asleep; // of rank 1
    pthread_t thread[RANKS_MAX];
};

static void count_call(void *arg, int rank, int size)
{
    struct tally *t = arg;
    t->calls[rank]++;
    t->thread[rank] = pthread_self();
    if (rank == 0)
        t->size = size;
    if (rank == 1 && t->seconds_asleep)
        sleep((unsigned)t->seconds_asleep);
}

static void every_rank_runs_once_and_the_caller_is_rank_0(void **state)
{
    (void)state;
    for (int threads = 1; threads <= RANKS_MAX; threads++) {
        struct team *team = NULL;
        assert_int_equal(team_open(&team, threads), 0);
        assert_int_equal(team_size(team), threads);
        for (int run = 1; run <= 300; run++) {
            struct tally t = {0};
            team_run(team, count_call, &t);
            assert_int_equal(t.size, threads);
            for (int rank = 0; rank < RANKS_MAX; rank++)
                assert_int_equal(t.calls[rank], rank < threads);
            assert_true(pthread_equal(t.thread[0], pthread_self()));
        }
        team_close(&team);
        assert_null(team);
    }
}

static void sleepers_are_woken(void **state)
{
    (void)state;
    struct team *team = NULL;
    assert_int_equal(team_open(&team, 2), 0);
    struct tally t = {.seconds_asleep = 1}; // the caller sleeps in team_run
    team_run(team, count_call, &t);
    usleep(100000); // the worker sleeps between runs
    t.seconds_asleep = 0;
    team_run(team, count_call, &t);
    assert_int_equal(t.calls[0], 2);
    assert_int_equal(t.calls[1], 2);
    team_close(&team);
}

static void no_team_runs_on_the_caller(void **state)
{
    (void)state;
    struct tally t = {0};
    team_run(NULL, count_call, &t);
    assert_int_equal(t.calls[0], 1);
    assert_int_equal(t.size, 1);
    assert_int_equal(team_size(NULL), 1);
    struct team *none = NULL;
    team_close(&none);
    team_close(NULL);
}

static void zero_threads_means_the_usable_cpus(void **state)
{
    (void)state;
    struct team *team = NULL;
    assert_int_equal(team_open(&team, 0), 0);
    assert_in_range(team_size(team), 1, (uintmax_t)sysconf(_SC_NPROCESSORS_CONF));
    team_close(&team);
}

static void shares_are_contiguous_even_and_whole_grains(void **state)
{
    (void)state;
    for (int n = 0; n < 70; n++)
        for (int grain = 1; grain < 20; grain += 3)
            for (int size = 1; size < 9; size++) {
                int next = 0, smallest = n, largest = 0;
                for (int rank = 0; rank < size; rank++) {
                    int begin, end;
                    team_share(n, grain, rank, size, &begin, &end);
                    assert_int_equal(begin, next);
                    assert_true(end >= begin && (begin % grain == 0 || begin == n));
                    next = end;
                    smallest = end - begin < smallest ? end - begin : smallest;
                    largest = end - begin > largest ? end - begin : largest;
                }
                assert_int_equal(next, n);
                // A last grain that is not whole adds to the difference of one.
                assert_true(largest - smallest <= grain + (n % grain ? grain - n % grain : 0));
            }
    int begin, end;
    team_share(2147483647, 1, 63, 64, &begin, &end);
    assert_int_equal(end, 2147483647);
    assert_true(begin > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_runs_once_and_the_caller_is_rank_0),
        cmocka_unit_test(sleepers_are_woken),
        cmocka_unit_test(no_team_runs_on_the_caller),
        cmocka_unit_test(zero_threads_means_the_usable_cpus),
        cmocka_unit_test(shares_are_contiguous_even_and_whole_grains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
