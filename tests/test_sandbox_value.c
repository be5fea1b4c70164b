// SPDX-License-Identifier: Apache-2.0
// What needs no box: values compare as Python's == does, output as documented, and verdicts follow
// from the facts.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "sandbox/compare.h"
#include "sandbox/judge.h"
#include "sandbox/value.h"

#include <math.h>
#include <signal.h>
#include <string.h>

// Two values, given as bytes, equal?
static bool equal(const struct strbuf *a, const struct strbuf *b)
{
    struct strbuf x = {0}, y = {0};
    bool nan = false;
    size_t used = 0;
    assert_true(value_canonical(&x, &nan, &used, (const uint8_t *)a->data, a->len));
    assert_int_equal(used, a->len);
    assert_true(value_canonical(&y, &nan, &used, (const uint8_t *)b->data, b->len));
    const bool same = !nan && x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
    strbuf_free(&x);
    strbuf_free(&y);
    return same;
}

static void put_complex(struct strbuf *b, double re, double im)
{
    strbuf_putc(b, WIRE_COMPLEX);
    strbuf_append(b, &re, sizeof re);
    strbuf_append(b, &im, sizeof im);
}

static bool int_is_float(const char *decimal, double v)
{
    struct strbuf a = {0}, b = {0};
    assert_true(value_put_decimal(&a, decimal));
    value_put_float(&b, v);
    const bool same = equal(&a, &b);
    strbuf_free(&a);
    strbuf_free(&b);
    return same;
}

static void an_int_equals_a_float_exactly(void **state)
{
    (void)state;
    assert_true(int_is_float("0", -0.0));
    assert_true(int_is_float("1", 1.0));
    assert_true(int_is_float("-3", -3.0));
    assert_false(int_is_float("1", 1.5));
    assert_true(int_is_float("9007199254740992", 9007199254740992.0));
    assert_false(int_is_float("9007199254740993", 9007199254740992.0)); // 2^53 + 1 is no double
    assert_true(int_is_float("10000000000000000000000", 1e22));
    assert_false(int_is_float("100000000000000000000000", 1e23)); // as in Python: 10**23 != 1e23
    assert_true(int_is_float("-170141183460469231731687303715884105728", -0x1p127));
    assert_false(int_is_float("1", (double)INFINITY));
    assert_false(int_is_float("0", (double)NAN));
    assert_false(int_is_float("0", 5e-324));
}

static void bools_and_complex_numbers_are_numbers(void **state)
{
    (void)state;
    struct strbuf one = {0}, yes = {0}, real = {0}, other = {0};
    value_put_int(&one, 1);
    value_put_bool(&yes, true);
    put_complex(&real, 1, -0.0);
    put_complex(&other, 1, 1);
    assert_true(equal(&one, &yes));
    assert_true(equal(&one, &real));
    assert_false(equal(&one, &other));
    strbuf_free(&one);
    strbuf_free(&yes);
    strbuf_free(&real);
    strbuf_free(&other);
}

static void int64_extremes_are_written_as_their_decimals(void **state)
{
    (void)state;
    struct strbuf a = {0}, b = {0};
    value_put_int(&a, INT64_MIN);
    assert_true(value_put_decimal(&b, "-9223372036854775808"));
    assert_true(equal(&a, &b));
    strbuf_clear(&a);
    strbuf_clear(&b);
    value_put_int(&a, 0);
    assert_true(value_put_decimal(&b, "-0"));
    assert_true(equal(&a, &b));
    assert_false(value_put_decimal(&b, ""));
    assert_false(value_put_decimal(&b, "-"));
    assert_false(value_put_decimal(&b, "1x"));
    strbuf_free(&a);
    strbuf_free(&b);
}

static void sets_and_dicts_have_no_order_lists_have(void **state)
{
    (void)state;
    static const char tags[] = {WIRE_SET, WIRE_DICT, WIRE_LIST, WIRE_TUPLE};
    for (size_t t = 0; t < sizeof tags; t++) {
        struct strbuf a = {0}, b = {0};
        value_put_container(&a, tags[t], 2);
        value_put_container(&b, tags[t], 2);
        for (int i = 0; i < 2; i++) {
            value_put_int(&a, i);
            value_put_int(&b, 1 - i);
            if (tags[t] == WIRE_DICT) {
                value_put_str(&a, "v", 1);
                value_put_str(&b, "v", 1);
            }
        }
        assert_true(equal(&a, &a));
        assert_int_equal(equal(&a, &b), tags[t] == WIRE_SET || tags[t] == WIRE_DICT);
        strbuf_free(&a);
        strbuf_free(&b);
    }
}

