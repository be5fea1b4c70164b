// SPDX-License-Identifier: Apache-2.0
// Honest and hostile programs get their verdicts, leave nothing behind, and do not touch the next
// run. usage: test_sandbox [jail|cage]: the tier that is tried; cage only where there can be no
// jail. Where the box cannot be built, every test is skipped with the reason.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"
#include "sandbox/sandbox.h"
#include "tests/left_behind.h"
#include "tests/sandbox_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum sandbox_tier tier;
static struct sandbox *box; // one slot, so that a program is followed by the next in the same box;
                            // NULL: cannot be built

static int open_box(void **state)
{
    (void)state;
    const struct sandbox_options options = {.slots = 1, .tier = tier};
    if (sandbox_open(&box, &options) != 0) {
        print_message("# %s\n", err_message());
    } else if (sandbox_tier_of(box) != tier) {
        print_message("# there is a better tier here\n");
        sandbox_close(&box);
    }
    return 0;
}

static int close_box(void **state)
{
    (void)state;
    sandbox_close(&box);
    return 0;
}

static void need_box(void)
{
    if (box == NULL) {
        print_message("# the box cannot be built here\n");
        skip();
    }
}

static struct sandbox_tests *tests_of(const char *json)
{
    struct json_doc *doc = NULL;
    struct sandbox_tests *t = NULL;
    assert_int_equal(json_parse(&doc, json, strlen(json), 0, "tests", 1, ERR_DATA), 0);
    assert_int_equal(sandbox_tests_from_json(&t, doc, json_root(doc), "tests"), 0);
    json_free(&doc);
    return t;
}

// tests NULL: only run.
static struct sandbox_result run_with(enum sandbox_language language, const char *source,
                                      const struct sandbox_tests *tests,
                                      struct sandbox_limits limits)
{
    struct sandbox_tests *none = sandbox_tests_new_run("", 0);
    const struct sandbox_job job = {.language = language,
                                    .source = source,
                                    .source_len = strlen(source),
                                    .tests = tests != NULL ? tests : none,
                                    .limits = limits};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(box, &job, 1, &r), 0);
    sandbox_tests_free(&none);
    return r;
}

// ---- what is left

struct left {
    int processes, descriptors, mounts;
};

static struct left look(void)
{
    return (struct left){left_descendants(), left_descriptors(), left_mounts()};
}

// Whether the next program, on the same slot, finds itself alone in an empty place.
static bool next_run_is_well(void)
{
    static const char probe[] = "import os, threading\n"
                                "try: print(os.listdir('.'), os.listdir('/tmp'), os.getcwd())\n"
                                "except PermissionError: print('closed', os.getcwd())\n"
                                "print(sum(range(10)), threading.active_count(), "
                                "oct(os.umask(0)), sorted(os.environ))\n";
    static const char jail[] = "[] [] /box\n45 1 0o77 ['HOME', 'LANG', 'PATH']\n";
    static const char cage[] = "closed /\n45 1 0o77 ['HOME', 'LANG', 'PATH']\n";
    struct sandbox_result r = run_with(SANDBOX_PYTHON, probe, NULL, (struct sandbox_limits){0});
    const bool well =
        r.verdict == SANDBOX_OK && strcmp(r.out, tier == SANDBOX_JAIL ? jail : cage) == 0;
    if (!well)
        print_message("# the next run: %s (%s), printed \"%s\"\n", sandbox_verdict_name(r.verdict),
                      r.detail, r.out);
    sandbox_result_clear(&r);
    return well;
}

static bool is_left(const struct left *before)
{
    const struct left now = look();
    const bool same = now.processes == before->processes &&
                      now.descriptors == before->descriptors && now.mounts == before->mounts;
    if (!same)
        print_message("# processes %d -> %d, descriptors %d -> %d, mounts %d -> %d\n",
                      before->processes, now.processes, before->descriptors, now.descriptors,
                      before->mounts, now.mounts);
    return !same;
}

