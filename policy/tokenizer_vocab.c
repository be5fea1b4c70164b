// SPDX-License-Identifier: Apache-2.0
// The sections of a tokenizer.json that hold tokens: the model's vocabulary and merges, and the
// added tokens.
#include "base/error.h"
#include "base/mem.h"
#include "policy/tokenizer_load.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_MAX ((1 << 24) - 1)

// The byte-level alphabet (GPT-2): printable Latin-1 characters stand for their own byte, the other
// bytes in order for U+0100 and on. -1: not in it.
static int alphabet_byte(unsigned c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255))
        return (int)c;
    if (c < 256 || c > 323)
        return -1;
    unsigned n = c - 256; // 0..32, 127..160, 173
    return n <= 32 ? (int)n : n <= 66 ? (int)n + 94 : 173;
}

bool tokenizer_spelled_bytes(struct strbuf *out, const char *spelling)
{
    size_t start = out->len;
    for (const unsigned char *s = (const unsigned char *)spelling; *s;) {
        // The alphabet ends below U+0800.
        unsigned c = *s < 0x80 ? *s : *s < 0xE0 ? (*s & 0x1Fu) << 6 | (s[1] & 0x3Fu) : UINT_MAX;
        int byte = alphabet_byte(c);
        if (byte < 0) {
            out->len = start;
            strbuf_puts(out, spelling);
            return false;
        }
        strbuf_putc(out, (char)byte);
        s += *s < 0x80 ? 1 : 2;
    }
    return true;
}

// The settings of the model beside its tables. unk_token and fuse_unk have no say, since every byte
// has a token.
static int check_model(const struct load *l, const struct json *v)
{
    int err = load_check_object(
        l, v, "model",
        " type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk "
        "byte_fallback ignore_merges vocab merges ");
    if (err)
        return err;
    if (json_get(v, "type") && strcmp(load_type(v), "BPE") != 0)
        return load_bad(l, "model", "the type \"%.60s\" is not supported (BPE is)", load_type(v));
    double dropout = 0;
    if (json_type(json_get(v, "dropout")) != JSON_NULL &&
        (!json_double(json_get(v, "dropout"), &dropout) || dropout != 0))
        return load_bad(l, "model.dropout", "is neither null nor 0");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const struct json *affix = json_get(v, affixes[i]);
        const char *s = json_string(affix);
        if (json_type(affix) != JSON_NULL && (!s || *s))
            return load_bad(l, "model", "\"%s\" is neither null nor empty", affixes[i]);
    }
    if (json_is_true(json_get(v, "byte_fallback")))
        return load_bad(l, "model.byte_fallback",
                        "is true; a byte-level vocabulary has no use for it");
    if (json_type(json_get(v, "vocab")) != JSON_OBJECT)
        return load_bad(l, "model.vocab", "is not an object");
    if (json_type(json_get(v, "merges")) != JSON_ARRAY)
        return load_bad(l, "model.merges", "is not an array");
    return 0;
}

// The largest id of the vocabulary and the added tokens, plus one.
static int find_size(const struct load *l, int *size, const struct json *vocab,
                     const struct json *added)
{
    int64_t id = 0, most = -1;
    for (const struct json *v = json_first(vocab); v; v = json_next(v)) {
        if (!json_int(l->doc, v, 0, ID_MAX, &id))
            return load_bad(l, "model.vocab", "the id of \"%.60s\" is not an integer from 0 to %d",
                            json_key(v), ID_MAX);
        most = id > most ? id : most;
    }
    for (const struct json *v = json_first(added); v; v = json_next(v)) {
        if (!json_int(l->doc, json_get(v, "id"), 0, ID_MAX, &id))
            return load_bad(l, "added_tokens", "an \"id\" is not an integer from 0 to %d", ID_MAX);
        most = id > most ? id : most;
    }
    *size = (int)most + 1;
    return 0;
}

