// SPDX-License-Identifier: Apache-2.0
// Memory, strings, UTF-8, numbers as text, error messages, the log.
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
#include "base/mem.h"
#include "base/str.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void an_error_may_quote_the_one_before(void **state)
{
    (void)state;
    assert_int_equal(err_set(ERR_DATA, "line %d", 7), ERR_DATA);
    assert_int_equal(err_set(ERR_CONFIG, "file: %s", err_message()), ERR_CONFIG);
    assert_string_equal(err_message(), "file: line 7");
}

static void arena_memory_is_aligned_distinct_and_zeroed(void **state)
{
    (void)state;
    struct arena a = {0};
    for (size_t size = 0; size < 300000; size = 3 * size + 1) {
        unsigned char *p = arena_push(&a, size);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 0xee, size);
        const unsigned char *z = arena_push0(&a, size);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(z[i], 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(p[i], 0xee);
    }
    assert_string_equal(arena_strndup(&a, "abcd", 3), "abc");
    arena_free(&a);
    assert_null(a.last);
}

static void releasing_an_arena_reuses_its_memory(void **state)
{
    (void)state;
    struct arena a = {0};
    char *kept = arena_strndup(&a, "kept", 4);
    const struct arena_mark mark = arena_mark(&a);
    const void *large = NULL;
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 20; i++)
            memset(arena_push(&a, 10000), round, 10000);
        const void *p = arena_push(&a, 1 << 20);
        if (round > 3)
            assert_ptr_equal(p, large); // by then one block holds the whole round
        large = p;
        arena_release(&a, mark);
        assert_string_equal(kept, "kept");
    }
    arena_release(&a, (struct arena_mark){0});
    assert_non_null(arena_push(&a, 1));
    arena_free(&a);
}

static void a_string_buffer_grows_and_is_terminated(void **state)
{
    (void)state;
    struct strbuf b = {0};
    strbuf_append(&b, NULL, 0);
    assert_string_equal(b.data, "");
    for (int i = 0; i < 1000; i++)
        strbuf_printf(&b, "%d,", i);
    assert_int_equal(b.len, 3890);
    assert_int_equal(strlen(b.data), b.len);
    strbuf_clear(&b);
    strbuf_append(&b, "a\0b", 3);
    strbuf_putc(&b, 'c');
    assert_memory_equal(b.data, "a\0bc", 5);
    char *taken = strbuf_take(&b);
    assert_null(b.data);
    free(taken);
    taken = strbuf_take(&b);
    assert_string_equal(taken, "");
    free(taken);
    strbuf_free(&b);
}

