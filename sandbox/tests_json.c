// SPDX-License-Identifier: Apache-2.0
// Tests out of rows of data: our own `tests`, and the fields of HumanEval and MBPP.
#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"
#include "sandbox/tests.h"
#include "sandbox/value.h"
#include "sandbox/wire.h"

#include <stdlib.h>
#include <string.h>

struct source {
    const struct json_doc *doc;
    const char *name;
};

static int fault(const struct source *s, const struct json *v, const char *what)
{
    return err_set(ERR_DATA, "%s:%d: %s", s->name, json_line(s->doc, v), what);
}

// A number as Python's json module reads it: an int of any size when it is written without '.' and
// exponent, else a float.
static bool put_number(struct strbuf *out, const struct source *s, const struct json *v)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_put_value(&w, s->doc, v);
    double d = 0;
    bool ok = true;
    if (strpbrk(text.data, ".eE") != NULL && json_double(v, &d))
        value_put_float(out, d);
    else
        ok = value_put_decimal(out, text.data);
    strbuf_free(&text);
    return ok;
}

// Depth is bounded by the JSON reader.
static int put_json(struct strbuf *out, const struct source *s, const struct json *v)
{
    bool b = false;
    int rc = 0;
    switch (json_type(v)) {
    case JSON_NULL:
        value_put_none(out);
        return 0;
    case JSON_BOOL:
        (void)json_bool(v, &b);
        value_put_bool(out, b);
        return 0;
    case JSON_NUMBER:
        return put_number(out, s, v) ? 0 : fault(s, v, "a number with more than 4300 digits");
    case JSON_STRING:
        value_put_str(out, json_string(v), strlen(json_string(v)));
        return 0;
    case JSON_ARRAY:
    case JSON_OBJECT:
        value_put_container(out, json_type(v) == JSON_ARRAY ? WIRE_LIST : WIRE_DICT,
                            (uint32_t)json_count(v));
        for (const struct json *c = json_first(v); c != NULL && rc == 0; c = json_next(c)) {
            if (json_key(c) != NULL)
                value_put_str(out, json_key(c), strlen(json_key(c)));
            rc = put_json(out, s, c);
        }
        return rc;
    }
    return 0;
}

// How its output is compared: "compare", and for numbers "tolerance" (1e-6).
static int read_compare(struct tests_case *c, const struct source *s, const struct json *test)
{
    const struct json *mode = json_get(test, "compare"), *tolerance = json_get(test, "tolerance");
    c->tolerance = 1e-6;
    if (mode != NULL &&
        (json_string(mode) == NULL || !compare_mode_find(&c->compare, json_string(mode))))
        return fault(s, mode,
                     "\"compare\" must be \"lines\", \"exact\", \"words\" or "
                     "\"numbers\"");
    if (tolerance != NULL && (c->compare != COMPARE_NUMBERS ||
                              !json_double(tolerance, &c->tolerance) || !(c->tolerance >= 0)))
        return fault(s, tolerance,
                     "\"tolerance\" must be a number from 0 on, beside \"compare\": "
                     "\"numbers\"");
    return 0;
}

static int read_stdin_tests(struct sandbox_tests **out, const struct source *s,
                            const struct json *list)
{
    if (json_count(list) == 0)
        return fault(s, list, "\"tests\" is empty");
    struct sandbox_tests *t = tests_new(TESTS_STDIN, json_count(list));
    for (const struct json *c = json_first(list); c != NULL; c = json_next(c)) {
        const char *in = json_string(json_get(c, "stdin"));
        const char *want = json_string(json_get(c, "stdout"));
        int rc = in == NULL || want == NULL
                     ? fault(s, c, "a test needs the strings \"stdin\" and \"stdout\"")
                     : 0;
        if (rc == 0)
            rc = read_compare(tests_add_stdin(t, in, strlen(in), want, strlen(want)), s, c);
        if (rc != 0) {
            sandbox_tests_free(&t);
            return rc;
        }
    }
    *out = t;
    return 0;
}

static int read_call(struct sandbox_tests *t, const struct source *s, const struct json *call)
{
    const struct json *args = json_get(call, "args"), *want = json_get(call, "result");
    if (json_type(args) != JSON_ARRAY || want == NULL)
        return fault(s, call, "a call needs the array \"args\" and a \"result\"");
    struct strbuf a = {0}, r = {0};
    int rc = put_json(&a, s, args);
    if (rc == 0)
        rc = put_json(&r, s, want);
    if (rc == 0 && !tests_add_call(t, a.data, a.len, r.data, r.len))
        rc = fault(s, call, "the arguments or the result are too long");
    strbuf_free(&a);
    strbuf_free(&r);
    return rc;
}

