// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json_scan.h"
#include "base/mem.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define TEXT_MAX      ((size_t)1 << 30) // bytes; places fit uint32_t
#define CJSON_DIGITS  60                // cJSON reads no number longer than 63 bytes
#define INDEX_MEMBERS 9                 // an object with as many members or more is indexed

struct json_doc {
    char *text;
    struct json *values; // in the order of the text; the root first
    cJSON *tree;
    struct arena indexes;
};

// cJSON stops at the 63rd byte of a number: it is shown a zero, padded, in place of a longer one.
static void hide_long_numbers(const struct json_scan *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct json *v = &s->values[i];
        if (v->type == JSON_NUMBER && v->len > CJSON_DIGITS) {
            memset(s->text + v->at, ' ', v->len);
            s->text[v->at] = '0';
        }
    }
}

static void show_long_numbers(const struct json_scan *s, const char *original)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct json *v = &s->values[i];
        if (v->type == JSON_NUMBER && v->len > CJSON_DIGITS)
            memcpy(s->text + v->at, original + v->at, v->len);
    }
}

// Gives v and all below it their items.
static void attach(struct json *v, const cJSON *item)
{
    v->item = item;
    struct json *child = v + 1;
    for (const cJSON *i = item->child; i; i = i->next) {
        attach(child, i);
        child += child->next;
    }
}

// Places of an object's index: a power of two, at least twice the members.
static size_t index_size(int members)
{
    size_t size = 32;
    while (size < 2 * (size_t)members)
        size *= 2;
    return size;
}

// The place in v's index where key is, or the empty one where it belongs. A place holds the
// distance from v to the member, 0 when empty; collisions go to the next.
static size_t index_find(const struct json *v, const uint32_t *index, const char *key)
{
    const size_t mask = index_size(v->count) - 1;
    size_t at = (size_t)XXH3_64bits(key, strlen(key)) & mask;
    while (index[at] && strcmp((v + index[at])->item->string, key) != 0)
        at = (at + 1) & mask;
    return at;
}

static const struct json *index_build(struct json *v, struct arena *a)
{
    uint32_t *index = ARENA_ARRAY(a, uint32_t, index_size(v->count));
    for (const struct json *m = json_first(v); m; m = json_next(m)) {
        const size_t at = index_find(v, index, m->item->string);
        if (index[at])
            return m;
        index[at] = (uint32_t)(m - v);
    }
    v->index = index;
    return NULL;
}

// Indexes v when it has many members; returns a member whose key came before, or NULL.
static const struct json *find_duplicate(struct json *v, struct arena *a)
{
    if (v->count >= INDEX_MEMBERS)
        return index_build(v, a);
    for (const struct json *m = json_first(v); m; m = json_next(m))
        for (const struct json *earlier = json_first(v); earlier != m; earlier = json_next(earlier))
            if (strcmp(earlier->item->string, m->item->string) == 0)
                return m;
    return NULL;
}

static int index_objects(struct json_doc *doc, const struct json_scan *s)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->values[i].type != JSON_OBJECT)
            continue;
        const struct json *twice = find_duplicate(&s->values[i], &doc->indexes);
        if (!twice)
            continue;
        struct strbuf key = {0};
        strbuf_put_visible(&key, json_key(twice), strlen(json_key(twice)));
        const struct json *first = json_first(&s->values[i]);
        while (strcmp(json_key(first), json_key(twice)) != 0)
            first = json_next(first);
        err_set(s->code,
                "%s:%d: the key \"%s\" appears twice in one object (its values begin at bytes %u "
                "and %u)",
                s->name, twice->line, key.data ? key.data : "", first->at, twice->at);
        strbuf_free(&key);
        return s->code;
    }
    return 0;
}

