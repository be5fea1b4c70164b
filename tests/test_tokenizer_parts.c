// SPDX-License-Identifier: Apache-2.0
// The two engines of the tokenizer: splitting by regex, and merging.
#include "base/error.h"
#include "base/mem.h"
#include "base/philox.h"
#include "policy/tokenizer_bpe.h"
#include "policy/tokenizer_regex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// A character of the Basic Multilingual Plane.
static void put_char(char utf8[4], unsigned c)
{
    int n = 0;
    if (c < 0x80) {
        utf8[n++] = (char)c;
    } else if (c < 0x800) {
        utf8[n++] = (char)(0xC0 | c >> 6);
        utf8[n++] = (char)(0x80 | (c & 63));
    } else {
        utf8[n++] = (char)(0xE0 | c >> 12);
        utf8[n++] = (char)(0x80 | (c >> 6 & 63));
        utf8[n++] = (char)(0x80 | (c & 63));
    }
    utf8[n] = 0;
}

static void white_space_is_the_unicode_property(void **state)
{
    (void)state;
    static const char *const regexes[] = {"\\s", "[\\sx]", "\\S", "[\\S]"};
    struct token_regex *r[4] = {NULL};
    for (int i = 0; i < 4; i++)
        assert_int_equal(token_regex_open(&r[i], regexes[i], "t"), 0);
    struct token_matcher *m = token_matcher_new(0);
    int white = 0;
    // None of the property lies beyond the BMP.
    for (unsigned c = 1; c <= 0xFFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF)
            continue;
        char utf8[4];
        bool found[4];
        put_char(utf8, c);
        for (int i = 0; i < 4; i++) {
            struct token_scan scan = {.text = utf8, .len = strlen(utf8)};
            size_t start, end;
            found[i] = token_regex_next(&start, &end, &scan, r[i], m) == 1;
        }
        white += found[0];
        assert_int_equal(found[1], found[0] || c == 'x');
        assert_int_equal(found[2], !found[0]);
        assert_int_equal(found[3], !found[0]);
        assert_false(c == 0x180E && found[0]); // which PCRE2's own \s has
    }
    assert_int_equal(white, 25);
    token_matcher_free(&m);
    for (int i = 0; i < 4; i++)
        token_regex_free(&r[i]);
}

static void a_huge_run_of_blanks_splits(void **state)
{
    (void)state;
    const size_t len = (size_t)12 << 20;
    char *text = mem_alloc(len + 1);
    memset(text, ' ', len);
    text[len] = 'x';
    struct token_regex *r = NULL;
    const char *llama3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    assert_int_equal(token_regex_open(&r, llama3, "t"), 0);
    struct token_matcher *m = token_matcher_new(len + 1);
    struct token_scan scan = {.text = text, .len = len + 1};
    size_t start = 0, end = 0;
    assert_int_equal(token_regex_next(&start, &end, &scan, r, m), 1);
    assert_int_equal(start, 0);
    assert_int_equal(end, len - 1);
    assert_int_equal(token_regex_next(&start, &end, &scan, r, m), 1);
    assert_int_equal(end, len + 1);
    assert_int_equal(token_regex_next(&start, &end, &scan, r, m), 0);
    token_matcher_free(&m);
    token_regex_free(&r);
    free(text);
}

static void a_regex_whose_cost_explodes_is_an_error(void **state)
{
    (void)state;
    struct token_regex *r = NULL;
    assert_int_equal(token_regex_open(&r, "(?:a+)+$", "t"), 0);
    struct token_matcher *m = token_matcher_new(40);
    struct token_scan scan = {.text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", .len = 40};
    size_t start, end;
    assert_int_equal(token_regex_next(&start, &end, &scan, r, m), ERR_DATA);
    token_matcher_free(&m);
    token_regex_free(&r);
}

// The definition: join the pair of the lowest rank, the leftmost of equals, until there is none.
static void merge_by_definition(struct token_list *l, const int *left, const int *right, int merges)
{
    for (int rank = 0; rank < merges; rank++)
        for (int i = 0; i + 1 < l->count; i++)
            if (l->ids[i] == left[rank] && l->ids[i + 1] == right[rank]) {
                l->ids[i] = 256 + rank;
                memmove(&l->ids[i + 1], &l->ids[i + 2], (size_t)(l->count - i - 2) * sizeof(int));
                l->count--;
                rank = -1;
                break;
            }
}

// A random merge of two tokens over the letters a, b and c; false if it gives bytes that are a
// token already, or many.
static bool add_random_merge(struct bpe *bpe, struct philox_stream *random, int merges, int *left,
                             int *right)
{
    uint32_t a = philox_below(random, 3 + (uint32_t)merges),
             b = philox_below(random, 3 + (uint32_t)merges);
    *left = a < 3 ? 'a' + (int)a : 256 + (int)a - 3;
    *right = b < 3 ? 'a' + (int)b : 256 + (int)b - 3;
    struct strbuf s = {0};
    strbuf_append(&s, bpe->tokens[*left].bytes, (size_t)bpe->tokens[*left].len);
    strbuf_append(&s, bpe->tokens[*right].bytes, (size_t)bpe->tokens[*right].len);
    bool added = s.len < 64 && bpe_find(bpe, s.data, s.len) < 0;
    if (added) {
        bpe_add_token(bpe, 256 + merges, s.data, (int)s.len, true);
        bpe_add_merge(bpe, *left, *right, (uint32_t)merges, 256 + merges);
    }
    strbuf_free(&s);
    return added;
}

static void expect_piece(const struct bpe *bpe, struct bpe_scratch *scratch,
                         struct philox_stream *random, const int *left, const int *right,
                         int merges)
{
    char piece[200];
    int len = 1 + (int)philox_below(random, sizeof(piece));
    struct token_list want = {0}, got = {0};
    for (int i = 0; i < len; i++) {
        piece[i] = (char)('a' + philox_below(random, 3));
        token_list_add(&want, piece[i]);
    }
    merge_by_definition(&want, left, right, merges);
    bpe_encode(&got, bpe, scratch, piece, (size_t)len);
    assert_int_equal(got.count, want.count);
    assert_memory_equal(got.ids, want.ids, (size_t)got.count * sizeof(int));
    token_list_free(&want);
    token_list_free(&got);
}

static void pieces_of_all_lengths_merge_by_the_definition(void **state)
{
    (void)state;
    struct philox_stream random = philox_stream(5, 0);
    enum { MERGES = 40 };
    for (int round = 0; round < 20; round++) {
        struct bpe bpe;
        int left[MERGES], right[MERGES], merges = 0;
        bpe_init(&bpe, 256 + MERGES, MERGES);
        for (int b = 0; b < 256; b++)
            bpe_add_token(&bpe, b, &(char){(char)b}, 1, true);
        while (merges < MERGES)
            merges += add_random_merge(&bpe, &random, merges, &left[merges], &right[merges]);
        bpe_finish(&bpe, false);
        struct bpe_scratch scratch = {0};
        for (int k = 0; k < 60; k++)
            expect_piece(&bpe, &scratch, &random, left, right, merges);
        bpe_scratch_free(&scratch);
        bpe_free(&bpe);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_the_unicode_property),
        cmocka_unit_test(a_huge_run_of_blanks_splits),
        cmocka_unit_test(a_regex_whose_cost_explodes_is_an_error),
        cmocka_unit_test(pieces_of_all_lengths_merge_by_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
