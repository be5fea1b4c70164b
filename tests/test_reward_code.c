// SPDX-License-Identifier: Apache-2.0
// The scorer "code": which program a completion holds, and what it is worth.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "reward/code.h"

#include <string.h>

static void programs_are_found_in_completions(void **state)
{
    (void)state;
    static const struct {
        const char *prompt, *completion, *program;
    } rows[] = {
        {NULL, "print(1)", "print(1)"},
        {NULL, "So:\n```python\nprint(1)\n```\nDone.", "print(1)\n"},
        {NULL, "```\na\n```\nor\n```py\nb\n```\n", "b\n"},
        {NULL, "```python\nprint(1)\n", "print(1)\n"},
        {NULL, "```python", ""},
        {"def f(x):\n", "    return x\n", "def f(x):\n    return x\n"},
        {"def f(x):\n", "\n    return x\n", "def f(x):\n\n    return x\n"},
        {"def f(x):\n", "def f(x): return x\n", "def f(x): return x\n"},
        {"Write it.", "  x = 1\n", "  x = 1\n"},
        {NULL, "", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct strbuf out = {0};
        code_extract(&out, rows[i].prompt, rows[i].completion, strlen(rows[i].completion));
        assert_string_equal(out.len > 0 ? out.data : "", rows[i].program);
        strbuf_free(&out);
    }
}

static struct sandbox *open_box(void)
{
    struct sandbox *sb = NULL;
    if (sandbox_open(&sb, NULL) != 0) {
        print_message("# %s\n", err_message());
        skip();
    }
    return sb;
}

enum { N = 8 };
static const char tests_json[] =
    "{\"entry\":\"f\",\"calls\":[{\"args\":[1],\"result\":1},{\"args\":[2],\"result\":4},"
    "{\"args\":[3],\"result\":9},{\"args\":[4],\"result\":16}]}";
static const struct {
    const char *program;
    double whole, share;
    const char *reason; // begins so
} scored[N] = {
    {"def f(x): return x * x", 1, 1, ""},
    {"def f(x): return 4", 0, 0.25, "wrong: "},
    {"def f(x): return x * x if x < 3 else 1 / 0", 0, 0.5, "runtime: "},
    {"def f(x):\n    if x == 4: raise SystemExit\n    return x * x", 0, 0.75, "incomplete: "},
    {"import os, atexit\natexit.register(os._exit, 3)\ndef f(x): return x * x", 0, 0.75,
     "runtime: "},
    {"import os, atexit\natexit.register(os.execv, '/x', ['x'])\ndef f(x): return x * x", 0, 0,
     "violation: "},
    {"def f(", 0, 0, "runtime: SyntaxError"},
    {"", 0, 0, "runtime: NameError"},
};

// Scores all programs, those from `first` on (N: none) begun before, in reverse, and a number of
// others that are never asked for.
static void score_all(struct sandbox *sb, const struct reward_reference *ref, bool fraction,
                      int first)
{
    const struct code_scorer_options options = {.fraction = fraction};
    struct reward_scorer scorer;
    struct arena arena = {0};
    struct reward_item items[N];
    struct reward_result results[N];
    assert_int_equal(code_scorer_open(&scorer, sb, &options), 0);
    for (int i = 0; i < N; i++)
        items[i] = (struct reward_item){.completion = scored[i].program,
                                        .len = strlen(scored[i].program),
                                        .ref = ref,
                                        .ticket = i + 1};
    for (int i = N; first < N && i-- > first;) {
        struct reward_item other = items[i];
        other.completion = "no program";
        other.len = strlen(other.completion);
        scorer.begin(scorer.state, &other); // of a batch that came to nothing
        scorer.begin(scorer.state, &items[i]);
        other.ticket = N + 1 + i;
        scorer.begin(scorer.state, &other);
    }
    assert_int_equal(scorer.score(scorer.state, &arena, results, items, N), 0);
    for (int i = 0; i < N; i++) {
        assert_true(results[i].valid);
        assert_true(results[i].value == (fraction ? scored[i].share : scored[i].whole));
        assert_int_equal(strncmp(results[i].reason, scored[i].reason, strlen(scored[i].reason)), 0);
    }
    scorer.close(scorer.state);
    arena_free(&arena);
}

static void only_a_program_that_ends_well_is_worth_one(void **state)
{
    (void)state;
    struct sandbox *sb = open_box();
    struct json_doc *doc = NULL;
    assert_int_equal(json_parse(&doc, tests_json, strlen(tests_json), 0, "tests", 1, ERR_DATA), 0);
    const struct reward_reference ref = {.doc = doc, .tests = json_root(doc)};
    score_all(sb, &ref, false, N);
    score_all(sb, &ref, true, N);
    score_all(sb, &ref, false, 0);
    score_all(sb, &ref, true, N / 2);
    json_free(&doc);
    sandbox_close(&sb);
}

static void without_tests_there_is_no_score(void **state)
{
    (void)state;
    struct sandbox *sb = open_box();
    const struct code_scorer_options options = {0};
    struct reward_scorer scorer;
    struct arena arena = {0};
    const struct reward_reference none = {0};
    const struct reward_item item = {.completion = "", .ref = &none};
    struct reward_result result;
    assert_int_equal(code_scorer_open(&scorer, sb, &options), 0);
    assert_int_equal(scorer.score(scorer.state, &arena, &result, &item, 1), 0);
    assert_false(result.valid);
    assert_non_null(strstr(result.reason, "no tests"));
    scorer.close(scorer.state);
    arena_free(&arena);
    sandbox_close(&sb);
}

// Asserts that are no calls run in the program's own process, whatever comes of it.
static void tests_within_reach_of_the_program_are_weak(void **state)
{
    (void)state;
    static const struct {
        const char *tests, *program;
        double value;
        bool weak;
    } rows[] = {
        {tests_json, "def f(x): return x * x", 1, false},
        {"\"assert f(2) == 4\"", "def f(x): return x * x", 1, false},
        {"\"assert f(2) < 5\"", "def f(x): return x * x", 1, true},
        {"\"assert f(2) < 5\"", "def f(x): return x * x * x", 0, true},
    };
    struct sandbox *sb = open_box();
    const struct code_scorer_options options = {0};
    struct reward_scorer scorer;
    assert_int_equal(code_scorer_open(&scorer, sb, &options), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct arena arena = {0};
        struct json_doc *doc = NULL;
        struct reward_result result;
        assert_int_equal(
            json_parse(&doc, rows[i].tests, strlen(rows[i].tests), 0, "tests", 1, ERR_DATA), 0);
        const struct reward_reference ref = {.doc = doc, .tests = json_root(doc)};
        const struct reward_item item = {
            .completion = rows[i].program, .len = strlen(rows[i].program), .ref = &ref};
        assert_int_equal(scorer.score(scorer.state, &arena, &result, &item, 1), 0);
        assert_true(result.valid && result.value == rows[i].value);
        assert_int_equal(result.weak, rows[i].weak);
        json_free(&doc);
        arena_free(&arena);
    }
    scorer.close(scorer.state);
    sandbox_close(&sb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(programs_are_found_in_completions),
        cmocka_unit_test(only_a_program_that_ends_well_is_worth_one),
        cmocka_unit_test(without_tests_there_is_no_score),
        cmocka_unit_test(tests_within_reach_of_the_program_are_weak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