// ---- programs

static bool row_holds(const struct row *p)
{
    const bool caged = tier == SANDBOX_CAGE && p->cage != 0;
    const char *wanted = caged ? p->cage_says : p->says;
    struct sandbox_result r = run_with(p->language, p->source, NULL, p->limits);
    const bool verdict = (ANY(r.verdict) & (caged ? p->cage : p->verdicts)) != 0;
    const bool in_detail = wanted != NULL && wanted[0] == '~';
    const bool says = wanted == NULL || (in_detail ? strstr(r.detail, wanted + 1) != NULL
                                                   : r.out != NULL && strcmp(r.out, wanted) == 0);
    if (!verdict || !says || r.tier != tier)
        print_message("# %s: %s (%s), exit %d, signal %d, tier %s, printed \"%s\"\n", p->name,
                      sandbox_verdict_name(r.verdict), r.detail, r.exit_code, r.signal,
                      sandbox_tier_name(r.tier), r.out != NULL ? r.out : "");
    const bool holds = verdict && says && r.tier == tier;
    sandbox_result_clear(&r);
    return holds;
}

static void run_rows(const struct row *rows, int n)
{
    need_box();
    int failed = 0, left_out = 0;
    // The boxes of both languages are there before it is counted what there is.
    struct sandbox_result r =
        run_with(SANDBOX_C, "int main(void) { return 0; }", NULL, (struct sandbox_limits){0});
    const bool can_compile = r.verdict == SANDBOX_OK;
    if (!can_compile)
        print_message("# programs in C are left out: %s\n", r.detail);
    sandbox_result_clear(&r);
    const struct left before = look();
    for (int i = 0; i < n; i++) {
        if (rows[i].language == SANDBOX_C && !can_compile) {
            left_out++;
            continue;
        }
        const bool holds = row_holds(&rows[i]), well = next_run_is_well(), left = is_left(&before);
        if (!holds || !well || left)
            print_message("# ^ %s\n", rows[i].name);
        failed += !holds || !well || left;
    }
    print_message("# %d of %d programs get their verdict and leave nothing behind, %d left out%s\n",
                  n - failed - left_out, n, left_out,
                  before.mounts < 0 ? " (mounts cannot be looked at by this user)" : "");
    assert_int_equal(failed, 0);
    assert_true(can_compile || tier == SANDBOX_CAGE);
}

static void honest_programs_get_their_verdicts(void **state)
{
    (void)state;
    run_rows(rows_honest, rows_honest_num);
}

static void what_takes_too_much_is_ended(void **state)
{
    (void)state;
    run_rows(rows_resources, rows_resources_num);
}