static int load_vocab(const struct load *l, const struct json *vocab)
{
    struct bpe *bpe = &l->t->bpe;
    struct strbuf bytes = {0};
    int err = 0;
    for (const struct json *v = json_first(vocab); v && !err; v = json_next(v)) {
        int64_t id = 0;
        (void)json_int(l->doc, v, 0, ID_MAX, &id); // find_size has seen it
        strbuf_clear(&bytes);
        bool mergeable = tokenizer_spelled_bytes(&bytes, json_key(v)) && bytes.len > 0;
        if (bpe->tokens[id].bytes)
            err = load_bad(l, "model.vocab", "\"%.60s\" has the id of another token, %d",
                           json_key(v), (int)id);
        else if (bytes.len > INT_MAX / 2)
            err = load_bad(l, "model.vocab", "the token %d is too long", (int)id);
        else
            bpe_add_token(bpe, (int)id, bytes.data ? bytes.data : "", (int)bytes.len, mergeable);
    }
    strbuf_free(&bytes);
    for (int c = 0; c < 256 && !err; c++) {
        bool never = c == 0xC0 || c == 0xC1 || c >= 0xF5; // in UTF-8
        if (bpe->byte_ids[c] < 0 && !never)
            err = load_bad(l, "model.vocab", "has no token for the byte 0x%02x", (unsigned)c);
    }
    return err;
}

// A merge is "left right" or ["left", "right"].
static int load_merge(const struct load *l, const struct json *v, int rank, struct strbuf *bytes)
{
    struct bpe *bpe = &l->t->bpe;
    const char *pair = json_string(v), *left = NULL, *right = NULL;
    const char *blank = pair ? strchr(pair, ' ') : NULL;
    char *copy = NULL;
    if (blank) {
        left = copy = mem_strndup(pair, (size_t)(blank - pair));
        right = blank + 1;
    } else if (json_type(v) == JSON_ARRAY && json_count(v) == 2) {
        left = json_string(json_first(v));
        right = json_string(json_next(json_first(v)));
    }
    strbuf_clear(bytes);
    bool known = left && right && tokenizer_spelled_bytes(bytes, left);
    size_t middle = bytes->len;
    known = known && tokenizer_spelled_bytes(bytes, right);
    free(copy);
    if (!known)
        return load_bad(l, "model.merges", "element %d is not a pair of byte-level tokens", rank);
    int ids[3] = {bpe_find(bpe, bytes->data, middle),
                  bpe_find(bpe, bytes->data + middle, bytes->len - middle),
                  bpe_find(bpe, bytes->data, bytes->len)};
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
        return load_bad(l, "model.merges",
                        "element %d: a part or the whole is not in the vocabulary", rank);
    bpe_add_merge(bpe, ids[0], ids[1], (uint32_t)rank, ids[2]);
    return 0;
}

int load_model(const struct load *l, const struct json *model, const struct json *added)
{
    const struct json *merges = json_get(model, "merges");
    int size = 0;
    int err = check_model(l, model);
    if (!err)
        err = find_size(l, &size, json_get(model, "vocab"), added);
    if (err)
        return err;
    bpe_init(&l->t->bpe, size, json_count(merges));
    err = load_vocab(l, json_get(model, "vocab"));
    struct strbuf bytes = {0};
    int rank = 0;
    for (const struct json *m = json_first(merges); m && !err; m = json_next(m))
        err = load_merge(l, m, rank++, &bytes);
    strbuf_free(&bytes);
    bool ignore = false;
    if (!err)
        err = load_flag(l, &ignore, model, "model", "ignore_merges");
    if (!err)
        bpe_finish(&l->t->bpe, ignore);
    return err;
}

