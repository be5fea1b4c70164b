// SPDX-License-Identifier: Apache-2.0
// Input: a tokenizer.json, the byte 0xFF (never in UTF-8), a text to encode. Whatever the file is,
// encoding ends, ids are in range, and decoding gives UTF-8.
#include "base/str.h"
#include "policy/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void encode_and_decode(const struct tokenizer *t, const char *text, size_t len)
{
    struct token_list ids = {0};
    struct strbuf back = {0};
    if (tokenizer_encode(&ids, t, text, len, true) == 0) {
        for (int i = 0; i < ids.count; i++)
            check(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocab_size(t));
        check(tokenizer_decode(&back, t, ids.ids, ids.count, false) == 0);
        check(utf8_valid_prefix(back.data, back.len) == back.len);
    }
    // Any bytes are ids for decoding.
    ids.count = 0;
    for (size_t i = 0; i < len; i++)
        token_list_add(&ids, (unsigned char)text[i]);
    strbuf_clear(&back);
    check(tokenizer_decode(&back, t, ids.ids, ids.count, true) == 0);
    check(utf8_valid_prefix(back.data, back.len) == back.len);
    strbuf_free(&back);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *mark = size ? memchr(data, 0xFF, size) : NULL;
    size_t file_len = mark ? (size_t)(mark - data) : size;
    const char *text = mark ? (const char *)mark + 1 : "";
    struct tokenizer *t = NULL;
    if (tokenizer_parse(&t, (const char *)data, file_len, "input") == 0)
        encode_and_decode(t, text, mark ? size - file_len - 1 : 0);
    tokenizer_free(&t);
    return 0;
}