static void nothing_gets_out(void **state)
{
    (void)state;
    run_rows(rows_escapes, rows_escapes_num);
    static const char *const places[] = {"/",        "/tmp", "/var/tmp", "/dev/shm",
                                         "/usr/lib", "/etc", "/dev",     "."};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/gradus-test-note", places[i]);
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

struct judged {
    const char *name;
    enum sandbox_verdict verdict;
    int passed;
    const char *source;
    const char *tests; // JSON
    bool weak;
};

#define ADD                                                                                        \
    "{\"entry\":\"add\",\"calls\":[{\"args\":[1,2],\"result\":3},{\"args\":[-1,1],\"result\":0}]}"
#define ONE(result)    "{\"entry\":\"f\",\"calls\":[{\"args\":[],\"result\":" result "}]}"
#define RETURNS(value) "def f(): return " value
#define FOUR           "[{\"stdin\":\"\",\"stdout\":\"4\"}]"
#define ASSERTS        "\"assert add(1, 2) == 3\\nassert add(-1, 1) == 0\\n\""
#define SUM            "\"assert add(1, 2) + 0 == 3\\n\""

static const struct judged judged[] = {
    {"right", SANDBOX_OK, 2, "def add(a, b): return a + b", ADD},
    {"wrong once", SANDBOX_WRONG, 1, "def add(a, b): return 3", ADD},
    {"raises once", SANDBOX_RUNTIME, 1,
     "def add(a, b):\n"
     "    if a < 0: raise ValueError('x')\n"
     "    return a + b",
     ADD},
    {"prints beside it", SANDBOX_OK, 2,
     "def add(a, b):\n"
     "    print('noise')\n"
     "    return a + b",
     ADD},
    {"no such function", SANDBOX_RUNTIME, 0, "def sub(a, b): return a - b", ADD},
    {"exits with 0", SANDBOX_INCOMPLETE, 0, "import sys\ndef add(a, b): sys.exit(0)", ADD},
    {"exits with 0 at once", SANDBOX_INCOMPLETE, 0, "import os\nos._exit(0)", ADD},
    {"right once, then exits with 0", SANDBOX_INCOMPLETE, 1,
     "import os\n"
     "def add(a, b):\n"
     "    if a < 0: os._exit(0)\n"
     "    return a + b",
     ADD},
    {"interrupts", SANDBOX_RUNTIME, 0, "def add(a, b): raise KeyboardInterrupt", ADD},
    {"all right, then fails", SANDBOX_RUNTIME, 2,
     "import atexit, os\n"
     "atexit.register(lambda: os._exit(1))\n"
     "def add(a, b): return a + b",
     ADD},
    {"equal to everything", SANDBOX_WRONG, 0,
     "class E:\n"
     "    def __eq__(s, o): return True\n"
     "def add(a, b): return E()",
     ADD},
    {"an int that is equal to everything", SANDBOX_WRONG, 0,
     "class E(int):\n"
     "    def __eq__(s, o): return True\n"
     "    def __hash__(s): return 0\n"
     "def add(a, b): return E(7)",
     ADD},
    {"a list subclass", SANDBOX_WRONG, 0,
     "class L(list): pass\n"
     "def f(): return L([1])",
     ONE("[1]")},
    {"a generator", SANDBOX_WRONG, 0, "def f(): yield 1", ONE("[1]")},
    {"patched builtins, json and sys", SANDBOX_WRONG, 0,
     "import builtins, json, sys\n"
     "builtins.isinstance = lambda *a: True\n"
     "builtins.repr = str = lambda *a: '3'\n"
     "json.dumps = lambda *a: '3'\n"
     "sys.stdout = None\n"
     "def add(a, b): return 4",
     ADD},
    {"patched output is its own affair", SANDBOX_OK, 2,
     "import sys, io\n"
     "sys.stdout = io.StringIO()\n"
     "def add(a, b): return a + b",
     ADD},
    {"garbage on every descriptor", SANDBOX_INCOMPLETE, 0,
     "import os\n"
     "for i in range(3, 64):\n"
     "    try: os.write(i, b'\\0' * 64)\n"
     "    except OSError: pass\n"
     "def add(a, b): return a + b",
     ADD},
    {"a forged record is an answer as good as its value", SANDBOX_WRONG, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('A'), 0, 0, 0, 6) + b'i' + struct.pack('<I', 1) + "
     "b'7')\n"
     "os.write(4, struct.pack('<BBHII', ord('A'), 0, 0, 1, 6) + b'i' + struct.pack('<I', 1) + "
     "b'7')\n"
     "os._exit(0)",
     ADD},
    {"a forged proof proves no calls", SANDBOX_INCOMPLETE, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('P'), 0, 0, 0, 16) + b'x' * 16)\n"
     "os._exit(0)",
     ADD},
    {"looks for what is expected in its frames", SANDBOX_RUNTIME, 0,
     "import sys, gc\n"
     "def add(a, b):\n"
     "    f = sys._getframe(1)\n"
     "    return f.f_locals['expected']",
     ADD},
    {"arguments are fresh for each call", SANDBOX_OK, 2,
     "def f(a):\n"
     "    a.append(1)\n"
     "    return a",
     "{\"entry\":\"f\",\"calls\":[{\"args\":[[0]],\"result\":[0,1]},{\"args\":[[0]],\"result\":[0,"
     "1]}]}"},
    {"True == 1 == 1.0", SANDBOX_OK, 1, RETURNS("[True, 1.0, 1, 1+0j, -0.0]"),
     ONE("[1,1,1.0,1,0]")},
    {"a tuple is no list", SANDBOX_WRONG, 0, RETURNS("(1,)"), ONE("[1]")},
    {"text is no bytes", SANDBOX_WRONG, 0, RETURNS("b'a'"), ONE("\"a\"")},
    {"NaN is not NaN", SANDBOX_WRONG, 0, RETURNS("[float('nan')]"), ONE("[0]")},
    {"0.1 + 0.2", SANDBOX_WRONG, 0, RETURNS("0.1 + 0.2"), ONE("0.3")},
    {"large integers", SANDBOX_OK, 1, RETURNS("[-10**30, 2**64, 10**22]"),
     ONE("[-1000000000000000000000000000000,18446744073709551616,1e22]")},
    {"dicts have no order", SANDBOX_OK, 1, RETURNS("{'b': [None], 'a': {'x': 'é'}}"),
     ONE("{\"a\":{\"x\":\"é\"},\"b\":[null]}")},
    {"dicts of collections are dicts", SANDBOX_OK, 1,
     "from collections import *\n"
     "d = defaultdict(int)\n"
     "d['a'] = 1\n"
     "def f(): return [Counter('a'), OrderedDict(a=1), d]",
     ONE("[{\"a\":1},{\"a\":1},{\"a\":1}]")},
    {"a value that is too long", SANDBOX_WRONG, 0, RETURNS("'x' * 2000000"), ONE("0")},
    {"a value that is too deep", SANDBOX_WRONG, 0,
     "def f():\n"
     "    a = []\n"
     "    for i in range(1000): a = [a]\n"
     "    return a",
     ONE("0")},
    {"a value that holds itself", SANDBOX_WRONG, 0,
     "def f():\n"
     "    a = []\n"
     "    a.append(a)\n"
     "    return a",
     ONE("0")},
    {"stdin", SANDBOX_OK, 2, "print(int(input()) * 2)",
     "[{\"stdin\":\"2\\n\",\"stdout\":\"4\\n\"},{\"stdin\":\"5\",\"stdout\":\"10\"}]"},
    {"stdin, white space at the ends", SANDBOX_OK, 1, "print('a  \\nb\\n\\n')",
     "[{\"stdin\":\"\",\"stdout\":\"a\\nb\"}]"},
    {"stdin, white space inside", SANDBOX_WRONG, 0, "print('a  b')",
     "[{\"stdin\":\"\",\"stdout\":\"a b\"}]"},
    {"stdin, all possible outputs", SANDBOX_WRONG, 0, "for i in range(100): print(i)",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"stdin, right output and a failure", SANDBOX_RUNTIME, 0,
     "print(4)\n"
     "1/0",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"stdin, right output on the wrong stream", SANDBOX_WRONG, 0,
     "import sys\n"
     "print(4, file=sys.stderr)",
     "[{\"stdin\":\"\",\"stdout\":\"4\"}]"},
    {"stdin, right output and more of it", SANDBOX_WRONG, 0,
     "import time\n"
     "print(4, flush=True)\n"
     "time.sleep(0.01)\n"
     "print(5)",
     FOUR},
    {"stdin, right output and a crash", SANDBOX_SIGNAL, 0,
     "import os\n"
     "print(4, flush=True)\n"
     "os.abort()",
     FOUR},
    {"stdin, another descriptor as output", SANDBOX_WRONG, 0,
     "import os\n"
     "os.dup2(2, 1)\n"
     "print(4)",
     FOUR},
    {"stdin, words of a test framework", SANDBOX_WRONG, 0,
     "print('1 passed in 0.01s\\nOK\\n__GRADUS_OK__')", FOUR},
    {"stdin, another four", SANDBOX_WRONG, 0, "print('\\uff14')", FOUR},
    {"stdin, exits before the output is written", SANDBOX_WRONG, 0,
     "import os\n"
     "print(4)\n"
     "os._exit(0)",
     FOUR},
    {"stdin, exactly", SANDBOX_WRONG, 0, "print(4)",
     "[{\"stdin\":\"\",\"stdout\":\"4\",\"compare\":\"exact\"}]"},
    {"stdin, by words", SANDBOX_OK, 1, "print(' 4 \\n\\n 5')",
     "[{\"stdin\":\"\",\"stdout\":\"4 5\",\"compare\":\"words\"}]"},
    {"stdin, by numbers", SANDBOX_OK, 1, "print(1/3)",
     "[{\"stdin\":\"\",\"stdout\":\"0.33333\",\"compare\":\"numbers\",\"tolerance\":1e-4}]"},
    {"stdin, by numbers, too far off", SANDBOX_WRONG, 0, "print(1/3)",
     "[{\"stdin\":\"\",\"stdout\":\"0.33333\",\"compare\":\"numbers\"}]"},
    {"skips its test", SANDBOX_RUNTIME, 0,
     "import unittest\n"
     "def add(a, b): raise unittest.SkipTest",
     ADD},
    {"a patched test framework", SANDBOX_WRONG, 0,
     "import unittest\n"
     "unittest.TestCase.assertEqual = lambda *a: None\n"
     "def check(f): pass\n"
     "def add(a, b): return 4",
     ADD},
    {"looks for tests in memory", SANDBOX_WRONG, 0,
     "import gc, sys\n"
     "def add(a, b):\n"
     "    for o in gc.get_objects() + list(sys.modules):\n"
     "        if isinstance(o, dict) and ('expected' in o or 'result' in o): return o['result']\n"
     "    return (sys.argv, vars(sys.modules['__main__']).keys() - {'gc', 'sys', 'add'})",
     ADD},
    {"watches its caller", SANDBOX_WRONG, 0,
     "import sys\n"
     "seen = []\n"
     "def watch(frame, event, arg):\n"
     "    seen.append(frame.f_locals)\n"
     "    return watch\n"
     "sys.settrace(watch); sys.setprofile(watch)\n"
     "def add(a, b): return seen[-1].get('expected', 5)",
     ADD},
    {"an object that is made when it is read", SANDBOX_WRONG, 0,
     "class E:\n"
     "    def __reduce__(s): return (int, (3,))\n"
     "    def __repr__(s):\n"
     "        while True: pass\n"
     "def add(a, b): return E()",
     ADD},
    {"a patched clock", SANDBOX_CPU, 0,
     "import time\n"
     "time.time = time.perf_counter = time.process_time = lambda: 0\n"
     "def add(a, b):\n"
     "    while True: pass",
     ADD},
    {"results without end", SANDBOX_OUTPUT, 0, "def add(a, b): return 'x' * 900000", ADD},
    {"a forged length", SANDBOX_INCOMPLETE, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('A'), 0, 0, 0, 0xffffffff))\n"
     "def add(a, b): return a + b",
     ADD},
    {"answers that were not asked for", SANDBOX_INCOMPLETE, 2,
     "import os, struct\n"
     "r = [struct.pack('<BBHII', ord('A'), 0, 0, i, 6) + b'i' + struct.pack('<I', 1) + v for i, v "
     "in "
     "((0, b'3'), (1, b'0'), (2, b'0'))]\n"
     "os.write(4, b''.join(r)); os._exit(0)",
     ADD},
    {"asserts as calls", SANDBOX_OK, 2, "def add(a, b): return a + b", ASSERTS},
    {"asserts as calls, equal to everything", SANDBOX_WRONG, 0,
     "class E:\n"
     "    def __eq__(s, o): return True\n"
     "def add(a, b): return E()",
     ASSERTS},
    {"asserts as calls, exit", SANDBOX_INCOMPLETE, 0, "def add(a, b): raise SystemExit", ASSERTS},
    {"asserts in the process", SANDBOX_OK, 1, "def add(a, b): return a + b", SUM, true},
    {"asserts in the process, wrong", SANDBOX_WRONG, 0, "def add(a, b): return 4", SUM, true},
    {"asserts in the process, exit", SANDBOX_INCOMPLETE, 0,
     "import sys\n"
     "def add(a, b): sys.exit(0)",
     SUM, true},
    {"asserts in the process, os._exit", SANDBOX_INCOMPLETE, 0,
     "import os\n"
     "os._exit(0)",
     SUM, true},
    {"asserts in the process, another AssertionError", SANDBOX_WRONG, 0,
     "import builtins\n"
     "builtins.AssertionError = type('X', (BaseException,), {})\n"
     "def add(a, b): return 0",
     SUM, true},
    {"asserts in the process, guessed proof", SANDBOX_INCOMPLETE, 0,
     "import os, struct\n"
     "os.write(4, struct.pack('<BBHII', ord('P'), 0, 0, 0, 16) + b'x' * 16)\n"
     "os._exit(0)",
     SUM, true},
};

