// SPDX-License-Identifier: Apache-2.0
// Strict JSON: what RFC 8259 forbids and what cJSON alone would let through is refused with the
// line; what is read is exact; what is written reads back the same.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct json_doc *parse(const char *text, int flags)
{
    struct json_doc *doc = NULL;
    if (json_parse(&doc, text, strlen(text), flags, "t", 1, ERR_DATA) != 0)
        fail_msg("%s: %s", text, err_message());
    return doc;
}

static void refuse_bytes(const char *text, size_t len, int flags, const char *message)
{
    struct json_doc *doc = NULL;
    const int rc = json_parse(&doc, text, len, flags, "t", 1, ERR_DATA);
    if (rc != ERR_DATA || doc)
        fail_msg("accepted: %s", text);
    if (!strstr(err_message(), message))
        fail_msg("%s: \"%s\" lacks \"%s\"", text, err_message(), message);
}

static void refuse(const char *text, const char *message)
{
    refuse_bytes(text, strlen(text), 0, message);
}

static void what_is_not_json_is_refused_with_its_line(void **state)
{
    (void)state;
    refuse("", "t:1: the text ends where a value is expected");
    refuse("   \n ", "t:2:");
    refuse("{\"a\":1} xyz", "expected the end of the text, found `xyz`");
    refuse("1 2", "end of the text");
    refuse("[1,]", "a comma with nothing after it");
    refuse("{\"a\":1,}", "a comma with nothing after it");
    refuse("[,1]", "a value");
    refuse("[1 2]", "',' or ']'");
    refuse("{\"a\" 1}", "':'");
    refuse("{a:1}", "a key in double quotes");
    refuse("{'a':1}", "a key in double quotes");
    refuse("[1", "ends where");
    refuse("{\"a\":", "a value");
    refuse("nul", "a value");
    refuse("truex", "end of the text");
    refuse("NaN", "a value, found `NaN`");
    refuse("[Infinity]", "a value");
    refuse("[\n1,\n\nx]", "t:4:");
    refuse("[\r\n1,\r\n x]", "t:3:");
    refuse_bytes("[1]\0", 4, 0, "end of the text");
    refuse_bytes("\"a\0b\"", 5, 0, "control character");
}

static void malformed_numbers_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"012", "-012", "00",   "1.",  ".5",  "-",  "+1", "1e",
                                      "1e+", "0x10", "1.e3", "1_0", "--1", "1a", "-a"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json_doc *doc = NULL;
        if (json_parse(&doc, bad[i], strlen(bad[i]), 0, "t", 1, ERR_DATA) == 0)
            fail_msg("accepted: %s", bad[i]);
    }
    refuse("1e999", "too large for a double");
    refuse("[-1e999]", "too large for a double");
}

static void malformed_strings_are_refused(void **state)
{
    (void)state;
    refuse("\"abc", "the text ends inside a string");
    refuse("\"a\nb\"", "a line ends inside a string");
    refuse("\"a\tb\"", "control character");
    refuse("\"\\x\"", "escape");
    refuse("\"\\", "escape");
    refuse("\"\\u12\"", "four hexadecimal digits");
    refuse("\"\\u00g0\"", "four hexadecimal digits");
    refuse("\"x\\u0000y\"", "\\u0000");
    refuse("{\"\\u0000\":1}", "\\u0000");
    refuse("\"\\ud800\"", "half a surrogate pair");
    refuse("\"\\udc00\"", "half a surrogate pair");
    refuse("\"\\ud800\\ud800\"", "half a surrogate pair");
    refuse("\"\\ud800x\"", "half a surrogate pair");
    refuse("[1,\n\"\xff\"]", "t:2: the text is not valid UTF-8");
    refuse("\"\xc0\xaf\"", "UTF-8");
    refuse("\"\xed\xa0\x80\"", "UTF-8");
    refuse("\"\xf4\x90\x80\x80\"", "UTF-8");
    refuse("\"\xe2\x82\"", "UTF-8");
}