static void bytes_that_are_no_value_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"", 0},
        {"?", 1},
        {"i\1\0\0\0", 5}, // cut off
        {"i\2\0\0\0"
         "01",
         7}, // a superfluous zero
        {"i\2\0\0\0"
         "-0",
         7}, // minus zero
        {"i\1\0\0\0"
         "A",
         6},                      // not in lower case
        {"f\0\0\0\0", 5},         // half a double
        {"s\xff\xff\xff\xff", 5}, // longer than what there is
        {"S\2\0\0\0NN", 7},       // a member twice
        {"S\2\0\0\0Ti\1\0\0\0"
         "1",
         12},                                 // True and 1 are one key
        {"S\1\0\0\0l\0\0\0\0", 10},           // a list cannot be in a set
        {"d\1\0\0\0t\1\0\0\0l\0\0\0\0N", 16}, // nor in a key
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct strbuf out = {0};
        bool nan = false;
        size_t used = 7;
        assert_false(value_canonical(&out, &nan, &used, (const uint8_t *)bad[i].bytes, bad[i].len));
        assert_int_equal(out.len, 0);
        assert_int_equal(used, 7);
        strbuf_free(&out);
    }
}

static void values_are_shown_as_python_writes_them(void **state)
{
    (void)state;
    struct strbuf v = {0}, text = {0};
    value_put_container(&v, WIRE_TUPLE, 6);
    value_put_int(&v, -20);
    value_put_float(&v, 0.1);
    value_put_float(&v, 2);
    value_put_str(&v, "a\n", 2);
    value_put_container(&v, WIRE_DICT, 1);
    value_put_none(&v);
    value_put_container(&v, WIRE_SET, 0);
    value_put_bool(&v, true);
    value_show(&text, (const uint8_t *)v.data, v.len, 200);
    assert_string_equal(text.data, "(-20, 0.1, 2.0, 'a\\n', {None: set()}, True)");
    strbuf_free(&v);
    strbuf_free(&text);
}

static void output_is_compared_as_the_test_says(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool lines, exact, words, numbers; // the last with a tolerance of 0.01
    } cases[] = {
        {"", "", 1, 1, 1, 1},
        {"", "\n \n", 1, 0, 1, 1},
        {"a", "a\n", 1, 0, 1, 1},
        {"a \t\nb\r\n", "a\nb", 1, 0, 1, 1},
        {"a\n\nb", "a\n\nb", 1, 1, 1, 1},
        {"a\n\nb", "a\nb", 0, 0, 1, 1},
        {" a", "a", 0, 0, 1, 1},
        {"a b", "a  b", 0, 0, 1, 1},
        {"ab", "a b", 0, 0, 0, 0},
        {"a", "b", 0, 0, 0, 0},
        {"a", "", 0, 0, 0, 0},
        {"a\nb", "a", 0, 0, 0, 0},
        {"\na", "a", 0, 0, 1, 1},
        {"1.0", "1", 0, 0, 0, 1},
        {"1.005", "1", 0, 0, 0, 1},
        {"1.02", "1", 0, 0, 0, 0},
        {"1000", "1005", 0, 0, 0, 1}, // relative to what is large
        {"0.000", "0.009", 0, 0, 0, 1},
        {"-1e2", "-100", 0, 0, 0, 1},
        {"1e400", "1e401", 0, 0, 0, 0}, // beyond what a double holds: words
        {"nan", "nan", 1, 1, 1, 1},     // a word like any other
        {"nan", "1", 0, 0, 0, 0},
        {"inf", "1e308", 0, 0, 0, 0},
        {"0x1", "1", 0, 0, 0, 0},
        {"1 2", "1", 0, 0, 0, 0},
        {"1,", "1", 0, 0, 0, 0},
        {"--1", "-1", 0, 0, 0, 0},
        {"+1", "1", 0, 0, 0, 1},
        {"\xc2\xa0"
         "1",
         "1", 0, 0, 0, 0}, // only ASCII's white space is white
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bool same[] = {cases[i].lines, cases[i].exact, cases[i].words, cases[i].numbers};
        const char *a = cases[i].a, *b = cases[i].b;
        for (int mode = COMPARE_LINES; mode <= COMPARE_NUMBERS; mode++) {
            const enum compare_mode m = (enum compare_mode)mode;
            if (compare_output(m, 0.01, a, strlen(a), b, strlen(b)) != same[mode] ||
                compare_output(m, 0.01, b, strlen(b), a, strlen(a)) != same[mode])
                fail_msg("\"%s\" and \"%s\", mode %d", a, b, mode);
        }
    }
    assert_false(compare_output(COMPARE_EXACT, 0, "a\0b", 3, "a\0c", 3));
    assert_false(compare_output(COMPARE_LINES, 0, "a\0b", 3, "a", 1));
    assert_false(compare_output(COMPARE_NUMBERS, 1, "1\0", 2, "1", 1));
}