static void results_are_compared_outside_the_program(void **state)
{
    (void)state;
    need_box();
    int failed = 0;
    for (size_t i = 0; i < sizeof judged / sizeof *judged; i++) {
        const struct judged *j = &judged[i];
        struct sandbox_tests *t = tests_of(j->tests);
        struct sandbox_result r =
            run_with(SANDBOX_PYTHON, j->source, t, (struct sandbox_limits){0});
        if (r.verdict != j->verdict || r.tests_passed != j->passed || r.weak != j->weak) {
            print_message("# %s: %s (%s), %d of %d passed%s\n", j->name,
                          sandbox_verdict_name(r.verdict), r.detail, r.tests_passed, r.tests_total,
                          r.weak ? ", weakly" : "");
            failed++;
        }
        sandbox_result_clear(&r);
        sandbox_tests_free(&t);
    }
    assert_int_equal(failed, 0);
}

// Input that nobody reads, and more output than a pipe holds, at once.
static void large_input_and_output_do_not_block(void **state)
{
    (void)state;
    need_box();
    enum { SIZE = 4 << 20 };
    char *input = mem_alloc(SIZE);
    memset(input, 'x', SIZE);
    struct sandbox_tests *t = sandbox_tests_new_run(input, SIZE);
    const struct {
        enum sandbox_language language;
        const char *source;
        enum sandbox_verdict verdict;
    } programs[] = {
        {SANDBOX_PYTHON, "print('y' * 1000000, end='')", SANDBOX_OK},
        {SANDBOX_PYTHON, "import sys\nsys.exit(len(sys.stdin.read()) != 4 << 20)", SANDBOX_OK},
        {SANDBOX_C,
         "#include <stdio.h>\nint main(void) { for (int i = 0; i < 1000000; i++) putchar('y'); }",
         SANDBOX_OK},
    };
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (programs[i].language == SANDBOX_C && tier == SANDBOX_CAGE)
            continue;
        struct sandbox_result r =
            run_with(programs[i].language, programs[i].source, t, (struct sandbox_limits){0});
        assert_string_equal(sandbox_verdict_name(r.verdict),
                            sandbox_verdict_name(programs[i].verdict));
        sandbox_result_clear(&r);
    }
    sandbox_tests_free(&t);
    free(input);
}