static int read_calls(struct sandbox_tests **out, const struct source *s, const struct json *tests)
{
    const char *entry = json_string(json_get(tests, "entry"));
    const struct json *calls = json_get(tests, "calls");
    if (entry == NULL || entry[0] == 0 || json_type(calls) != JSON_ARRAY)
        return fault(s, tests, "tests by calls need the string \"entry\" and the array \"calls\"");
    if (json_count(calls) == 0)
        return fault(s, calls, "\"calls\" is empty");
    struct sandbox_tests *t = tests_new(TESTS_CALLS, json_count(calls));
    strbuf_puts(&t->entry, entry);
    int rc = 0;
    for (const struct json *c = json_first(calls); c != NULL && rc == 0; c = json_next(c))
        rc = read_call(t, s, c);
    if (rc == 0)
        *out = t;
    else
        sandbox_tests_free(&t);
    return rc;
}

static struct sandbox_tests *asserts_new(void)
{
    struct sandbox_tests *t = tests_new(TESTS_ASSERTS, 1);
    t->count = 1;
    return t;
}

int sandbox_tests_from_json(struct sandbox_tests **out, const struct json_doc *doc,
                            const struct json *tests, const char *name)
{
    const struct source s = {doc, name};
    const char *text = json_string(tests);
    if (json_type(tests) == JSON_ARRAY)
        return read_stdin_tests(out, &s, tests);
    if (json_type(tests) == JSON_OBJECT)
        return read_calls(out, &s, tests);
    if (text == NULL)
        return fault(
            &s, tests,
            "\"tests\" must be an array of stdin tests, an object with calls, or assert source");
    if (strspn(text, " \t\r\n") == strlen(text))
        return fault(&s, tests, "\"tests\" is empty");
    struct sandbox_tests *t = asserts_new();
    strbuf_puts(&t->check, text);
    *out = t;
    return 0;
}

// HumanEval: `test` defines check(candidate).
static int read_humaneval(struct sandbox_tests **out, const struct source *s,
                          const struct json *row)
{
    const char *entry = json_string(json_get(row, "entry_point")),
               *test = json_string(json_get(row, "test"));
    if (entry == NULL || test == NULL)
        return fault(s, row, "\"test\" needs the string \"entry_point\" beside it");
    struct sandbox_tests *t = asserts_new();
    strbuf_printf(&t->check, "%s\n\ncheck(%s)\n", test, entry);
    *out = t;
    return 0;
}

// MBPP: `test_list` holds one assert each.
static int read_mbpp(struct sandbox_tests **out, const struct source *s, const struct json *row)
{
    const struct json *list = json_get(row, "test_list");
    const char *setup = json_string(json_get(row, "test_setup_code"));
    if (json_type(list) != JSON_ARRAY || json_count(list) == 0)
        return fault(s, row, "\"test_list\" must be an array that is not empty");
    struct sandbox_tests *t = asserts_new();
    if (setup != NULL)
        strbuf_printf(&t->check, "%s\n", setup);
    for (const struct json *c = json_first(list); c != NULL; c = json_next(c)) {
        if (json_string(c) == NULL) {
            sandbox_tests_free(&t);
            return fault(s, c, "\"test_list\" must hold strings");
        }
        strbuf_printf(&t->check, "%s\n", json_string(c));
    }
    *out = t;
    return 0;
}

bool sandbox_row_has_tests(const struct json *row)
{
    return json_get(row, "tests") != NULL || json_get(row, "test_list") != NULL ||
           (json_get(row, "test") != NULL && json_get(row, "entry_point") != NULL);
}

int sandbox_tests_from_row(struct sandbox_tests **out, const struct json_doc *doc,
                           const struct json *row, const char *name)
{
    const struct source s = {doc, name};
    if (json_get(row, "tests") != NULL)
        return sandbox_tests_from_json(out, doc, json_get(row, "tests"), name);
    if (json_get(row, "test_list") != NULL)
        return read_mbpp(out, &s, row);
    if (json_get(row, "test") != NULL)
        return read_humaneval(out, &s, row);
    return fault(&s, row, "no \"tests\", \"test\" or \"test_list\"");
}
