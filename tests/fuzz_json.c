// SPDX-License-Identifier: Apache-2.0
// Any bytes: json_parse refuses them with a line, or reads them, and what it read is written as
// JSON that reads the same.
#include "base/error.h"
#include "base/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void look_up_members(const struct json *v)
{
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        require(json_type(v) != JSON_OBJECT || json_get(v, json_key(m)) == m);
        look_up_members(m);
    }
}

static void write_value(struct strbuf *out, const struct json_doc *doc)
{
    json_put_value(&(struct json_writer){.out = out}, doc, json_root(doc));
}

// The first byte chooses the flags.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const int flags = data[0] & 1 ? JSON_COMMENTS : 0;
    struct json_doc *doc = NULL, *again = NULL;
    const int rc = json_parse(&doc, (const char *)data + 1, size - 1, flags, "input", 1, ERR_DATA);
    if (rc) {
        require(!doc && strncmp(err_message(), "input:", 6) == 0);
        return 0;
    }
    look_up_members(json_root(doc));
    struct strbuf once = {0}, twice = {0};
    write_value(&once, doc);
    require(json_parse(&again, once.data, once.len, 0, "output", 1, ERR_DATA) == 0);
    write_value(&twice, again);
    require(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    json_free(&again);
    json_free(&doc);
    strbuf_free(&twice);
    strbuf_free(&once);
    return 0;
}
