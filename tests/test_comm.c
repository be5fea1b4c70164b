// SPDX-License-Identifier: Apache-2.0
// Exchanges between ranks: what arrives, in which order sums are taken, what is counted, and that a
// rank which fails, dies or stalls is named.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/block.h"
#include "tests/devices.h"
#include "tests/ranks.h"

#include <time.h>

// ---- the order of sums

struct sum {
    int n;
    char text[16][64]; // how each value came about
};

static void join(void *arg, int i, int j)
{
    struct sum *s = arg;
    char both[sizeof s->text[0]];
    snprintf(both, sizeof both, "(%.30s%.30s)", s->text[i], s->text[j]);
    memcpy(s->text[i], both, sizeof both);
}

static const char *order_of(struct sum *s, int n, int width)
{
    s->n = 0;
    for (int i = 0; i < n; i += width, s->n++) {
        struct sum inner = {.n = width};
        for (int j = 0; j < width; j++)
            snprintf(inner.text[j], sizeof inner.text[j], "%c", 'a' + i + j);
        comm_pairwise(width, join, &inner);
        memcpy(s->text[s->n], inner.text[0], sizeof s->text[0]);
    }
    comm_pairwise(s->n, join, s);
    return s->text[0];
}

static void sums_are_taken_in_pairs(void **state)
{
    (void)state;
    struct sum s;
    assert_string_equal(order_of(&s, 1, 1), "a");
    assert_string_equal(order_of(&s, 4, 1), "((ab)(cd))");
    assert_string_equal(order_of(&s, 5, 1), "(((ab)(cd))e)");
    assert_string_equal(order_of(&s, 7, 1), "(((ab)(cd))((ef)g))");
}

// So a rank may sum its shards first, when they are a power of two.
static void sums_of_powers_of_two_stand_for_their_parts(void **state)
{
    (void)state;
    struct sum one, other;
    static const struct {
        int n, width;
    } cases[] = {{4, 2}, {8, 2}, {8, 4}, {6, 2}, {12, 4}, {10, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(order_of(&other, cases[i].n, cases[i].width),
                            order_of(&one, cases[i].n, 1));
}

// ---- exchanges

static size_t size_between(int from, int to) { return (size_t)((from * 7 + to * 3) % 5) * 1001; }
static char byte_between(int from, int to, size_t i)
{
    return (char)(from * 31 + to * 17 + (int)i);
}

// Everybody gives everybody bytes that tell who gave them to whom; dev: where they lie.
static int exchange_all(struct comm *c, struct device *dev, size_t more)
{
    int faults = 0;
    struct comm_part parts[RANKS_MAX] = {{0}};
    char *got[RANKS_MAX], *text;
    int64_t sent = 0;
    for (int r = 0; r < c->size; r++) {
        parts[r].send_bytes = size_between(c->rank, r) + more;
        parts[r].recv_bytes = size_between(r, c->rank) + more;
        sent += r != c->rank ? (int64_t)parts[r].send_bytes : 0;
        text = mem_alloc(parts[r].send_bytes + 1);
        got[r] = mem_alloc(parts[r].recv_bytes + 1);
        for (size_t i = 0; i < parts[r].send_bytes; i++)
            text[i] = byte_between(c->rank, r, i);
        parts[r].send = dev ? device_new(dev, text, parts[r].send_bytes + 1) : text;
        parts[r].recv = dev ? device_new(dev, NULL, parts[r].recv_bytes + 1) : got[r];
        if (dev)
            free(text);
    }
    const int64_t before = c->count.bytes[COMM_EXPERTS];
    CHECK(comm_exchange(c, dev, COMM_EXPERTS, parts) == 0);
    CHECK(c->count.bytes[COMM_EXPERTS] - before == sent);
    for (int r = 0; r < c->size; r++) {
        if (dev)
            device_get(dev, got[r], parts[r].recv, parts[r].recv_bytes);
        size_t wrong = 0;
        for (size_t i = 0; i < parts[r].recv_bytes; i++)
            wrong += got[r][i] != byte_between(r, c->rank, i);
        CHECK(wrong == 0);
        if (dev) {
            device_release(dev, (void *)(uintptr_t)parts[r].send);
            device_release(dev, parts[r].recv);
        } else {
            free((void *)(uintptr_t)parts[r].send);
        }
        free(got[r]);
    }
    return faults;
}

static int rank_exchanges(struct comm *c, void *arg)
{
    (void)arg;
    struct device *dev;
    int faults = exchange_all(c, NULL, 0);
    faults += exchange_all(c, NULL, 3 << 20);                // more than sockets hold
    CHECK(test_device_open(&dev, NULL, DEVICE_FENCED) == 0); // as a GPU without NCCL
    faults += exchange_all(c, dev, 100);
    test_device_close(&dev);
    CHECK(c->count.seconds > 0.0);
    CHECK(comm_close(c, 0) == 0);
    return faults;
}

static void bytes_go_to_whom_they_are_for(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(2, -1, rank_exchanges, NULL), 0);
    assert_int_equal(run_ranks(5, -1, rank_exchanges, NULL), 0);
}

static int rank_collects(struct comm *c, void *arg)
{
    (void)arg;
    int faults = 0;
    // Another order would give another sum: ((1 + 2^53) + (1 - 2^53)) + 1.
    const double big = 9007199254740992.0, of_rank[5] = {1, big, 1, -big, 1};
    double x[2] = {of_rank[c->rank], c->rank};
    CHECK(comm_sum(c, x, 2) == 0);
    volatile double a = 1 + big, b = 1 - big; // rounded
    CHECK(x[0] == (a + b) + 1 && x[1] == 10);
    int64_t n = (int64_t)1 << (8 * c->rank);
    CHECK(comm_sum_int64(c, &n, 1) == 0 && n == 0x0101010101);
    bool flag = c->rank == 3;
    CHECK(comm_any(c, &flag) == 0 && flag);
    flag = false;
    CHECK(comm_any(c, &flag) == 0 && !flag);
    char text[8] = "";
    snprintf(text, sizeof text, "of %d", c->rank);
    CHECK(comm_broadcast(c, text, sizeof text, 2) == 0 && strcmp(text, "of 2") == 0);
    size_t offset[6];
    void *all;
    CHECK(comm_gather(c, COMM_SAMPLES, "abcde", (size_t)c->rank, &all, offset) == 0);
    CHECK(offset[5] == 10 && memcmp(all, "aababcabcd", 10) == 0);
    free(all);
    CHECK(comm_close(c, 0) == 0);
    return faults;
}

static void collectives_have_one_result_on_all_ranks(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(5, -1, rank_collects, NULL), 0);
}

