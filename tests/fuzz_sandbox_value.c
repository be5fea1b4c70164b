// SPDX-License-Identifier: Apache-2.0
// Hostile bytes where the supervisor reads what a program's process wrote: records, values, and
// rewritten tests. A value that is accepted has a canonical form that is a value itself, with the
// same canonical form.
#include "base/str.h"
#include "sandbox/asserts.h"
#include "sandbox/records.h"
#include "sandbox/value.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_value(const uint8_t *data, size_t size)
{
    struct strbuf once = {0}, twice = {0}, shown = {0};
    bool nan = false;
    size_t used = 0;
    if (value_canonical(&once, &nan, &used, data, size)) {
        value_show(&shown, data, used, 100);
        if (used > size || shown.len > 10000)
            abort();
        const uint8_t *canon = (const uint8_t *)once.data;
        if (!nan && once.len < WIRE_VALUE_MAX &&
            (!value_canonical(&twice, &nan, &used, canon, once.len) || used != once.len ||
             twice.len != once.len || memcmp(once.data, twice.data, once.len) != 0))
            abort();
    }
    strbuf_free(&once);
    strbuf_free(&twice);
    strbuf_free(&shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct record r;
    size_t at = 0;
    read_value(data, size);
    while (records_next(&r, &at, data, size) == 1)
        read_value(r.data, r.len);
    struct strbuf records = {0};
    strbuf_append(&records, data, size);
    struct sandbox_tests *t = asserts_read(&records);
    sandbox_tests_free(&t);
    strbuf_free(&records);
    return 0;
}
