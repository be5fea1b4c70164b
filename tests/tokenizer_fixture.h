// SPDX-License-Identifier: Apache-2.0
// What the tests of the tokenizer share: opening one, and saying which ids differ.
#ifndef TESTS_TOKENIZER_FIXTURE_H
#define TESTS_TOKENIZER_FIXTURE_H

#include "base/error.h"
#include "base/file.h"
#include "policy/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define IDS(...) (const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

// Opens what must be there; a test without its data is skipped.
static inline struct tokenizer *open_or_skip(const char *path)
{
    struct tokenizer *t = NULL;
    if (!file_exists(path)) {
        print_message("# \"%s\" is absent\n", path);
        skip();
    }
    if (tokenizer_open(&t, path) != 0)
        fail_msg("%s", err_message());
    return t;
}

static inline struct strbuf decode(const struct tokenizer *t, const struct token_list *l,
                                   bool skip_special)
{
    struct strbuf s = {0};
    strbuf_puts(&s, "");
    assert_int_equal(tokenizer_decode(&s, t, l->ids, l->count, skip_special), 0);
    return s;
}

static inline void expect_ids(const struct token_list *got, const int *ids, int count,
                              const char *text)
{
    bool same = got->count == count &&
                (count == 0 || memcmp(got->ids, ids, (size_t)count * sizeof(int)) == 0);
    if (same)
        return;
    struct strbuf s = {0};
    for (int i = 0; i < got->count; i++)
        strbuf_printf(&s, " %d", got->ids[i]);
    strbuf_puts(&s, ", not");
    for (int i = 0; i < count; i++)
        strbuf_printf(&s, " %d", ids[i]);
    fail_msg("\"%s\" gives%s", text, s.data);
}

static inline void expect_encoding(const struct tokenizer *t, const char *text, const int *ids,
                                   int count)
{
    struct token_list got = {0};
    assert_int_equal(tokenizer_encode(&got, t, text, strlen(text), true), 0);
    expect_ids(&got, ids, count, text);
    token_list_free(&got);
}

#endif