static void duplicate_keys_are_refused_however_they_are_written(void **state)
{
    (void)state;
    refuse("{\"a\":1,\"b\":2,\n\"a\":3}", "t:2: the key \"a\" appears twice");
    refuse("{\"a\":1,\"\\u0061\":3}", "appears twice");
    refuse("[{\"\":1,\"\":3}]", "appears twice");
    struct strbuf many = {0};
    for (int i = 0; i < 100; i++)
        strbuf_printf(&many, "%c\"k%d\":%d", i ? ',' : '{', i, i);
    strbuf_puts(&many, ",\n\"k57\":0}");
    refuse(many.data, "t:2: the key \"k57\" appears twice");
    strbuf_free(&many);
    struct json_doc *doc = parse("{\"a\":{\"a\":1},\"A\":{\"a\":2}}", 0);
    assert_int_equal(json_count(json_root(doc)), 2);
    json_free(&doc);
}

static void nesting_is_limited_to_64(void **state)
{
    (void)state;
    char text[2 * 65 + 1];
    for (int depth = 64; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = '\0';
        if (depth == 64) {
            struct json_doc *doc = parse(text, 0);
            json_free(&doc);
        } else {
            refuse(text, "nested more than 64 deep");
        }
    }
}

static void comments_need_the_flag(void **state)
{
    (void)state;
    const char *text = "// head\n{ // \xc3\xa9 \"x\": {\n\"a\": \"// kept\", //\n\"b\": 2 }// end";
    refuse(text, "t:1: expected a value, found a comment");
    struct json_doc *doc = parse(text, JSON_COMMENTS);
    assert_string_equal(json_string(json_get(json_root(doc), "a")), "// kept");
    assert_int_equal(json_line(doc, json_get(json_root(doc), "b")), 4);
    json_free(&doc);
    refuse_bytes("/* x */ 1", 9, JSON_COMMENTS, "a comment of another kind than //");
    refuse_bytes("1 // \xff", 6, JSON_COMMENTS, "UTF-8");
    refuse_bytes("// only", 7, JSON_COMMENTS, "a value");
}

static void a_byte_order_mark_and_crlf_are_read(void **state)
{
    (void)state;
    struct json_doc *doc = parse("\xef\xbb\xbf{\r\n\"a\": 1,\r\n\"b\": 2}\r\n", 0);
    assert_int_equal(json_line(doc, json_get(json_root(doc), "b")), 3);
    json_free(&doc);
}

static void lines_count_from_the_given_first_line(void **state)
{
    (void)state;
    struct json_doc *doc = NULL;
    assert_int_equal(json_parse(&doc, "[1,\n2", 5, 0, "d.jsonl", 41, ERR_CONFIG), ERR_CONFIG);
    assert_non_null(strstr(err_message(), "d.jsonl:42: "));
}

static void check_int(const char *text, bool is_int, int64_t expected)
{
    struct json_doc *doc = parse(text, 0);
    int64_t v = -7;
    assert_int_equal(json_int(doc, json_root(doc), INT64_MIN, INT64_MAX, &v), is_int);
    assert_true(v == (is_int ? expected : -7));
    json_free(&doc);
}

static void integers_are_exact_over_all_of_int64(void **state)
{
    (void)state;
    check_int("9007199254740993", true, 9007199254740993);
    check_int("9223372036854775807", true, INT64_MAX);
    check_int("-9223372036854775808", true, INT64_MIN);
    check_int("9223372036854775808", false, 0);
    check_int("-0", true, 0);
    check_int("1.0", false, 0);
    check_int("1e3", false, 0);
    check_int("\"1\"", false, 0);
    struct json_doc *doc = parse("[5]", 0);
    const struct json *five = json_first(json_root(doc));
    int64_t v = 0;
    assert_false(json_int(doc, five, 6, 9, &v));
    assert_false(json_int(doc, five, 0, 4, &v));
    assert_true(json_int(doc, five, 5, 5, &v) && v == 5);
    json_free(&doc);
}

static void check_double(const char *text, double expected)
{
    struct json_doc *doc = parse(text, 0);
    double v = 0;
    assert_true(json_double(json_root(doc), &v));
    assert_memory_equal(&v, &expected, sizeof v);
    json_free(&doc);
}

static void doubles_are_the_nearest_to_what_is_written(void **state)
{
    (void)state;
    check_double("0.1", 0.1);
    check_double("-0.0", -0.0);
    check_double("1E+2", 100);
    check_double("5e-324", 0x1p-1074);
    check_double("1e-999", 0);
    check_double("1.7976931348623157e308", DBL_MAX);
    // Longer than cJSON's buffer of 64 bytes: pi, and 2^300 in full.
    check_double(
        "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899", M_PI);
    check_double(
        "2037035976334486086268445688409378161051468393665936250636140449354381299763336706"
        "183397376",
        0x1p300);
}

