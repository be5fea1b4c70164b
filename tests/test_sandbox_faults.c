// SPDX-License-Identifier: Apache-2.0
// Every system call of a box's set-up fails once, one after the other: the sandbox then refuses, or
// has no verdict; it never says ok. usage: test_sandbox_faults [jail|cage]
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/sandbox.h"
#include "tests/left_behind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum sandbox_tier tier;
static char *folder; // holds the link to fault_box, the plan and the log

// Beside this program, in the build tree.
static char *beside(const char *name)
{
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    *strrchr(self, '/') = 0;
    return path_join(self, name);
}

static int make_folder(void **state)
{
    (void)state;
    char name[] = "/tmp/gradus-faults-XXXXXX";
    assert_non_null(mkdtemp(name));
    folder = mem_strdup(name);
    assert_int_equal(chmod(folder, 0755), 0);
    char *from = beside("fault_box"), *to = path_join(folder, "box");
    assert_int_equal(access(from, X_OK), 0);
    assert_int_equal(symlink(from, to), 0);
    free(from);
    free(to);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"box", "plan", "log"};
    for (int i = 0; i < 3; i++) {
        char *path = path_join(folder, names[i]);
        (void)unlink(path);
        free(path);
    }
    (void)rmdir(folder);
    free(folder);
    return 0;
}

static void write_plan(enum sandbox_language language, int fail)
{
    char *box = beside("../sandbox/gradus-box"), *path = path_join(folder, "plan"),
         *log = path_join(folder, "log");
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fprintf(f, "%s %s %s %d\n", box, sandbox_tier_name(tier), sandbox_language_name(language),
            fail);
    assert_int_equal(fclose(f), 0);
    (void)unlink(log);
    free(box);
    free(path);
    free(log);
}

// How many calls the last box made, and which of them failed.
static int read_log(char *failed, size_t size)
{
    struct strbuf text = {0};
    char *path = path_join(folder, "log");
    int count = 0, at = 0;
    failed[0] = 0;
    if (file_read(&text, path, 0, ERR_ENV) == 0 && sscanf(text.data, "%d %n", &count, &at) == 1)
        snprintf(failed, size, "%.*s", (int)strcspn(text.data + at, "\n"), text.data + at);
    strbuf_free(&text);
    free(path);
    return count;
}

enum outcome { REFUSED, INTERNAL, OK_ANYWAY, OTHER };

static enum outcome try_once(enum sandbox_language language, char *said, size_t size)
{
    static const char *const honest[SANDBOX_LANGUAGES] = {
        [SANDBOX_PYTHON] = "print(open('x', 'w').write('x') if __import__('os').getcwd() == '/box' "
                           "else 1)",
        [SANDBOX_C] = "#include <stdio.h>\nint main(void) { puts(\"1\"); return 0; }"};
    char *path = path_join(folder, "box");
    const struct sandbox_options options = {.slots = 1, .tier = tier, .box_path = path};
    struct sandbox *sb = NULL;
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {.language = language,
                                    .source = honest[language],
                                    .source_len = strlen(honest[language]),
                                    .tests = none};
    struct sandbox_result r = {0};
    enum outcome out = REFUSED;
    if (sandbox_open(&sb, &options) == 0 && sandbox_run_batch(sb, &job, 1, &r) == 0) {
        out = r.verdict == SANDBOX_INTERNAL ? INTERNAL
              : r.verdict == SANDBOX_OK     ? OK_ANYWAY
                                            : OTHER;
        snprintf(said, size, "%s (%s)", sandbox_verdict_name(r.verdict), r.detail);
    } else {
        snprintf(said, size, "%s", err_message());
    }
    sandbox_result_clear(&r);
    sandbox_close(&sb);
    sandbox_tests_free(&none);
    free(path);
    return out;
}

static void every_call_fails_once(enum sandbox_language language)
{
    char said[1024], failed[256] = "";
    write_plan(language, 0);
    const enum outcome without = try_once(language, said, sizeof said);
    if (without == REFUSED || without == INTERNAL) {
        print_message("# %s\n", said);
        skip();
    }
    assert_int_equal(without, OK_ANYWAY);
    const int calls = read_log(failed, sizeof failed);
    assert_true(calls > 30); // else the watcher saw nothing
    int outcomes[4] = {0}, not_made = 0;
    for (int k = 1; k <= calls; k++) {
        write_plan(language, k);
        const enum outcome o = try_once(language, said, sizeof said);
        (void)read_log(failed, sizeof failed);
        not_made += failed[0] == 0;
        outcomes[o] += failed[0] != 0;
        if (failed[0] != 0 && (o == OK_ANYWAY || o == OTHER))
            print_message("# call %d of %d, %s: %s\n", k, calls, failed, said);
        assert_int_equal(left_descendants(), 0);
    }
    print_message("# %d calls fail: %d times refused, %d times no verdict\n", calls - not_made,
                  outcomes[REFUSED], outcomes[INTERNAL]);
    assert_int_equal(outcomes[OK_ANYWAY] + outcomes[OTHER], 0);
    // How often the CPU clock is read depends on the time of day: the last calls may not be made.
    assert_true(not_made <= 4);
}

static void a_fault_in_the_set_up_of_python_is_never_ok(void **state)
{
    (void)state;
    every_call_fails_once(SANDBOX_PYTHON);
}

static void a_fault_in_the_set_up_of_c_is_never_ok(void **state)
{
    (void)state;
    every_call_fails_once(SANDBOX_C);
}

int main(int argc, char **argv)
{
    if (argc > 2 || (argc == 2 && !sandbox_tier_find(&tier, argv[1]))) {
        fprintf(stderr, "usage: test_sandbox_faults [jail|cage]\n");
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fault_in_the_set_up_of_python_is_never_ok),
        cmocka_unit_test(a_fault_in_the_set_up_of_c_is_never_ok),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