static void one_process_needs_no_others(void **state)
{
    (void)state;
    struct comm comm = comm_single(), *c = &comm;
    int faults = 0;
    double x = 3;
    size_t offset[2];
    void *all;
    CHECK(comm_sum(c, &x, 1) == 0 && x == 3);
    CHECK(comm_gather(c, COMM_SAMPLES, "ab", 2, &all, offset) == 0 && memcmp(all, "ab", 2) == 0);
    free(all);
    CHECK(comm_agree(c, &(struct comm_claim){"config", "x", ERR_CONFIG}, 1) == 0);
    CHECK(c->count.bytes[COMM_CONTROL] == 0 && c->count.bytes[COMM_SAMPLES] == 0);
    CHECK(comm_close(c, ERR_DATA) == ERR_DATA);
    assert_int_equal(faults, 0);
}

static int rank_disagrees(struct comm *c, void *arg)
{
    (void)arg;
    int faults = 0;
    const struct comm_claim claims[] = {
        {"program", "1.0", ERR_ENV},
        {"config", c->rank == 1 ? "bb" : "aa", ERR_CONFIG},
        {"weights", c->rank >= 2 ? "long" : "cc", ERR_MODEL},
    };
    CHECK(comm_agree(c, claims, 1) == 0);
    CHECK(comm_agree(c, claims, 3) == ERR_CONFIG);
    CHECK(strcmp(err_message(), "the ranks disagree in config (rank 1: bb; rank 0: aa), in weights "
                                "(rank 2, 3: long; rank 0: cc)") == 0);
    // All end with the same error, and rank 0 is to say it.
    const int rank = c->rank;
    CHECK(comm_close(c, ERR_CONFIG) == ERR_CONFIG);
    CHECK((err_message()[0] != '\0') == (rank == 0));
    return faults;
}

static void ranks_that_disagree_are_named(void **state)
{
    (void)state;
    assert_int_equal(run_ranks(4, -1, rank_disagrees, NULL), 0);
}