int json_parse(struct json_doc **out, const char *text, size_t len, int flags, const char *name,
               int first_line, int code)
{
    if (len > TEXT_MAX)
        return err_set(code, "%s:%d: more than %zu bytes of JSON", name, first_line, TEXT_MAX);
    struct json_scan s = {.text = mem_strndup(text, len),
                          .len = len,
                          .flags = flags,
                          .name = name,
                          .line = first_line,
                          .code = code};
    int rc = json_scan(&s);
    struct json_doc *doc = mem_alloc0(sizeof *doc);
    doc->text = s.text;
    doc->values = s.values;
    if (!rc) {
        hide_long_numbers(&s);
        doc->tree = cJSON_ParseWithLength(s.text, len);
        if (!doc->tree) // what was scanned is JSON: only memory can lack
            die_out_of_memory(len);
        show_long_numbers(&s, text);
        attach(doc->values, doc->tree);
        rc = index_objects(doc, &s);
    }
    if (rc)
        json_free(&doc);
    else
        *out = doc;
    return rc;
}

int json_parse_file(struct json_doc **out, const char *path, int flags, int code)
{
    struct strbuf text = {0};
    int rc = file_read(&text, path, TEXT_MAX, code);
    if (!rc)
        rc = json_parse(out, text.data, text.len, flags, path, 1, code);
    strbuf_free(&text);
    return rc;
}

void json_free(struct json_doc **doc)
{
    if (!doc || !*doc)
        return;
    cJSON_Delete((*doc)->tree);
    arena_free(&(*doc)->indexes);
    free((*doc)->values);
    free((*doc)->text);
    free(*doc);
    *doc = NULL;
}

const struct json *json_root(const struct json_doc *doc) { return doc->values; }

enum json_type json_type(const struct json *v) { return v ? v->type : JSON_NULL; }

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {
        [JSON_NULL] = "null",       [JSON_BOOL] = "true or false", [JSON_NUMBER] = "a number",
        [JSON_STRING] = "a string", [JSON_ARRAY] = "an array",     [JSON_OBJECT] = "an object",
    };
    return names[t];
}

int json_line(const struct json_doc *doc, const struct json *v)
{
    return v ? v->line : doc->values->line;
}

const struct json *json_get(const struct json *v, const char *key)
{
    if (json_type(v) != JSON_OBJECT)
        return NULL;
    if (v->index) {
        const uint32_t distance = v->index[index_find(v, v->index, key)];
        return distance ? v + distance : NULL;
    }
    const struct json *m = json_first(v);
    while (m && strcmp(m->item->string, key) != 0)
        m = json_next(m);
    return m;
}

int json_count(const struct json *v) { return v ? v->count : 0; }

const struct json *json_first(const struct json *v) { return v && v->count ? v + 1 : NULL; }

const struct json *json_next(const struct json *v) { return v && v->next ? v + v->next : NULL; }

const char *json_key(const struct json *v) { return v ? v->item->string : NULL; }

bool json_bool(const struct json *v, bool *out)
{
    if (!v || v->type != JSON_BOOL)
        return false;
    *out = cJSON_IsTrue(v->item);
    return true;
}

bool json_is_true(const struct json *v)
{
    bool value = false;
    return json_bool(v, &value) && value;
}

bool json_double(const struct json *v, double *out)
{
    if (!v || v->type != JSON_NUMBER)
        return false;
    *out = v->number;
    return true;
}

bool json_int(const struct json_doc *doc, const struct json *v, int64_t lo, int64_t hi,
              int64_t *out)
{
    if (!v || v->type != JSON_NUMBER)
        return false;
    // What ends the number ends strtoll; a '.' or an exponent is not an integer.
    char *end;
    errno = 0;
    const long long value = strtoll(doc->text + v->at, &end, 10);
    if (errno || end != doc->text + v->at + v->len || value < lo || value > hi)
        return false;
    *out = value;
    return true;
}

const char *json_string(const struct json *v)
{
    return v && v->type == JSON_STRING ? v->item->valuestring : NULL;
}

const char *json_number_text(const struct json_doc *doc, const struct json *v, size_t *len)
{
    assert(v->type == JSON_NUMBER);
    *len = v->len;
    return doc->text + v->at;
}
