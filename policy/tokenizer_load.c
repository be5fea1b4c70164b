// SPDX-License-Identifier: Apache-2.0
// The sections of a tokenizer.json around the model: normalizer, pre-tokenizer, post-processor,
// decoder.
#include "policy/tokenizer_load.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// The split of a ByteLevel pre-tokenizer with use_regex: GPT-2's.
#define GPT2_REGEX                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

int load_bad(const struct load *l, const char *path, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return err_set(ERR_MODEL, "\"%s\": %s: %s", l->name, path, what);
}

int load_check_object(const struct load *l, const struct json *v, const char *path,
                      const char *keys)
{
    if (json_type(v) != JSON_OBJECT)
        return load_bad(l, path, "is %s, not an object", json_type_name(json_type(v)));
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        char key[64];
        int len = snprintf(key, sizeof(key), " %s ", json_key(m));
        if (len >= (int)sizeof(key) || strchr(json_key(m), ' ') || !strstr(keys, key))
            return load_bad(l, path, "\"%.60s\" is not a known member", json_key(m));
    }
    return 0;
}

int load_flag(const struct load *l, bool *out, const struct json *v, const char *path,
              const char *key)
{
    const struct json *flag = json_get(v, key);
    if (json_type(flag) != JSON_NULL && !json_bool(flag, out))
        return load_bad(l, path, "\"%s\" is %s, not true or false", key,
                        json_type_name(json_type(flag)));
    return 0;
}

const char *load_type(const struct json *v)
{
    const char *type = json_string(json_get(v, "type"));
    return type ? type : "?";
}

static int load_normalizer(const struct load *l, const struct json *v, const char *path, int depth)
{
    if (json_type(v) == JSON_NULL)
        return 0;
    if (strcmp(load_type(v), "NFC") == 0) {
        l->t->nfc = true;
        return load_check_object(l, v, path, " type ");
    }
    if (strcmp(load_type(v), "Sequence") != 0 || depth > 0)
        return load_bad(l, path,
                        "the normalizer \"%.60s\" is not supported (null, NFC or a Sequence is)",
                        load_type(v));
    int err = load_check_object(l, v, path, " type normalizers ");
    const struct json *list = json_get(v, "normalizers");
    if (!err && json_type(list) != JSON_ARRAY)
        return load_bad(l, path, "\"normalizers\" is not an array");
    for (const struct json *n = json_first(list); n && !err; n = json_next(n))
        err = load_normalizer(l, n, "normalizer.normalizers", depth + 1);
    return err;
}

static int add_stage(const struct load *l, const char *path, const char *regex)
{
    struct tokenizer *t = l->t;
    if (t->stage_count == STAGES_MAX)
        return load_bad(l, path, "more than %d splits", STAGES_MAX);
    struct split_stage stage = {0};
    if (regex) {
        struct strbuf where = {0};
        strbuf_printf(&where, "\"%s\": %s", l->name, path);
        int err = token_regex_open(&stage.regex, regex, where.data);
        strbuf_free(&where);
        if (err)
            return err;
    }
    t->stages[t->stage_count++] = stage;
    return 0;
}

static int load_split(const struct load *l, const struct json *v, const char *path)
{
    int err = load_check_object(l, v, path, " type pattern behavior invert ");
    if (err)
        return err;
    const struct json *pattern = json_get(v, "pattern");
    const char *regex = json_string(json_get(pattern, "Regex"));
    const char *behavior = json_string(json_get(v, "behavior"));
    bool invert = false;
    if (!regex || json_count(pattern) != 1)
        return load_bad(l, path, "\"pattern\" is not {\"Regex\": \"...\"}");
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return load_bad(l, path, "\"behavior\" is not \"Isolated\"");
    err = load_flag(l, &invert, v, path, "invert");
    if (!err && invert)
        return load_bad(l, path, "\"invert\" is not false");
    return err ? err : add_stage(l, path, regex);
}

static int load_byte_level(const struct load *l, const struct json *v, const char *path)
{
    bool prefix = true, use_regex = true, trim = true;
    int err = load_check_object(l, v, path, " type add_prefix_space trim_offsets use_regex ");
    if (!err)
        err = load_flag(l, &prefix, v, path, "add_prefix_space");
    if (!err)
        err = load_flag(l, &use_regex, v, path, "use_regex");
    if (!err)
        err = load_flag(l, &trim, v, path, "trim_offsets");
    if (!err && prefix)
        err = add_stage(l, path, NULL);
    if (!err && use_regex)
        err = add_stage(l, path, GPT2_REGEX);
    return err;
}

// `last`: nothing follows, so it must be the ByteLevel that makes text into bytes.
static int load_pre_tokenizer(const struct load *l, const struct json *v, const char *path,
                              bool last)
{
    const char *type = load_type(v);
    if (strcmp(type, "ByteLevel") == 0 && last)
        return load_byte_level(l, v, path);
    if (last)
        return load_bad(l, path, "is \"%.60s\"; the last pre-tokenizer must be ByteLevel", type);
    if (strcmp(type, "Split") == 0)
        return load_split(l, v, path);
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        int err = load_check_object(l, v, path, " type individual_digits ");
        if (!err)
            err = load_flag(l, &individual, v, path, "individual_digits");
        return err ? err : add_stage(l, path, individual ? "\\p{N}" : "\\p{N}+");
    }
    return load_bad(l, path,
                    "the pre-tokenizer \"%.60s\" is not supported here (Split, Digits and a final "
                    "ByteLevel are)",
                    type);
}

