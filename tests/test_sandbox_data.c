// SPDX-License-Identifier: Apache-2.0
// Published problems in the sandbox: every reference solution passes, every cheat of the
// adversarial set gets the verdict that it must, and references that were damaged fail.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/mem.h"
#include "sandbox/sandbox.h"
#include "tests/data_rows.h"

#include <stdlib.h>

static struct sandbox *box; // NULL: cannot be built

static int open_box(void **state)
{
    (void)state;
    if (sandbox_open(&box, NULL) != 0)
        print_message("# %s\n", err_message());
    return 0;
}

static int close_box(void **state)
{
    (void)state;
    sandbox_close(&box);
    return 0;
}

enum { ROWS_MAX = 1000 };

struct batch {
    int count, weak;
    struct sandbox_job jobs[ROWS_MAX];
    struct sandbox_tests *tests[ROWS_MAX];
    char *sources[ROWS_MAX], *names[ROWS_MAX];
    struct sandbox_result results[ROWS_MAX];
};

static void add(struct batch *b, const struct json_doc *doc, const char *name, const char *head,
                const char *source)
{
    struct strbuf text = {0};
    const int i = b->count++;
    assert_true(i < ROWS_MAX);
    assert_int_equal(sandbox_tests_from_row(&b->tests[i], doc, json_root(doc), name), 0);
    strbuf_puts(&text, head);
    strbuf_puts(&text, source);
    b->jobs[i] = (struct sandbox_job){.source_len = text.len, .tests = b->tests[i]};
    b->sources[i] = strbuf_take(&text);
    b->jobs[i].source = b->sources[i];
    b->names[i] = mem_strdup(name);
}

static const char *text_of(const struct json_doc *doc, const char *key)
{
    const char *s = json_string(json_get(json_root(doc), key));
    assert_non_null(s);
    return s;
}

static void add_humaneval(void *arg, const struct json_doc *doc)
{
    add(arg, doc, text_of(doc, "task_id"), text_of(doc, "prompt"),
        text_of(doc, "canonical_solution"));
}

static void add_humaneval_body(struct batch *b, const struct json_doc *doc, const char *body)
{
    add(b, doc, text_of(doc, "task_id"), text_of(doc, "prompt"), body);
}

static void add_humaneval_nothing(void *arg, const struct json_doc *doc)
{
    add_humaneval_body(arg, doc, "    return None\n");
}

static void add_humaneval_everything(void *arg, const struct json_doc *doc)
{
    add_humaneval_body(arg, doc,
                       "    class Yes(int):\n        def __eq__(self, other): return True\n        "
                       "def __bool__(self): return True\n"
                       "        def __hash__(self): return 0\n    return Yes(1)\n");
}

static void add_mbpp(void *arg, const struct json_doc *doc)
{
    char name[32];
    int64_t id = 0;
    assert_true(json_int(doc, json_get(json_root(doc), "task_id"), 0, 100000, &id));
    snprintf(name, sizeof name, "MBPP/%d", (int)id);
    add(arg, doc, name, "", text_of(doc, "code"));
}

static void add_adversarial(void *arg, const struct json_doc *doc)
{
    struct strbuf name = {0};
    strbuf_printf(&name, "%s, expected %s", text_of(doc, "id"), text_of(doc, "expected"));
    add(arg, doc, name.data, "", text_of(doc, "program"));
    strbuf_free(&name);
}

static void run(struct batch *b)
{
    assert_int_equal(sandbox_run_batch(box, b->jobs, b->count, b->results), 0);
    for (int i = 0; i < b->count; i++)
        b->weak += b->results[i].weak;
}

static void say(const struct batch *b, int i)
{
    print_message("# %s: %s (%s)%s\n", b->names[i], sandbox_verdict_name(b->results[i].verdict),
                  b->results[i].detail, b->results[i].weak ? ", weakly" : "");
}

static void batch_free(struct batch *b)
{
    for (int i = 0; i < b->count; i++) {
        sandbox_result_clear(&b->results[i]);
        sandbox_tests_free(&b->tests[i]);
        free(b->sources[i]);
        free(b->names[i]);
    }
    free(b);
}