static void utf8_is_checked_as_rfc_3629_says(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t valid;
    } cases[] = {
        {"plain text of more than eight bytes", 35},
        {"\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 18},
        {"12345678\x80", 8},  // a continuation byte alone
        {"a\xc0\x80", 1},     // overlong
        {"a\xc1\xbf", 1},     // overlong
        {"a\xe0\x9f\xbf", 1}, // overlong
        {"a\xf0\x8f\xbf\xbf", 1},
        {"a\xed\xa0\x80", 1},     // a surrogate
        {"a\xed\x9f\xbf", 4},     // U+D7FF
        {"a\xf4\x90\x80\x80", 1}, // U+110000
        {"a\xf5\x80\x80\x80", 1},
        {"a\xe2\x82", 1}, // cut short
        {"a\xe2\x28\xa1", 1},
        {"\xff", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(utf8_valid_prefix(cases[i].text, strlen(cases[i].text)), cases[i].valid);
}

static void every_code_point_is_valid_but_surrogates(void **state)
{
    (void)state;
    for (unsigned c = 0x80; c <= 0x110000; c++) {
        char s[4];
        size_t n = 0;
        if (c >= 0x10000)
            s[n++] = (char)(0xf0 | c >> 18), s[n++] = (char)(0x80 | (c >> 12 & 0x3f));
        else if (c >= 0x800)
            s[n++] = (char)(0xe0 | c >> 12);
        if (c >= 0x800)
            s[n++] = (char)(0x80 | (c >> 6 & 0x3f));
        else
            s[n++] = (char)(0xc0 | c >> 6);
        s[n++] = (char)(0x80 | (c & 0x3f));
        const bool valid = c < 0x110000 && (c < 0xd800 || c > 0xdfff);
        assert_int_equal(utf8_valid_prefix(s, n), valid ? n : 0);
        if (valid)
            for (size_t cut = 1; cut < n; cut++)
                assert_int_equal(utf8_complete_prefix(s, cut), 0);
    }
}

static void an_incomplete_character_at_the_end_is_held_back(void **state)
{
    (void)state;
    assert_int_equal(utf8_complete_prefix("", 0), 0);
    assert_int_equal(utf8_complete_prefix("abc", 3), 3);
    assert_int_equal(utf8_complete_prefix("a\xe2\x82\xac", 4), 4);
    assert_int_equal(utf8_complete_prefix("a\xe2\x82", 3), 1);
    assert_int_equal(utf8_complete_prefix("a\xf0\x9f\x98", 4), 1);
    assert_int_equal(utf8_complete_prefix("\x80\x80\x80\x80", 4), 4); // never completed: shown
}

static void what_a_terminal_would_obey_is_escaped(void **state)
{
    (void)state;
    struct strbuf b = {0};
    const char text[] = "a\x1b[31m\n\t\r\0\x7f\xc2\x9b\xe2\x80\xae\xff\xc3\xa9";
    strbuf_put_visible(&b, text, sizeof text - 1);
    assert_string_equal(b.data, "a\\x1b[31m\\n\\t\\r\\x00\\x7f\\u009b\\u202e\\xff\xc3\xa9");
    strbuf_free(&b);
}

static void distance_counts_single_edits(void **state)
{
    (void)state;
    assert_int_equal(str_distance("", ""), 0);
    assert_int_equal(str_distance("", "abc"), 3);
    assert_int_equal(str_distance("abc", ""), 3);
    assert_int_equal(str_distance("kitten", "sitting"), 3);
    assert_int_equal(str_distance("learning_rate", "learnign_rate"), 2);
}

static void only_whole_decimal_numbers_are_read(void **state)
{
    (void)state;
    long long i = -5;
    assert_true(str_to_int("-9223372036854775808", LLONG_MIN, LLONG_MAX, &i) && i == LLONG_MIN);
    assert_true(str_to_int("10", 1, 10, &i) && i == 10);
    static const char *const not_int[] = {
        "", "-", "+1", " 1", "1 ", "0x1", "1.0", "--1", "11", "0", "9223372036854775808"};
    for (size_t k = 0; k < sizeof not_int / sizeof *not_int; k++)
        assert_false(str_to_int(not_int[k], 1, 10, &i));
    assert_true(i == 10);
    double d = 7;
    assert_true(str_to_double("-1.5e-3", &d) && d == -1.5e-3);
    assert_true(str_to_double(".5", &d) && d == 0.5);
    assert_true(str_to_double("3E2", &d) && d == 300);
    static const char *const not_double[] = {"",    ".",   "-",  "e1", "1e",    "1e+", "0x1p3",
                                             "nan", "inf", " 1", "1 ", "1e999", "+1"};
    for (size_t k = 0; k < sizeof not_double / sizeof *not_double; k++)
        assert_false(str_to_double(not_double[k], &d));
    assert_true(d == 300);
}

static void the_log_file_has_every_line_made_harmless(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_base.XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = path_join(dir, "log");
    log_set_level(LOG_ERROR);
    log_open_file(path);
    log_line(LOG_INFO, "one\ntwo \x1b[2J");
    log_line(LOG_DEBUG, "not kept");
    log_close_file();
    log_open_file(path);
    log_line(LOG_WARN, "three");
    log_close_file();
    struct strbuf text = {0};
    assert_int_equal(file_read(&text, path, 0, ERR_DATA), 0);
    assert_non_null(strstr(text.data, "Z info: one\n"));
    assert_non_null(strstr(text.data, "Z info: two \\x1b[2J\n"));
    assert_non_null(strstr(text.data, "Z warning: three\n"));
    assert_null(strstr(text.data, "not kept"));
    strbuf_free(&text);
    free(path);
    assert_int_equal(dir_remove_all(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_may_quote_the_one_before),
        cmocka_unit_test(arena_memory_is_aligned_distinct_and_zeroed),
        cmocka_unit_test(releasing_an_arena_reuses_its_memory),
        cmocka_unit_test(a_string_buffer_grows_and_is_terminated),
        cmocka_unit_test(utf8_is_checked_as_rfc_3629_says),
        cmocka_unit_test(every_code_point_is_valid_but_surrogates),
        cmocka_unit_test(an_incomplete_character_at_the_end_is_held_back),
        cmocka_unit_test(what_a_terminal_would_obey_is_escaped),
        cmocka_unit_test(distance_counts_single_edits),
        cmocka_unit_test(only_whole_decimal_numbers_are_read),
        cmocka_unit_test(the_log_file_has_every_line_made_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
