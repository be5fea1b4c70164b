// SPDX-License-Identifier: Apache-2.0
// Configs of any bytes: refused with a message, or read so that the dump reads back the same. What
// stands before the first NUL byte are --set options, one a line; the rest is the file.
#include "base/error.h"
#include "rl/config.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_dump(const struct config *c)
{
    struct strbuf text = {0}, again = {0};
    struct config *copy = NULL;
    config_dump(&text, c);
    const int rc = config_parse(&copy, text.data, text.len, "dump", NULL);
    assert(rc == 0);
    config_dump(&again, copy);
    assert(text.len == again.len && !memcmp(text.data, again.data, text.len));
    config_free(&copy);
    strbuf_free(&text);
    strbuf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct strbuf sets_text = {0};
    const char *items[16];
    struct option_list sets = {items, 0};
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    if (nul) {
        strbuf_append(&sets_text, data, (size_t)(nul - data));
        for (char *at = sets_text.data, *next; at && sets.count < 16; at = next) {
            next = strchr(at, '\n');
            if (next)
                *next++ = 0;
            items[sets.count++] = at;
        }
        size -= (size_t)(nul + 1 - data);
        data = nul + 1;
    }
    struct config *c = NULL;
    const char *text = size ? (const char *)data : "";
    const int rc = config_parse(&c, text, size, "fuzz.json", &sets);
    assert(rc == 0 || (rc == ERR_CONFIG && err_message()[0] && !c));
    if (rc == 0)
        check_dump(c);
    config_free(&c);
    strbuf_free(&sets_text);
    return 0;
}