static struct batch *rows(const char *file, void (*fn)(void *, const struct json_doc *))
{
    if (box == NULL) {
        print_message("# the box cannot be built here\n");
        skip();
    }
    struct batch *b = mem_alloc0(sizeof *b);
    data_rows(file, fn, b);
    return b;
}

static void all_pass(const char *file, void (*fn)(void *, const struct json_doc *))
{
    struct batch *b = rows(file, fn);
    int failed = 0;
    for (int i = 0; i < b->count; i++) // the references of a few problems are slow
        b->jobs[i].limits = (struct sandbox_limits){.cpu_ms = 20000};
    run(b);
    for (int i = 0; i < b->count; i++) {
        if (b->results[i].verdict != SANDBOX_OK) {
            say(b, i);
            failed++;
        }
    }
    print_message("# %d references pass, %d of them by tests inside the program's process\n",
                  b->count - failed, b->weak);
    batch_free(b);
    assert_int_equal(failed, 0);
}

static void humaneval_references_pass(void **state)
{
    (void)state;
    all_pass("data/code/HumanEval.jsonl.gz", add_humaneval);
}

static void mbpp_references_pass(void **state)
{
    (void)state;
    all_pass("data/code/mbpp.jsonl.gz", add_mbpp);
}

// Wrong everywhere: what passes was not tested. Tests inside the process are known to be open to
// objects that equal everything.
static void none_pass(void (*fn)(void *, const struct json_doc *), bool weak_too)
{
    struct batch *b = rows("data/code/HumanEval.jsonl.gz", fn);
    int passed = 0, weak = 0;
    run(b);
    for (int i = 0; i < b->count; i++) {
        const bool ok =
            b->results[i].verdict == SANDBOX_OK || b->results[i].verdict == SANDBOX_INTERNAL;
        weak += ok && b->results[i].weak;
        if (ok && (weak_too || !b->results[i].weak)) {
            say(b, i);
            passed++;
        }
    }
    print_message("# of %d programs none passes by calls, %d weakly\n", b->count, weak);
    batch_free(b);
    assert_int_equal(passed, 0);
}

static void returning_nothing_passes_nowhere(void **state)
{
    (void)state;
    none_pass(add_humaneval_nothing, true);
}

static void equal_to_everything_passes_no_calls(void **state)
{
    (void)state;
    none_pass(add_humaneval_everything, false);
}

#define ANY(v) (1u << (v))

// The set's words in ours.
static unsigned verdicts_of(const char *word)
{
    static const struct {
        const char *word;
        unsigned verdicts;
    } words[] = {
        {"pass", ANY(SANDBOX_OK)},
        {"fail",
         ANY(SANDBOX_WRONG) | ANY(SANDBOX_INCOMPLETE) | ANY(SANDBOX_RUNTIME) | ANY(SANDBOX_SIGNAL)},
        {"error", ANY(SANDBOX_RUNTIME) | ANY(SANDBOX_VIOLATION)},
        {"timeout", ANY(SANDBOX_CPU) | ANY(SANDBOX_WALL) | ANY(SANDBOX_OUTPUT)},
        {"oom", ANY(SANDBOX_MEMORY)},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(word, words[i].word) == 0)
            return words[i].verdicts;
    }
    fail_msg("no such word: %s", word);
    return 0;
}

static void adversarial_programs_get_their_verdicts(void **state)
{
    (void)state;
    struct batch *b = rows("data/code/adversarial_code.jsonl", add_adversarial);
    int wrong = 0;
    for (int i = 0; i < b->count; i++)
        b->jobs[i].limits = (struct sandbox_limits){.cpu_ms = 500, .wall_ms = 1500};
    run(b);
    for (int i = 0; i < b->count; i++) {
        const char *word = strrchr(b->names[i], ' ') + 1;
        if ((verdicts_of(word) & ANY(b->results[i].verdict)) == 0) {
            say(b, i);
            wrong++;
        }
    }
    print_message("# %d of %d programs get their verdict\n", b->count - wrong, b->count);
    batch_free(b);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(humaneval_references_pass),
        cmocka_unit_test(mbpp_references_pass),
        cmocka_unit_test(returning_nothing_passes_nowhere),
        cmocka_unit_test(equal_to_everything_passes_no_calls),
        cmocka_unit_test(adversarial_programs_get_their_verdicts),
    };
    return cmocka_run_group_tests(tests, open_box, close_box);
}