static void long_numbers_keep_their_text_and_neighbours(void **state)
{
    (void)state;
    const char *text = "[1,0.1000000000000000000000000000000000000000000000000000000000000000000000"
                       "00000000000000000000001,\"x\",2]";
    struct json_doc *doc = parse(text, 0);
    struct strbuf copy = {0};
    json_put_value(&(struct json_writer){.out = &copy}, doc, json_root(doc));
    assert_string_equal(copy.data, text);
    strbuf_free(&copy);
    json_free(&doc);
}

static void strings_are_decoded(void **state)
{
    (void)state;
    struct json_doc *doc =
        parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\xe2\x82\xac\"", 0);
    assert_string_equal(json_string(json_root(doc)),
                        "\"\\/\b\f\n\r\t\xc3\xa9\xf0\x9f\x98\x80\xe2\x82\xac");
    json_free(&doc);
}

static void lookups_are_case_sensitive_and_take_absent_values(void **state)
{
    (void)state;
    struct json_doc *doc = parse("{\"LR\":1,\"b\":{\"c\":[true,null]}}", 0);
    const struct json *root = json_root(doc);
    assert_null(json_get(root, "lr"));
    assert_null(json_get(json_get(json_get(root, "x"), "y"), "z"));
    const struct json *list = json_get(json_get(root, "b"), "c");
    assert_int_equal(json_count(list), 2);
    assert_true(json_is_true(json_first(list)));
    assert_int_equal(json_type(json_next(json_first(list))), JSON_NULL);
    assert_null(json_next(json_next(json_first(list))));
    assert_null(json_key(json_first(list)));
    assert_string_equal(json_key(json_get(root, "b")), "b");
    assert_null(json_string(root));
    assert_null(json_get(list, "c"));
    bool flag = true;
    double number = 3;
    assert_false(json_bool(NULL, &flag) || json_double(NULL, &number) ||
                 json_double(list, &number));
    assert_true(flag && number == 3);
    assert_string_equal(json_type_name(json_type(list)), "an array");
    json_free(&doc);
    json_free(&doc);
}

static void every_member_of_a_large_object_is_found(void **state)
{
    (void)state;
    enum { MEMBERS = 5000 };
    struct strbuf text = {0};
    for (int i = 0; i < MEMBERS; i++)
        strbuf_printf(&text, "%c\"key %d\":[%d,{}]", i ? ',' : '{', i, i);
    strbuf_putc(&text, '}');
    struct json_doc *doc = parse(text.data, 0);
    int expected = 0;
    for (const struct json *m = json_first(json_root(doc)); m; m = json_next(m), expected++) {
        char key[16];
        snprintf(key, sizeof key, "key %d", expected);
        assert_string_equal(json_key(m), key);
        assert_ptr_equal(json_get(json_root(doc), key), m);
        int64_t v;
        assert_true(json_int(doc, json_first(m), 0, MEMBERS, &v) && v == expected);
    }
    assert_int_equal(expected, MEMBERS);
    assert_null(json_get(json_root(doc), "key 5000"));
    json_free(&doc);
    strbuf_free(&text);
}

static void a_tokenizer_of_7_mb_is_read_and_looked_up_quickly(void **state)
{
    (void)state;
    const char *path = TEST_DATA "/data/tokenizer/deepseek_v3_tokenizer.json.gz";
    if (!file_exists(path)) {
        print_message("# %s is absent\n", path);
        skip();
    }
    struct strbuf text = {0};
    assert_int_equal(file_read_unpacked(&text, path, 0, ERR_DATA), 0);
    const double began = log_clock();
    struct json_doc *doc = parse(text.data, 0);
    const double parsed = log_clock();
    const struct json *vocab = json_get(json_get(json_root(doc), "model"), "vocab");
    for (const struct json *v = json_first(vocab); v; v = json_next(v))
        assert_ptr_equal(json_get(vocab, json_key(v)), v);
    const double looked_up = log_clock();
    print_message("# %zu bytes in %.3f s, %d look-ups in %.3f s\n", text.len, parsed - began,
                  json_count(vocab), looked_up - parsed);
    assert_true(json_count(vocab) > 100000);
    assert_true(looked_up - began < 10); // linear look-ups alone would take over a minute
    json_free(&doc);
    strbuf_free(&text);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_begin_object(&w);
    json_put_key(&w, "a\"b");
    json_begin_array(&w);
    json_put_int(&w, INT64_MIN);
    json_put_double(&w, 0.1);
    json_put_double(&w, (double)NAN);
    json_put_double(&w, (double)INFINITY);
    json_put_float(&w, 0.1f);
    json_put_bool(&w, false);
    json_put_null(&w);
    json_begin_object(&w);
    json_end_object(&w);
    json_end_array(&w);
    json_put_key(&w, "t");
    json_put_text(&w, "\x01\n\\\"\x7f/\xc3\xa9", 8);
    json_end_object(&w);
    assert_string_equal(out.data,
                        "{\"a\\\"b\":[-9223372036854775808,0.1,null,null,0.1,false,null,{}],"
                        "\"t\":\"\\u0001\\n\\\\\\\"\x7f/\xc3\xa9\"}");
    struct json_doc *doc = parse(out.data, 0);
    struct strbuf copy = {0};
    json_put_value(&(struct json_writer){.out = &copy}, doc, json_root(doc));
    assert_string_equal(copy.data, out.data);
    json_free(&doc);
    strbuf_free(&copy);
    strbuf_free(&out);
}