static int load_pre_tokenizers(const struct load *l, const struct json *v)
{
    const char *path = "pre_tokenizer";
    if (strcmp(load_type(v), "Sequence") != 0)
        return load_pre_tokenizer(l, v, path, true);
    int err = load_check_object(l, v, path, " type pretokenizers ");
    const struct json *list = json_get(v, "pretokenizers");
    if (!err && (json_type(list) != JSON_ARRAY || !json_first(list)))
        return load_bad(l, path, "\"pretokenizers\" is not an array with elements");
    int i = 0;
    for (const struct json *p = json_first(list); p && !err; p = json_next(p)) {
        char at[64];
        snprintf(at, sizeof(at), "pre_tokenizer.pretokenizers[%d]", i++);
        err = load_pre_tokenizer(l, p, at, !json_next(p));
    }
    return err;
}

// Adds the ids of the special token that an item of a template names.
static int load_special(const struct load *l, struct token_list *out, const struct json *item,
                        const struct json *tokens, const char *path)
{
    const char *id = json_string(json_get(item, "id"));
    const struct json *ids = id ? json_get(json_get(tokens, id), "ids") : NULL;
    if (json_type(ids) != JSON_ARRAY)
        return load_bad(l, path, "a special token of \"single\" has no ids in \"special_tokens\"");
    for (const struct json *v = json_first(ids); v; v = json_next(v)) {
        int64_t n = 0;
        if (!json_int(l->doc, v, 0, l->t->bpe.size - 1, &n) || !l->t->bpe.tokens[n].bytes)
            return load_bad(l, path, "an id of the special token \"%.60s\" has no token", id);
        token_list_add(out, (int)n);
    }
    return 0;
}

// `single` is a list of special tokens and the text, $A. A template wraps what earlier processors
// gave.
static int load_template(const struct load *l, const struct json *v, const char *path)
{
    int err = load_check_object(l, v, path, " type single pair special_tokens ");
    const struct json *tokens = json_get(v, "special_tokens");
    struct token_list around[2] = {{0}, {0}};
    int texts = 0;
    for (const struct json *p = json_first(json_get(v, "single")); p && !err; p = json_next(p)) {
        const struct json *special = json_get(p, "SpecialToken"), *text = json_get(p, "Sequence");
        const char *id = json_string(json_get(text, "id"));
        if (special && texts < 2)
            err = load_special(l, &around[texts], special, tokens, path);
        else if (id && strcmp(id, "A") == 0)
            texts++;
        else
            err = load_bad(l, path,
                           "an item of \"single\" is neither a special token nor the text A");
    }
    if (!err && texts != 1)
        err = load_bad(l, path, "\"single\" does not hold the text once");
    if (!err) {
        struct token_list *before = &l->t->before, *after = &l->t->after;
        for (int i = 0; i < before->count; i++)
            token_list_add(&around[0], before->ids[i]);
        for (int i = 0; i < around[1].count; i++)
            token_list_add(after, around[1].ids[i]);
        token_list_free(before);
        *before = around[0];
        around[0] = (struct token_list){0};
    }
    token_list_free(&around[0]);
    token_list_free(&around[1]);
    return err;
}

static int load_post_processor(const struct load *l, const struct json *v, const char *path,
                               int depth)
{
    const char *type = load_type(v);
    if (json_type(v) == JSON_NULL)
        return 0;
    if (strcmp(type, "ByteLevel") == 0) // moves offsets only
        return load_check_object(l, v, path, " type add_prefix_space trim_offsets use_regex ");
    if (strcmp(type, "TemplateProcessing") == 0)
        return load_template(l, v, path);
    if (strcmp(type, "Sequence") != 0 || depth > 0)
        return load_bad(
            l, path,
            "the post-processor \"%.60s\" is not supported (ByteLevel, TemplateProcessing "
            "or a Sequence is)",
            type);
    int err = load_check_object(l, v, path, " type processors ");
    const struct json *list = json_get(v, "processors");
    if (!err && json_type(list) != JSON_ARRAY)
        return load_bad(l, path, "\"processors\" is not an array");
    int i = 0;
    for (const struct json *p = json_first(list); p && !err; p = json_next(p)) {
        char at[64];
        snprintf(at, sizeof(at), "post_processor.processors[%d]", i++);
        err = load_post_processor(l, p, at, depth + 1);
    }
    return err;
}

static int load_decoder(const struct load *l, const struct json *v)
{
    if (strcmp(load_type(v), "ByteLevel") != 0)
        return load_bad(l, "decoder", "\"%.60s\" is not supported (ByteLevel is)", load_type(v));
    return load_check_object(l, v, "decoder", " type add_prefix_space trim_offsets use_regex ");
}

int tokenizer_load(struct tokenizer *t, const char *text, size_t len, const char *name)
{
    struct json_doc *doc = NULL;
    int err = json_parse(&doc, text, len, 0, name, 1, ERR_MODEL);
    if (err)
        return err;
    struct load l = {t, doc, name};
    const struct json *root = json_root(doc);
    const struct json *added = json_get(root, "added_tokens");
    err = load_check_object(
        &l, root, "the file",
        " version truncation padding added_tokens normalizer pre_tokenizer post_processor "
        "decoder model ");
    if (!err)
        err = load_normalizer(&l, json_get(root, "normalizer"), "normalizer", 0);
    if (!err)
        err = load_pre_tokenizers(&l, json_get(root, "pre_tokenizer"));
    if (!err)
        err = load_decoder(&l, json_get(root, "decoder"));
    if (!err)
        err = load_model(&l, json_get(root, "model"), added);
    if (!err)
        err = load_added_tokens(&l, added);
    if (!err)
        err = load_post_processor(&l, json_get(root, "post_processor"), "post_processor", 0);
    json_free(&doc);
    return err;
}
