// SPDX-License-Identifier: Apache-2.0
// Opening, saving, looking up and decoding. Encoding is in tokenizer_encode.c.
#include "policy/tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "policy/tokenizer_parts.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX    ((size_t)512 << 20)
#define REPLACEMENT "\xEF\xBF\xBD" // U+FFFD

static const char *const tokenizer_file_names[FILE_COUNT] = {
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};

int tokenizer_vocab_size(const struct tokenizer *t) { return t->bpe.size; }

const char *tokenizer_token_bytes(const struct tokenizer *t, int id, size_t *len)
{
    bool known = id >= 0 && id < t->bpe.size && t->bpe.tokens[id].bytes;
    *len = known ? (size_t)t->bpe.tokens[id].len : 0;
    return known ? t->bpe.tokens[id].bytes : NULL;
}

bool tokenizer_is_special(const struct tokenizer *t, int id)
{
    return id >= 0 && id < t->bpe.size && t->bpe.tokens[id].special;
}

int tokenizer_find(const struct tokenizer *t, const char *text)
{
    const struct added_set *sets[2] = {&t->raw, &t->normalized};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < sets[i]->count; k++)
            if (strcmp(sets[i]->tokens[k].content, text) == 0)
                return sets[i]->tokens[k].id;
    return *text ? bpe_find(&t->bpe, text, strlen(text)) : -1;
}

int tokenizer_bos(const struct tokenizer *t) { return t->bos; }

int tokenizer_eos(const struct tokenizer *t) { return t->eos; }

int tokenizer_pad(const struct tokenizer *t) { return t->pad; }

// The first of these spellings that is a special token.
static int find_special(const struct tokenizer *t, const char *const *spellings)
{
    for (; *spellings; spellings++) {
        int id = tokenizer_find(t, *spellings);
        if (tokenizer_is_special(t, id))
            return id;
    }
    return -1;
}

static void guess_roles(struct tokenizer *t)
{
    static const char *const bos[] = {"<bos>", "<s>", "<|begin_of_text|>",
                                      "<｜begin▁of▁sentence｜>", NULL};
    static const char *const eos[] = {
        "<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", NULL};
    static const char *const pad[] = {"<pad>", "<|pad|>", "<｜▁pad▁｜>", NULL};
    t->bos = find_special(t, bos);
    t->eos = find_special(t, eos);
    t->pad = find_special(t, pad);
}

// A role of tokenizer_config.json: the token's text, or an object with its content; null or absent:
// none. A pad token may be missing from the vocabulary, since padding never reaches the model.
static int read_role(int *out, const struct tokenizer *t, const struct json *config,
                     const char *key, const char *name)
{
    const struct json *v = json_get(config, key);
    const char *text = json_string(json_type(v) == JSON_OBJECT ? json_get(v, "content") : v);
    if (!text && json_type(v) != JSON_NULL)
        return err_set(ERR_MODEL, "\"%s\": \"%s\" is neither a string nor an object with content",
                       name, key);
    int id = text ? tokenizer_find(t, text) : -1;
    if (text && id < 0 && out != &t->pad)
        return err_set(ERR_MODEL, "\"%s\": the %s \"%.60s\" is not in the vocabulary", name, key,
                       text);
    *out = id;
    return 0;
}

static int read_config(struct tokenizer *t, const char *name)
{
    const struct strbuf *text = &t->files[FILE_CONFIG];
    struct json_doc *doc = NULL;
    int err = json_parse(&doc, text->data, text->len, 0, name, 1, ERR_MODEL);
    if (err)
        return err;
    const struct json *config = json_root(doc);
    if (json_type(config) != JSON_OBJECT)
        err = err_set(ERR_MODEL, "\"%s\" is not an object", name);
    if (!err)
        err = read_role(&t->bos, t, config, "bos_token", name);
    if (!err)
        err = read_role(&t->eos, t, config, "eos_token", name);
    if (!err)
        err = read_role(&t->pad, t, config, "pad_token", name);
    json_free(&doc);
    return err;
}

// Takes over the texts of `files`; a name may be NULL where there is no file.
static int open_files(struct tokenizer **out, struct strbuf files[FILE_COUNT],
                      const char *const names[FILE_COUNT])
{
    struct tokenizer *t = mem_alloc0(sizeof(*t));
    memcpy(t->files, files, sizeof(t->files));
    for (int i = 0; i < FILE_COUNT; i++)
        t->names[i] = names[i] ? mem_strdup(names[i]) : NULL;
    int err = tokenizer_load(t, t->files[FILE_TOKENIZER].data, t->files[FILE_TOKENIZER].len,
                             t->names[FILE_TOKENIZER]);
    if (!err)
        guess_roles(t);
    if (!err && t->files[FILE_CONFIG].data)
        err = read_config(t, t->names[FILE_CONFIG]);
    if (err)
        tokenizer_free(&t);
    else
        *out = t;
    return err;
}

int tokenizer_parse(struct tokenizer **out, const char *json, size_t len, const char *name)
{
    struct strbuf files[FILE_COUNT] = {0};
    strbuf_append(&files[FILE_TOKENIZER], json, len);
    return open_files(out, files, (const char *const[FILE_COUNT]){name});
}