static void compiled_programs_are_judged_by_standard_input(void **state)
{
    (void)state;
    need_box();
    if (tier == SANDBOX_CAGE) {
        print_message("# tier cage compiles nothing\n");
        skip();
    }
    static const char sum[] = "#include <stdio.h>\n"
                              "int main(void) { int a, b; scanf(\"%d%d\", &a, &b); "
                              "printf(\"%d\\n\", a + b); return 0; }";
    static const char early[] = "#include <stdlib.h>\nint main(void) { exit(0); }";
    static const char sums[] = "[{\"stdin\":\"1 2\",\"stdout\":\"3\"},"
                               "{\"stdin\":\"4 5\",\"stdout\":\"9\"},"
                               "{\"stdin\":\"4 5\",\"stdout\":\"8\"}]";
    static const struct {
        const char *source, *tests;
        enum sandbox_verdict verdict;
        int passed;
    } cases[] = {
        {sum, "[{\"stdin\":\"1 2\",\"stdout\":\"3\"},{\"stdin\":\"4 5\",\"stdout\":\"9\"}]",
         SANDBOX_OK, 2},
        {sum, sums, SANDBOX_WRONG, 2},
        {early, sums, SANDBOX_WRONG, 0},
        {"int main(void) { return 0 }", sums, SANDBOX_COMPILE, 0},
        {sum, ADD, SANDBOX_INTERNAL, 0},
        {sum, ASSERTS, SANDBOX_INTERNAL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sandbox_tests *t = tests_of(cases[i].tests);
        struct sandbox_result r =
            run_with(SANDBOX_C, cases[i].source, t, (struct sandbox_limits){0});
        if (r.verdict != cases[i].verdict || r.tests_passed != cases[i].passed)
            fail_msg("case %zu: %s (%s), %d passed", i, sandbox_verdict_name(r.verdict), r.detail,
                     r.tests_passed);
        sandbox_result_clear(&r);
        sandbox_tests_free(&t);
    }
}

static void a_program_without_tests_is_never_ok(void **state)
{
    (void)state;
    need_box();
    const struct sandbox_job job = {.source = "", .source_len = 0};
    struct sandbox_result r;
    assert_int_equal(sandbox_run_batch(box, &job, 1, &r), 0);
    assert_int_equal(r.verdict, SANDBOX_INTERNAL);
    sandbox_result_clear(&r);
    static const char *const bad[] = {
        "[]",
        "{\"entry\":\"f\",\"calls\":[]}",
        "\" \\n\"",
        "3",
        "[{\"stdin\":\"\"}]",
        "[{\"stdin\":\"\",\"stdout\":\"\",\"compare\":\"no\"}]",
        "[{\"stdin\":\"\",\"stdout\":\"\",\"tolerance\":1}]",
        "[{\"stdin\":\"\",\"stdout\":\"\",\"compare\":\"numbers\",\"tolerance\":-1}]",
        "{\"entry\":\"f\",\"calls\":[{\"args\":3,\"result\":1}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json_doc *doc = NULL;
        struct sandbox_tests *t = NULL;
        assert_int_equal(json_parse(&doc, bad[i], strlen(bad[i]), 0, "tests", 7, ERR_DATA), 0);
        assert_int_equal(sandbox_tests_from_json(&t, doc, json_root(doc), "tests"), ERR_DATA);
        assert_null(t);
        assert_non_null(strstr(err_message(), "tests:7: "));
        json_free(&doc);
    }
}

int main(int argc, char **argv)
{
    if (argc > 2 || (argc == 2 && !sandbox_tier_find(&tier, argv[1]))) {
        fprintf(stderr, "usage: test_sandbox [jail|cage]\n");
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(honest_programs_get_their_verdicts),
        cmocka_unit_test(what_takes_too_much_is_ended),
        cmocka_unit_test(nothing_gets_out),
        cmocka_unit_test(results_are_compared_outside_the_program),
        cmocka_unit_test(large_input_and_output_do_not_block),
        cmocka_unit_test(compiled_programs_are_judged_by_standard_input),
        cmocka_unit_test(a_program_without_tests_is_never_ok),
    };
    return cmocka_run_group_tests(tests, open_box, close_box);
}
