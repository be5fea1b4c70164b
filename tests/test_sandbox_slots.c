// SPDX-License-Identifier: Apache-2.0
// Slots and jobs: order, replacement of boxes, what is left when a sandbox is closed, refusal.
// Where the box cannot be built, tests that need it are skipped with the reason.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "sandbox/sandbox.h"
#include "tests/left_behind.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// A sandbox of so many slots. Skips the test where none can be built.
static struct sandbox *open_slots(int slots, int retire_runs)
{
    struct sandbox *sb = NULL;
    const struct sandbox_options options = {.slots = slots, .retire_runs = retire_runs};
    if (sandbox_open(&sb, &options) != 0) {
        print_message("# %s\n", err_message());
        skip();
    }
    return sb;
}

static void results_come_back_in_order(void **state)
{
    (void)state;
    enum { N = 24 };
    char source[N][64];
    struct sandbox_job jobs[N] = {{0}};
    struct sandbox_result results[N];
    struct sandbox *many = open_slots(3, 4); // boxes are replaced meanwhile
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    for (int i = 0; i < N; i++) {
        snprintf(source[i], sizeof source[i], "import time\ntime.sleep(%d / 1000)\nprint(%d)",
                 (i * 7) % 5, i);
        jobs[i] =
            (struct sandbox_job){.source = source[i], .source_len = strlen(source[i]), .tests = t};
    }
    assert_int_equal(sandbox_run_batch(many, jobs, N, results), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(results[i].verdict, SANDBOX_OK);
        assert_int_equal(atoi(results[i].out), i);
        sandbox_result_clear(&results[i]);
    }
    sandbox_close(&many);
    sandbox_tests_free(&t);
}