// ---- failures

enum end { DIES, STALLS, FAILS, SPINS };
struct failure {
    enum end how;
    int rank;
};

static void fail_by(enum end how)
{
    if (how == DIES)
        kill(getpid(), SIGKILL);
    if (how == STALLS)
        kill(getpid(), SIGSTOP);
    if (how == SPINS)
        for (;;)
            sleep(1);
}

// One rank fails before its third collective: all others leave theirs with an error that names it,
// and one of them is to report it.
static int rank_fails(struct comm *c, void *arg)
{
    const struct failure *f = arg;
    const int rank = c->rank, reporter = f->rank == 0 && f->how != FAILS ? 1 : 0;
    int faults = 0, rc = 0;
    comm_set_timeout(c, 2.0);
    char named[32];
    snprintf(named, sizeof named, "rank %d", f->rank);
    for (int i = 0; rc == 0; i++) {
        bool flag = false;
        if (i == 2 && rank == f->rank && f->how == FAILS) {
            rc = err_set(ERR_NUMERIC, "the norm is nan");
            break;
        }
        if (i == 2 && rank == f->rank)
            fail_by(f->how);
        rc = comm_any(c, &flag);
    }
    CHECK(rc == (f->how == FAILS ? ERR_NUMERIC : ERR_ENV));
    if (f->how != FAILS || (rank != f->rank && f->rank != 0))
        CHECK(strstr(err_message(), named) != NULL);
    CHECK(f->how != DIES || strstr(err_message(), "has died") != NULL);
    CHECK((f->how != STALLS && f->how != SPINS) || strstr(err_message(), "has stalled") != NULL);
    CHECK(f->how != FAILS || strstr(err_message(), "the norm is nan") != NULL);
    const int ended = comm_close(c, rc);
    faults += ended != rc || (err_message()[0] != '\0') != (rank == reporter);
    return faults;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// limit: seconds, of which a busy machine may add some.
static void fails_within(enum end how, int rank, double limit)
{
    struct failure f = {how, rank};
    const double start = seconds();
    assert_int_equal(run_ranks(4, how == FAILS ? -1 : rank, rank_fails, &f), 0);
    if (seconds() - start > limit)
        fail_msg("it took %.1f s", seconds() - start);
}

static void a_rank_that_dies_is_named(void **state)
{
    (void)state;
    fails_within(DIES, 2, 10.0);
    fails_within(DIES, 0, 10.0);
}

static void a_rank_that_stalls_is_named(void **state)
{
    (void)state;
    fails_within(STALLS, 1, 15.0); // 2 s
    fails_within(STALLS, 0, 20.0); // 2 + 5 s
    fails_within(SPINS, 3, 15.0);  // its watch goes on
}

static void the_error_of_a_rank_is_that_of_all(void **state)
{
    (void)state;
    fails_within(FAILS, 3, 10.0);
    fails_within(FAILS, 0, 10.0);
}

static void a_rank_that_does_not_come_is_named(void **state)
{
    (void)state;
    struct comm c;
    struct comm_launch launch = {.rank = 0,
                                 .size = 3,
                                 .local_size = 3,
                                 .address = "127.0.0.1",
                                 .port = unused_port(),
                                 .open_timeout = 0.3};
    assert_int_equal(comm_open(&c, &launch), ERR_ENV);
    assert_non_null(strstr(err_message(), "2 of 3 ranks have not come in time, rank 1"));
    launch.rank = 2; // there is no rank 0
    launch.local_rank = 2;
    assert_int_equal(comm_open(&c, &launch), ERR_ENV);
    launch.rank = 3;
    assert_int_equal(comm_open(&c, &launch), ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_taken_in_pairs),
        cmocka_unit_test(sums_of_powers_of_two_stand_for_their_parts),
        cmocka_unit_test(bytes_go_to_whom_they_are_for),
        cmocka_unit_test(collectives_have_one_result_on_all_ranks),
        cmocka_unit_test(one_process_needs_no_others),
        cmocka_unit_test(ranks_that_disagree_are_named),
        cmocka_unit_test(a_rank_that_dies_is_named),
        cmocka_unit_test(a_rank_that_stalls_is_named),
        cmocka_unit_test(the_error_of_a_rank_is_that_of_all),
        cmocka_unit_test(a_rank_that_does_not_come_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
