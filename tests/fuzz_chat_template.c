// SPDX-License-Identifier: Apache-2.0
// Input: a chat template, the byte 0xFF (never in UTF-8), the JSON of {"messages", "tools",
// "variables"}; without it, some messages. Whatever they are, rendering ends, is text, and gives
// the same twice.
#include "base/error.h"
#include "policy/chat_template.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void render_twice(const struct chat_template *t, const struct chat_request *c)
{
    struct strbuf once = {0}, twice = {0};
    const int rc = chat_template_render(&once, t, c);
    check(rc == 0 || rc == ERR_DATA || rc == ERR_MODEL);
    check(chat_template_render(&twice, t, c) == rc);
    check(rc == 0 || once.len == 0);
    check(utf8_valid_prefix(once.data, once.len) == once.len);
    check(once.len == twice.len && (once.len == 0 || memcmp(once.data, twice.data, once.len) == 0));
    strbuf_free(&once);
    strbuf_free(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char some[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\" S\\n\"},{\"role\":\"user\",\"content\":"
        "\"\\u00e9</think>x\",\"n\":[1,2.5,null,true]},{\"role\":\"assistant\",\"content\":null,"
        "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":\"b\"}}}]}],"
        "\"tools\":[{\"type\":\"function\"}],\"variables\":{\"v\":-3,\"d\":{\"k\":[]}}}";
    const uint8_t *mark = size ? memchr(data, 0xFF, size) : NULL;
    const size_t len = mark ? (size_t)(mark - data) : size;
    const char *json = mark ? (const char *)mark + 1 : some;
    const size_t json_len = mark ? size - len - 1 : sizeof some - 1;
    struct chat_template *t = NULL;
    struct json_doc *doc = NULL;
    if (chat_template_parse(&t, (const char *)data, len, "input") == 0 &&
        json_parse(&doc, json, json_len, 0, "values", 1, ERR_DATA) == 0) {
        const struct json *root = json_root(doc);
        render_twice(t, &(struct chat_request){.doc = doc,
                                               .messages = json_get(root, "messages"),
                                               .tools = json_get(root, "tools"),
                                               .variables = json_get(root, "variables"),
                                               .bos = "<s>",
                                               .generation_prompt = true,
                                               .time = 1000000000});
    }
    json_free(&doc);
    chat_template_free(&t);
    return 0;
}
