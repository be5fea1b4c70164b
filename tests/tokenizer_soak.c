// SPDX-License-Identifier: Apache-2.0
// Random texts of all of Unicode come back from a tokenizer, byte for byte, or, where it brings
// texts into NFC, as NFC. One test a tokenizer (TAP).
// usage: tokenizer_soak TEXTS TOKENIZER...     a tokenizer that is absent is skipped
#include "base/error.h"
#include "base/file.h"
#include "policy/tokenizer.h"
#include "tests/random_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// The text as the tokenizer's normalizer leaves it.
static void expect(struct strbuf *out, const struct strbuf *text, bool nfc)
{
    utf8proc_uint8_t *normal = NULL;
    strbuf_clear(out);
    if (!nfc) {
        strbuf_append(out, text->data, text->len);
        return;
    }
    const utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->len, &normal,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len > 0)
        strbuf_append(out, normal, (size_t)len);
    free(normal);
}

// The first text that does not come back, counted from 1; 0: all do.
static long long soak(const struct tokenizer *t, bool nfc, long long texts)
{
    struct philox_stream random = philox_stream(11, 0);
    struct strbuf text = {0}, want = {0}, back = {0};
    struct token_list ids = {0};
    long long bad = 0;
    for (long long i = 1; i <= texts && bad == 0; i++) {
        strbuf_clear(&text);
        strbuf_clear(&back);
        strbuf_puts(&text, i % 5 == 0 ? "x =" : "");
        for (int n = (int)philox_below(&random, 24); n > 0; n--)
            put_random_char(&text, &random);
        expect(&want, &text, nfc);
        strbuf_puts(&back, "");
        ids.count = 0;
        if (tokenizer_encode(&ids, t, text.data, text.len, false) != 0 ||
            tokenizer_decode(&back, t, ids.ids, ids.count, false) != 0 || back.len != want.len ||
            (want.len > 0 && memcmp(back.data, want.data, want.len) != 0))
            bad = i;
    }
    token_list_free(&ids);
    strbuf_free(&text);
    strbuf_free(&want);
    strbuf_free(&back);
    return bad;
}

// Whether the file asks for NFC.
static bool normalizes(const char *path)
{
    struct strbuf json = {0};
    const bool nfc = file_read_unpacked(&json, path, 0, ERR_DATA) == 0 &&
                     strstr(json.data, "\"normalizer\"") != NULL &&
                     strstr(json.data, "\"NFC\"") != NULL;
    strbuf_free(&json);
    return nfc;
}

int main(int argc, char **argv)
{
    long long texts = 0;
    int failed = 0;
    if (argc < 3 || !str_to_int(argv[1], 1, 1000000000000, &texts)) {
        fprintf(stderr, "usage: %s TEXTS TOKENIZER...\n", argv[0]);
        return 2;
    }
    printf("1..%d\n", argc - 2);
    for (int i = 2; i < argc; i++) {
        struct tokenizer *t = NULL;
        const char *slash = strrchr(argv[i], '/'), *name = slash ? slash + 1 : argv[i];
        if (!file_exists(argv[i])) {
            printf("ok %d - %s # SKIP it is absent\n", i - 1, name);
            continue;
        }
        const bool opened = tokenizer_open(&t, argv[i]) == 0;
        const long long bad = opened ? soak(t, normalizes(argv[i]), texts) : -1;
        printf("%s %d - %lld random texts come back from %s\n", bad == 0 ? "ok" : "not ok", i - 1,
               texts, name);
        if (bad != 0)
            printf("# %s %lld\n", opened ? "not text" : err_message(), bad);
        fflush(stdout);
        failed += bad != 0;
        tokenizer_free(&t);
    }
    return failed > 0;
}