// Gives the added token its place among the tokens, or finds that the vocabulary already has it
// there. It decodes to what is matched, as the library has it.
static int place_added(const struct load *l, const struct added_token *a)
{
    struct bpe *bpe = &l->t->bpe;
    struct strbuf bytes = {0};
    bool mergeable = tokenizer_spelled_bytes(&bytes, a->content);
    struct bpe_token *t = &bpe->tokens[a->id];
    int other = mergeable ? bpe_find(bpe, bytes.data, bytes.len) : -1;
    int err = 0;
    if (other >= 0 && other != a->id) {
        err = load_bad(l, "added_tokens", "\"%.60s\" has the id %d, but %d in the vocabulary",
                       a->content, a->id, other);
    } else if (t->bytes &&
               ((size_t)t->len != bytes.len || memcmp(t->bytes, bytes.data, bytes.len) != 0)) {
        err = load_bad(l, "added_tokens", "\"%.60s\" has the id of another token, %d", a->content,
                       a->id);
    } else if (!t->bytes) {
        strbuf_clear(&bytes);
        (void)tokenizer_spelled_bytes(&bytes, a->match);
        bpe_add_token(bpe, a->id, bytes.data, (int)bytes.len, false);
    }
    if (!err)
        t->special = a->special;
    strbuf_free(&bytes);
    return err;
}

static int load_added_flags(const struct load *l, struct added_token *a, const struct json *v,
                            const char *path)
{
    struct {
        bool *flag;
        const char *key;
    } flags[] = {{&a->normalized, "normalized"},
                 {&a->lstrip, "lstrip"},
                 {&a->rstrip, "rstrip"},
                 {&a->single_word, "single_word"}};
    int err = load_flag(l, &a->special, v, path, "special");
    a->normalized = !a->special;
    for (size_t i = 0; i < sizeof(flags) / sizeof(*flags) && !err; i++)
        err = load_flag(l, flags[i].flag, v, path, flags[i].key);
    return err;
}

static int load_added(const struct load *l, struct added_token *out, const struct json *v,
                      int index)
{
    char path[64];
    snprintf(path, sizeof(path), "added_tokens[%d]", index);
    int err =
        load_check_object(l, v, path, " id content single_word lstrip rstrip normalized special ");
    if (err)
        return err;
    const char *content = json_string(json_get(v, "content"));
    if (!content || !*content)
        return load_bad(l, path, "\"content\" is not a string with characters");
    struct added_token a = {0};
    err = load_added_flags(l, &a, v, path);
    if (err)
        return err;
    int64_t id = 0;
    (void)json_int(l->doc, json_get(v, "id"), 0, ID_MAX, &id); // find_size has seen it
    a.id = (int)id;
    a.order = a.special ? index - (1 << 24) : index;
    struct strbuf match = {0};
    if (a.normalized && l->t->nfc)
        tokenizer_normalize(&match, content, strlen(content));
    else
        strbuf_puts(&match, content);
    a.match_len = match.len;
    a.match = strbuf_take(&match);
    a.content = mem_strdup(content);
    err = place_added(l, &a);
    *out = a;
    return err;
}

static int compare_added(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int order = strcmp(x->match, y->match);
    return order ? order : x->order < y->order ? -1 : x->order > y->order;
}

int load_added_tokens(const struct load *l, const struct json *list)
{
    if (json_type(list) != JSON_NULL && json_type(list) != JSON_ARRAY)
        return load_bad(l, "added_tokens", "is not an array");
    struct added_set *sets[2] = {&l->t->raw, &l->t->normalized};
    for (int i = 0; i < 2; i++)
        sets[i]->tokens = mem_array0((size_t)json_count(list), sizeof(struct added_token));
    int err = 0, index = 0;
    for (const struct json *v = json_first(list); v && !err; v = json_next(v)) {
        struct added_token a = {0};
        err = load_added(l, &a, v, index++);
        sets[a.normalized]->tokens[sets[a.normalized]->count++] = a;
    }
    if (err)
        return err;
    for (int i = 0; i < 2; i++) {
        struct added_set *s = sets[i];
        qsort(s->tokens, (size_t)s->count, sizeof(*s->tokens), compare_added);
        for (int k = 0, c = 0; c <= 256; c++) {
            while (k < s->count && (unsigned char)s->tokens[k].match[0] < c)
                k++;
            s->first[c] = k;
        }
    }
    return 0;
}
