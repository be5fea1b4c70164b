// SPDX-License-Identifier: Apache-2.0
// Rows of the shared data sets, for tests. Included by test programs only, after their own headers.
#ifndef TESTS_DATA_ROWS_H
#define TESTS_DATA_ROWS_H

#include "base/file.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

// Calls fn on each line of a file (JSON Lines, packed or not).
static inline void data_rows_of(const char *path, void (*fn)(void *arg, const struct json_doc *doc),
                                void *arg)
{
    struct strbuf text = {0};
    assert_int_equal(file_read_unpacked(&text, path, 0, -3), 0);
    int line = 1;
    for (size_t at = 0; at < text.len; line++) {
        const char *end = memchr(text.data + at, '\n', text.len - at);
        const size_t len = end != NULL ? (size_t)(end - text.data) - at : text.len - at;
        struct json_doc *doc;
        if (len > 0) {
            assert_int_equal(json_parse(&doc, text.data + at, len, 0, path, line, -3), 0);
            fn(arg, doc);
            json_free(&doc);
        }
        at += len + 1;
    }
    strbuf_free(&text);
}

// The same of TEST_DATA/name; skips the test when the file is not there.
static inline void data_rows(const char *name, void (*fn)(void *arg, const struct json_doc *doc),
                             void *arg)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", TEST_DATA, name);
    if (!file_exists(path)) {
        print_message("# %s is not here\n", path);
        skip();
    }
    data_rows_of(path, fn, arg);
}

#endif