static void bytes_that_are_not_text_become_the_replacement_character(void **state)
{
    (void)state;
    struct strbuf out = {0};
    json_put_text(&(struct json_writer){.out = &out},
                  "a\xff\xfe"
                  "b\0\xe2\x82\xacz\xe2\x82",
                  11);
    assert_string_equal(out.data, "\"a\xef\xbf\xbd\xef\xbf\xbd"
                                  "b\xef\xbf\xbd\xe2\x82\xacz"
                                  "\xef\xbf\xbd\xef\xbf\xbd\"");
    strbuf_free(&out);
}

static void check_written(double v, const char *expected)
{
    struct strbuf out = {0};
    json_put_double(&(struct json_writer){.out = &out}, v);
    assert_string_equal(out.data, expected);
    assert_true(strtod(out.data, NULL) == v);
    strbuf_free(&out);
}

static void numbers_are_written_with_the_fewest_digits(void **state)
{
    (void)state;
    check_written(0, "0");
    check_written(-0.0, "-0");
    check_written(100, "100");
    check_written(1.0 / 3, "0.3333333333333333");
    check_written(0.1 + 0.2, "0.30000000000000004");
    check_written(5e-324, "5e-324");
    check_written(1e23, "1e+23");
    check_written(DBL_MAX, "1.7976931348623157e+308");
    static const struct {
        float v;
        const char *text;
    } floats[] = {
        {0.1f, "0.1"}, {1e-45f, "1e-45"}, {16777216, "16777216"}, {1.0f / 3, "0.33333334"}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        struct strbuf out = {0};
        json_put_float(&(struct json_writer){.out = &out}, floats[i].v);
        assert_string_equal(out.data, floats[i].text);
        strbuf_free(&out);
    }
}

static void a_file_that_is_missing_is_named(void **state)
{
    (void)state;
    struct json_doc *doc = NULL;
    assert_int_equal(json_parse_file(&doc, "/nonexistent/x.json", 0, ERR_MODEL), ERR_MODEL);
    assert_non_null(strstr(err_message(), "\"/nonexistent/x.json\""));
    assert_null(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_json_is_refused_with_its_line),
        cmocka_unit_test(malformed_numbers_are_refused),
        cmocka_unit_test(malformed_strings_are_refused),
        cmocka_unit_test(duplicate_keys_are_refused_however_they_are_written),
        cmocka_unit_test(nesting_is_limited_to_64),
        cmocka_unit_test(comments_need_the_flag),
        cmocka_unit_test(a_byte_order_mark_and_crlf_are_read),
        cmocka_unit_test(lines_count_from_the_given_first_line),
        cmocka_unit_test(integers_are_exact_over_all_of_int64),
        cmocka_unit_test(doubles_are_the_nearest_to_what_is_written),
        cmocka_unit_test(long_numbers_keep_their_text_and_neighbours),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(lookups_are_case_sensitive_and_take_absent_values),
        cmocka_unit_test(every_member_of_a_large_object_is_found),
        cmocka_unit_test(a_tokenizer_of_7_mb_is_read_and_looked_up_quickly),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(bytes_that_are_not_text_become_the_replacement_character),
        cmocka_unit_test(numbers_are_written_with_the_fewest_digits),
        cmocka_unit_test(a_file_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