static void verdicts_follow_from_the_facts_by_precedence(void **state)
{
    (void)state;
    enum { EXIT_1 = 1 << 8 };
    static const struct {
        int status;
        bool hardened, cpu, wall, output;
        uint32_t peak_kib, cpu_us;
        enum sandbox_verdict verdict;
    } cases[] = {
        {0, true, false, false, false, 15000, 1000, SANDBOX_OK},
        {EXIT_1, true, false, false, false, 15000, 1000, SANDBOX_RUNTIME},
        {EXIT_1, true, false, false, false, 99000, 1000, SANDBOX_MEMORY},
        {0, true, false, false, false, 99000, 1000, SANDBOX_OK}, // used much, and got by
        {SIGSEGV, true, false, false, false, 15000, 1000, SANDBOX_SIGNAL},
        {SIGKILL, true, false, false, false, 15000, 1000, SANDBOX_SIGNAL}, // by itself
        {SIGKILL, true, true, false, false, 15000, 1000000, SANDBOX_CPU},
        {SIGKILL, true, false, false, false, 15000, 1000000, SANDBOX_CPU}, // by the kernel's limit
        {SIGXCPU, true, false, false, false, 15000, 1000, SANDBOX_CPU},
        {SIGKILL, true, false, true, false, 15000, 1000, SANDBOX_WALL},
        {0, true, false, true, false, 15000, 1000, SANDBOX_WALL}, // too late all the same
        {SIGKILL, true, true, true, false, 15000, 1000, SANDBOX_CPU},
        {SIGKILL, true, true, true, true, 15000, 1000, SANDBOX_OUTPUT},
        {SIGSYS, true, true, true, true, 15000, 1000, SANDBOX_VIOLATION},
        {SIGSYS, false, true, true, true, 15000, 1000, SANDBOX_INTERNAL},
        {0, false, false, false, false, 15000, 1000, SANDBOX_INTERNAL},
    };
    struct sandbox_tests *t = sandbox_tests_new_run("", 0);
    const struct sandbox_limits limits = {
        .cpu_ms = 1000, .wall_ms = 3000, .memory_kib = 100000, .output_kib = 64};
    const struct strbuf nothing = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct judge_facts facts = {
            .done = {.status = cases[i].status,
                     .hardened = cases[i].hardened,
                     .cpu_killed = cases[i].cpu,
                     .peak_kib = cases[i].peak_kib,
                     .cpu_us = cases[i].cpu_us},
            .wall = cases[i].wall,
            .output = cases[i].output,
            .out = &nothing,
            .records = &nothing,
            .nonce = (const uint8_t *)"0123456789abcdef",
            .limits = &limits,
        };
        struct sandbox_result r;
        judge_begin(&r, t);
        judge_run(&r, t, 0, &facts);
        assert_string_equal(sandbox_verdict_name(r.verdict),
                            sandbox_verdict_name(cases[i].verdict));
        assert_int_equal(r.verdict == SANDBOX_OK, r.detail[0] == 0);
    }
    sandbox_tests_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_int_equals_a_float_exactly),
        cmocka_unit_test(bools_and_complex_numbers_are_numbers),
        cmocka_unit_test(int64_extremes_are_written_as_their_decimals),
        cmocka_unit_test(sets_and_dicts_have_no_order_lists_have),
        cmocka_unit_test(bytes_that_are_no_value_are_refused),
        cmocka_unit_test(values_are_shown_as_python_writes_them),
        cmocka_unit_test(output_is_compared_as_the_test_says),
        cmocka_unit_test(verdicts_follow_from_the_facts_by_precedence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