static void jobs_may_be_collected_in_any_order(void **state)
{
    (void)state;
    struct sandbox *box = open_slots(1, 0);
    struct sandbox_tests *t = sandbox_tests_new_run("7\n", 2);
    const struct sandbox_job job = {.source = "print(input())", .source_len = 14, .tests = t};
    uint64_t ids[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(sandbox_submit(box, &job, &ids[i]), 0);
    for (int i = 2; i >= 0; i--) {
        struct sandbox_result r;
        assert_int_equal(sandbox_collect(box, ids[i], &r), 0);
        assert_string_equal(r.out, "7\n");
        sandbox_result_clear(&r);
    }
    sandbox_close(&box);
    sandbox_tests_free(&t);
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void results_are_reaped_as_they_come(void **state)
{
    (void)state;
    static const char *const sources[] = {"import time\ntime.sleep(0.5)\nprint('late')",
                                          "print('soon')"};
    enum { N = 2 };
    struct sandbox *box = open_slots(N, 0);
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    uint64_t ids[N], id = 0;
    struct sandbox_result r;
    assert_false(is_readable(sandbox_poll_fd(box)));
    assert_int_equal(sandbox_reap(box, &id, &r, 0), 0);
    for (int i = 0; i < N; i++) {
        const struct sandbox_job job = {
            .source = sources[i], .source_len = strlen(sources[i]), .tests = t};
        assert_int_equal(sandbox_submit(box, &job, &ids[i]), 0);
    }
    for (int i = N - 1; i >= 0; i--) {
        struct pollfd p = {.fd = sandbox_poll_fd(box), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        assert_int_equal(sandbox_reap(box, &id, &r, 0), 1);
        assert_int_equal(id, ids[i]);
        assert_string_equal(r.out, i == 0 ? "late\n" : "soon\n");
        sandbox_result_clear(&r);
    }
    assert_false(is_readable(sandbox_poll_fd(box)));
    const double begun = log_clock();
    assert_int_equal(sandbox_reap(box, &id, &r, 50), 0);
    assert_true(log_clock() - begun >= 0.05);
    // What cannot be run at all is told in the same way.
    const struct sandbox_job none = {.source = ""};
    assert_int_equal(sandbox_submit(box, &none, &ids[0]), 0);
    assert_true(is_readable(sandbox_poll_fd(box)));
    assert_int_equal(sandbox_reap(box, &id, &r, -1), 1);
    assert_int_equal(r.verdict, SANDBOX_INTERNAL);
    sandbox_result_clear(&r);
    sandbox_close(&box);
    sandbox_tests_free(&t);
}

static void languages_share_the_slots(void **state)
{
    (void)state;
    enum { N = 40, SLOTS = 2 };
    static const char *const sources[SANDBOX_LANGUAGES] = {
        [SANDBOX_PYTHON] = "print(input())",
        [SANDBOX_C] = "#include <stdio.h>\nint main(void) { int c; while ((c = getchar()) != EOF) "
                      "putchar(c); return 0; }"};
    struct sandbox *box = open_slots(SLOTS, 8);
    struct sandbox_job jobs[N];
    struct sandbox_result results[N];
    struct sandbox_tests *tests[N];
    for (int i = 0; i < N; i++) {
        char text[16];
        const enum sandbox_language l = i % 3 == 0 ? SANDBOX_C : SANDBOX_PYTHON;
        snprintf(text, sizeof text, "%d\n", i);
        tests[i] = sandbox_tests_new_run(text, strlen(text));
        jobs[i] = (struct sandbox_job){.language = l,
                                       .source = sources[l],
                                       .source_len = strlen(sources[l]),
                                       .tests = tests[i]};
    }
    assert_int_equal(sandbox_run_batch(box, jobs, N, results), 0);
    struct sandbox_counts n;
    sandbox_count(&n, box);
    assert_int_equal(n.verdicts[SANDBOX_OK] + n.verdicts[SANDBOX_INTERNAL], N);
    for (int i = 0; i < N; i++) {
        if (results[i].verdict == SANDBOX_INTERNAL && i % 3 == 0)
            print_message("# %s\n", results[i].detail); // no compiler
        else
            assert_int_equal(atoi(results[i].out), i);
        sandbox_result_clear(&results[i]);
        sandbox_tests_free(&tests[i]);
    }
    sandbox_close(&box);
}

static void closing_leaves_no_process(void **state)
{
    (void)state;
    // What loses its parent becomes a child of this process, so that it cannot be missed.
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    const int before = left_descendants();
    struct sandbox *other = open_slots(2, 0);
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    const char *source = "import time\ntime.sleep(60)";
    const struct sandbox_job job = {.source = source, .source_len = strlen(source), .tests = t};
    assert_int_equal(left_descendants(), before + 4); // a slot is a launcher and its PID 1
    uint64_t id;
    assert_int_equal(sandbox_submit(other, &job, &id), 0);
    const double give_up = log_clock() + 60;
    while (left_descendants() == before + 4 && log_clock() < give_up) // until the program runs
        sched_yield();
    assert_int_equal(left_descendants(), before + 5);
    sandbox_close(&other);
    assert_int_equal(left_descendants(), before);
    sandbox_tests_free(&t);
}

// Eight busy loops on one CPU, and the boxes on the same one.
enum { HOGS = 8 };

static void start_hogs(pid_t hogs[HOGS])
{
    for (int i = 0; i < HOGS; i++) {
        hogs[i] = fork();
        assert_true(hogs[i] >= 0);
        if (hogs[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (volatile unsigned turns = 0;; turns++)
                ;
        }
    }
}

static void stop_hogs(const pid_t hogs[HOGS])
{
    for (int i = 0; i < HOGS; i++) {
        kill(hogs[i], SIGKILL);
        waitpid(hogs[i], NULL, 0);
    }
}

// Runs a program whose wall-clock limit is 400 ms.
static struct sandbox_result run_hurried(struct sandbox *sb, const char *source)
{
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {.source = source,
                                    .source_len = strlen(source),
                                    .tests = t,
                                    .limits = {.cpu_ms = 5000, .wall_ms = 400}};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(sb, &job, 1, &r), 0);
    sandbox_tests_free(&t);
    return r;
}

static void waiting_for_a_processor_is_not_held_against_a_program(void **state)
{
    (void)state;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    struct sandbox *sb = open_slots(1, 0);
    pid_t hogs[HOGS];
    start_hogs(hogs);
    struct sandbox_result busy =
        run_hurried(sb, "import time\nwhile time.process_time() < 0.38: pass\nprint('done')");
    struct sandbox_result idle = run_hurried(sb, "import time\ntime.sleep(60)");
    stop_hogs(hogs);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_string_equal(sandbox_verdict_name(busy.verdict), "ok");
    assert_true(busy.wall_us > 400000); // else nothing was tried
    assert_string_equal(sandbox_verdict_name(idle.verdict), "wall");
    sandbox_result_clear(&busy);
    sandbox_result_clear(&idle);
    sandbox_close(&sb);
}

static struct sandbox_result run_plain(struct sandbox *sb, const char *source)
{
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {.source = source, .source_len = strlen(source), .tests = t};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(sb, &job, 1, &r), 0);
    sandbox_tests_free(&t);
    return r;
}

// A process that another thread forks while a program runs, and that has not executed anything yet,
// holds the pipes of that program after the supervisor has closed them: what the kernel still says
// of them is not to be taken for news of the next program, which closes its own early.
static void pipes_that_somebody_else_still_holds_do_not_matter(void **state)
{
    (void)state;
    struct sandbox *sb = open_slots(1, 0);
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    static const char slow[] = "import time\ntime.sleep(0.3)";
    const struct sandbox_job job = {.source = slow, .source_len = sizeof slow - 1, .tests = t};
    struct sandbox_result first;
    uint64_t id;
    assert_int_equal(sandbox_submit(sb, &job, &id), 0);
    usleep(100000); // its output is waited for by now
    const pid_t holder = fork();
    if (holder == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    assert_true(holder > 0);
    assert_int_equal(sandbox_collect(sb, id, &first), 0);
    struct sandbox_result second = run_plain(sb, "import os, time\nos.close(2)\ntime.sleep(0.1)");
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    assert_string_equal(sandbox_verdict_name(first.verdict), "ok");
    assert_string_equal(sandbox_verdict_name(second.verdict), "ok");
    sandbox_result_clear(&first);
    sandbox_result_clear(&second);
    sandbox_tests_free(&t);
    sandbox_close(&sb);
}

static void refuses_where_there_is_no_box(void **state)
{
    (void)state;
    struct sandbox *none = NULL;
    struct sandbox_options options = {.slots = 1, .box_path = "/nowhere/gradus-box"};
    assert_int_equal(sandbox_open(&none, &options), ERR_ENV);
    assert_null(none);
    assert_non_null(strstr(err_message(), "/nowhere/gradus-box"));
    options.box_path = "/bin/true"; // says nothing
    assert_int_equal(sandbox_open(&none, &options), ERR_ENV);
    assert_null(none);
    assert_non_null(strstr(err_message(), "not run without it"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_come_back_in_order),
        cmocka_unit_test(jobs_may_be_collected_in_any_order),
        cmocka_unit_test(results_are_reaped_as_they_come),
        cmocka_unit_test(languages_share_the_slots),
        cmocka_unit_test(closing_leaves_no_process),
        cmocka_unit_test(waiting_for_a_processor_is_not_held_against_a_program),
        cmocka_unit_test(pipes_that_somebody_else_still_holds_do_not_matter),
        cmocka_unit_test(refuses_where_there_is_no_box),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