static int open_directory(struct tokenizer **out, const char *dir)
{
    struct strbuf files[FILE_COUNT] = {0};
    char *paths[FILE_COUNT];
    int err = 0;
    for (int i = 0; i < FILE_COUNT; i++) {
        paths[i] = path_join(dir, tokenizer_file_names[i]);
        bool present = i == FILE_TOKENIZER || file_exists(paths[i]);
        if (i == FILE_TOKENIZER && !file_exists(paths[i])) {
            char *packed = path_join(dir, "tokenizer.json.gz");
            if (file_exists(packed)) {
                free(paths[i]);
                paths[i] = mem_strdup(packed);
            }
            free(packed);
        }
        if (present && !err)
            err = file_read_unpacked(&files[i], paths[i], FILE_MAX, ERR_MODEL);
    }
    if (!err)
        err = open_files(out, files, (const char *const *)paths);
    else
        for (int i = 0; i < FILE_COUNT; i++)
            strbuf_free(&files[i]);
    for (int i = 0; i < FILE_COUNT; i++)
        free(paths[i]);
    return err;
}

int tokenizer_open(struct tokenizer **out, const char *path)
{
    if (dir_exists(path))
        return open_directory(out, path);
    struct strbuf files[FILE_COUNT] = {0};
    int err = file_read_unpacked(&files[FILE_TOKENIZER], path, FILE_MAX, ERR_MODEL);
    if (err)
        strbuf_free(&files[FILE_TOKENIZER]);
    return err ? err : open_files(out, files, (const char *const[FILE_COUNT]){path});
}

static void added_set_free(struct added_set *s)
{
    for (int i = 0; i < s->count; i++) {
        free(s->tokens[i].content);
        free(s->tokens[i].match);
    }
    free(s->tokens);
}

void tokenizer_free(struct tokenizer **tokenizer)
{
    if (!tokenizer || !*tokenizer)
        return;
    struct tokenizer *t = *tokenizer;
    bpe_free(&t->bpe);
    added_set_free(&t->raw);
    added_set_free(&t->normalized);
    for (int i = 0; i < t->stage_count; i++)
        token_regex_free(&t->stages[i].regex);
    token_list_free(&t->before);
    token_list_free(&t->after);
    for (int i = 0; i < FILE_COUNT; i++) {
        strbuf_free(&t->files[i]);
        free(t->names[i]);
    }
    free(t);
    *tokenizer = NULL;
}

static void put_role(struct json_writer *w, const struct tokenizer *t, const char *key, int id)
{
    json_put_key(w, key);
    if (id >= 0)
        json_put_text(w, t->bpe.tokens[id].bytes, (size_t)t->bpe.tokens[id].len);
    else
        json_put_null(w);
}

// The least that makes transformers open the directory and decode without changing white space.
static void make_config(struct strbuf *out, const struct tokenizer *t)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_put_key(&w, "tokenizer_class");
    json_put_string(&w, "PreTrainedTokenizerFast");
    json_put_key(&w, "clean_up_tokenization_spaces");
    json_put_bool(&w, false);
    put_role(&w, t, "bos_token", t->bos);
    put_role(&w, t, "eos_token", t->eos);
    put_role(&w, t, "pad_token", t->pad);
    json_end_object(&w);
    strbuf_putc(out, '\n');
}

int tokenizer_save(const struct tokenizer *t, const char *dir)
{
    struct strbuf made = {0};
    int err = 0;
    for (int i = 0; i < FILE_COUNT && !err; i++) {
        const struct strbuf *text = &t->files[i];
        if (i == FILE_CONFIG && !text->data) {
            make_config(&made, t);
            text = &made;
        }
        if (!text->data)
            continue;
        char *path = path_join(dir, tokenizer_file_names[i]);
        err = file_write_atomic(path, text->data, text->len);
        free(path);
    }
    strbuf_free(&made);
    return err;
}

// The range of a first byte's continuation (Unicode 15, table 3-7); false: no character begins with
// it.
static bool begin_character(struct tokenizer_stream *s, unsigned char c)
{
    if (c < 0xC2 || c > 0xF4)
        return false;
    s->tail[0] = c;
    s->have = 1;
    s->need = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    s->lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    s->hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    return true;
}

static void put_byte(struct strbuf *out, struct tokenizer_stream *s, unsigned char c)
{
    if (s->need > 0 && c >= s->lo && c <= s->hi) {
        s->tail[s->have++] = c;
        s->lo = 0x80;
        s->hi = 0xBF;
        if (--s->need == 0)
            strbuf_append(out, s->tail, s->have);
        return;
    }
    tokenizer_stream_flush(out, s);
    if (c < 0x80)
        strbuf_putc(out, (char)c);
    else if (!begin_character(s, c))
        strbuf_puts(out, REPLACEMENT);
}

void tokenizer_stream_push(struct strbuf *out, struct tokenizer_stream *s,
                           const struct tokenizer *t, int id, bool skip_special)
{
    size_t len = 0;
    const char *bytes = tokenizer_token_bytes(t, id, &len);
    if (skip_special && tokenizer_is_special(t, id))
        return;
    for (size_t i = 0; i < len; i++)
        put_byte(out, s, (unsigned char)bytes[i]);
}

void tokenizer_stream_flush(struct strbuf *out, struct tokenizer_stream *s)
{
    if (s->need > 0)
        strbuf_puts(out, REPLACEMENT);
    *s = (struct tokenizer_stream){0};
}

int tokenizer_decode(struct strbuf *out, const struct tokenizer *t, const int *ids, int count,
                     bool skip_special)
{
    for (int i = 0; i < count; i++)
        if (ids[i] < 0)
            return err_set(ERR_DATA, "the token id %d at %d is negative", ids[i], i);
    struct tokenizer_stream s = {0};
    for (int i = 0; i < count; i++)
        tokenizer_stream_push(out, &s, t, ids[i], skip_special);
    tokenizer_stream_flush(out, &s);
    return 0;
}
