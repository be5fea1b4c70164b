// SPDX-License-Identifier: Apache-2.0
#include "policy/jinja_value.h"

#include "base/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Bytes a rendering may make or look at: a long conversation takes a hundredth of it.
#define WORK_MAX  ((size_t)512 << 20)
#define DEPTH_MAX 128 // of nested lists and dicts
// What a piece of memory costs beside its bytes: the arena's alignment.
#define PIECE 64

static int set_error(int code, const struct jinja_run *r, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));

static int set_error(int code, const struct jinja_run *r, const char *fmt, va_list args)
{
    char what[512];
    vsnprintf(what, sizeof what, fmt, args);
    struct strbuf shown = {0};
    strbuf_put_visible(&shown, what, strlen(what));
    err_set(code, "%s:%d: %s", r->name, r->line, shown.len ? shown.data : "");
    strbuf_free(&shown);
    return code;
}

int jinja_fail(const struct jinja_run *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int rc = set_error(ERR_DATA, r, fmt, args);
    va_end(args);
    return rc;
}

int jinja_refuse(const struct jinja_run *r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int rc = set_error(ERR_MODEL, r, fmt, args);
    va_end(args);
    return rc;
}

int jinja_spend(struct jinja_run *r, size_t bytes)
{
    if (bytes > WORK_MAX - r->work)
        return jinja_refuse(r, "the template takes too long or makes too much text");
    r->work += bytes;
    return 0;
}

struct jinja_value jinja_string(const char *s, size_t len)
{
    return (struct jinja_value){.type = JINJA_STRING, .text = {s, len}};
}

struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){.type = JINJA_INT, .integer = i};
}

struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){.type = JINJA_BOOL, .truth = b};
}

struct jinja_value jinja_undefined(struct span what)
{
    return (struct jinja_value){.type = JINJA_UNDEFINED, .text = what};
}

int jinja_copy(struct jinja_value *out, struct jinja_run *r, const char *s, size_t len)
{
    const int rc = jinja_spend(r, len + PIECE);
    if (rc == 0)
        *out = jinja_string(arena_strndup(r->arena, len ? s : "", len), len);
    return rc;
}

int jinja_items(struct jinja_value **out, struct jinja_run *r, size_t count)
{
    if (count > WORK_MAX / sizeof **out)
        return jinja_spend(r, WORK_MAX + 1);
    const int rc = jinja_spend(r, count * sizeof **out + PIECE);
    if (rc == 0)
        *out = ARENA_ARRAY(r->arena, struct jinja_value, count);
    return rc;
}

static bool has_items(const struct jinja_value *v)
{
    return v->type == JINJA_LIST || v->type == JINJA_DICT || v->type == JINJA_VIEW;
}

int jinja_container(struct jinja_value *out, const struct jinja_run *r, enum jinja_type type,
                    const struct jinja_value *items, size_t count)
{
    uint32_t depth = 0;
    for (size_t i = 0; i < count * (type == JINJA_DICT ? 2 : 1); i++)
        if (has_items(&items[i]) && items[i].depth > depth)
            depth = items[i].depth;
    if (depth >= DEPTH_MAX)
        return jinja_refuse(r, "lists nest more than %d deep", DEPTH_MAX);
    *out = (struct jinja_value){
        .type = type, .items = items, .count = (uint32_t)count, .depth = depth + 1};
    return 0;
}

int jinja_generator(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *items,
                    size_t count)
{
    const int rc = jinja_spend(r, sizeof *out->generator + PIECE);
    if (rc)
        return rc;
    out->type = JINJA_GENERATOR;
    out->generator = arena_push(r->arena, sizeof *out->generator);
    *out->generator = (struct jinja_generator){.items = items, .count = count};
    return 0;
}

// ---- from JSON

static int from_number(struct jinja_value *out, struct jinja_run *r, const struct json_doc *doc,
                       const struct json *v)
{
    int64_t i = 0;
    double x = 0;
    if (json_int(doc, v, INT64_MIN, INT64_MAX, &i)) {
        *out = jinja_int(i);
        return 0;
    }
    struct strbuf text = {0};
    json_put_value(&(struct json_writer){.out = &text}, doc, v);
    const bool whole = strcspn(text.data, ".eE") == text.len;
    json_double(v, &x);
    *out = (struct jinja_value){.type = JINJA_FLOAT, .real = x};
    const int rc = whole ? jinja_fail(r, "the number %.40s is beyond 64 bits", text.data) : 0;
    strbuf_free(&text);
    return rc;
}

static int from_container(struct jinja_value *out, struct jinja_run *r, const struct json_doc *doc,
                          const struct json *v)
{
    const bool object = json_type(v) == JSON_OBJECT;
    struct jinja_value *items = NULL;
    const size_t count = (size_t)json_count(v);
    int rc = jinja_items(&items, r, count * (object ? 2 : 1));
    struct jinja_value *at = items;
    for (const struct json *m = json_first(v); m && rc == 0; m = json_next(m)) {
        if (object)
            rc = jinja_copy(at++, r, json_key(m), strlen(json_key(m)));
        if (rc == 0)
            rc = jinja_from_json(at++, r, doc, m);
    }
    return rc ? rc : jinja_container(out, r, object ? JINJA_DICT : JINJA_LIST, items, count);
}

int jinja_from_json(struct jinja_value *out, struct jinja_run *r, const struct json_doc *doc,
                    const struct json *v)
{
    const char *s = json_string(v);
    switch (json_type(v)) {
    case JSON_NULL:
        *out = (struct jinja_value){.type = JINJA_NONE};
        return 0;
    case JSON_BOOL:
        *out = jinja_bool(json_is_true(v));
        return 0;
    case JSON_NUMBER:
        return from_number(out, r, doc, v);
    case JSON_STRING:
        return jinja_copy(out, r, s, strlen(s));
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    return from_container(out, r, doc, v);
}

// ---- asking

const char *jinja_type_name(enum jinja_type t)
{
    static const char *const names[] = {
        [JINJA_UNDEFINED] = "undefined",   [JINJA_NONE] = "None",
        [JINJA_BOOL] = "a bool",           [JINJA_INT] = "an int",
        [JINJA_FLOAT] = "a float",         [JINJA_STRING] = "a str",
        [JINJA_LIST] = "a list",           [JINJA_DICT] = "a dict",
        [JINJA_VIEW] = "a dict's view",    [JINJA_GENERATOR] = "a generator",
        [JINJA_NAMESPACE] = "a namespace", [JINJA_LOOP] = "loop",
        [JINJA_FUNCTION] = "a function"};
    return names[t];
}

bool jinja_truth(const struct jinja_value *v)
{
    switch (v->type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v->truth;
    case JINJA_INT:
        return v->integer != 0;
    case JINJA_FLOAT:
        return v->real != 0;
    case JINJA_STRING:
        return v->text.len > 0;
    case JINJA_LIST:
    case JINJA_DICT:
    case JINJA_VIEW:
        return v->count > 0;
    case JINJA_GENERATOR:
    case JINJA_NAMESPACE:
    case JINJA_LOOP:
    case JINJA_FUNCTION:
        break;
    }
    return true;
}

bool jinja_is_number(const struct jinja_value *v)
{
    return v->type == JINJA_BOOL || v->type == JINJA_INT || v->type == JINJA_FLOAT;
}

int64_t jinja_integer(const struct jinja_value *v)
{
    return v->type == JINJA_BOOL ? v->truth : v->integer;
}

double jinja_real(const struct jinja_value *v)
{
    return v->type == JINJA_FLOAT ? v->real : (double)jinja_integer(v);
}

static bool equal_items(const struct jinja_value *a, const struct jinja_value *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++)
        same = jinja_equal(&a->items[i], &b->items[i]);
    return same;
}

static bool equal_pairs(const struct jinja_value *a, const struct jinja_value *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++) {
        const struct jinja_value *other = jinja_dict_get(b, a->items[2 * i].text);
        same = other && jinja_equal(&a->items[2 * i + 1], other);
    }
    return same;
}

bool jinja_equal(const struct jinja_value *a, const struct jinja_value *b)
{
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a->type == JINJA_FLOAT || b->type == JINJA_FLOAT)
            return jinja_real(a) == jinja_real(b);
        return jinja_integer(a) == jinja_integer(b);
    }
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case JINJA_STRING:
    case JINJA_FUNCTION:
        return text_equal(a->text, b->text);
    case JINJA_LIST:
    case JINJA_VIEW:
        return equal_items(a, b);
    case JINJA_DICT:
        return equal_pairs(a, b);
    case JINJA_GENERATOR:
        return a->generator == b->generator;
    case JINJA_NAMESPACE:
        return a->space == b->space;
    case JINJA_LOOP:
        return a->loop == b->loop;
    case JINJA_UNDEFINED: // and the others have one value each
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        break;
    }
    return true;
}

const struct jinja_value *jinja_dict_get(const struct jinja_value *dict, struct span key)
{
    for (size_t i = 0; i < dict->count; i++)
        if (text_equal(dict->items[2 * i].text, key))
            return &dict->items[2 * i + 1];
    return NULL;
}

const struct jinja_value *jinja_scope_get(const struct jinja_scope *s, struct span name)
{
    for (const struct jinja_variable *v = s->first; v; v = v->next)
        if (text_equal(v->name, name))
            return &v->value;
    return NULL;
}

int jinja_scope_set(struct jinja_scope *s, struct jinja_run *r, struct span name,
                    const struct jinja_value *v)
{
    for (struct jinja_variable *at = s->first; at; at = at->next) {
        if (text_equal(at->name, name)) {
            at->value = *v;
            return 0;
        }
    }
    const int rc = jinja_spend(r, sizeof(struct jinja_variable) + PIECE);
    if (rc)
        return rc;
    struct jinja_variable *added = arena_push(r->arena, sizeof *added);
    *added = (struct jinja_variable){name, *v, s->first};
    s->first = added;
    return 0;
}

// ---- into text and items

static int number_to_text(struct span *out, struct jinja_run *r, const struct jinja_value *v)
{
    struct strbuf text = {0};
    struct jinja_value copy = {0};
    if (v->type == JINJA_FLOAT && !isfinite(v->real))
        return jinja_fail(r, "a number is not finite");
    if (v->type == JINJA_FLOAT)
        text_put_float(&text, v->real);
    else
        strbuf_printf(&text, "%" PRId64, v->integer);
    const int rc = jinja_copy(&copy, r, text.data, text.len);
    strbuf_free(&text);
    *out = copy.text;
    return rc;
}

int jinja_to_text(struct span *out, struct jinja_run *r, const struct jinja_value *v)
{
    const char *word = v->type == JINJA_UNDEFINED ? ""
                       : v->type == JINJA_NONE    ? "None"
                       : v->type != JINJA_BOOL    ? NULL
                       : v->truth                 ? "True"
                                                  : "False";
    if (v->type == JINJA_INT || v->type == JINJA_FLOAT)
        return number_to_text(out, r, v);
    if (v->type != JINJA_STRING && !word)
        return jinja_refuse(r, "%s as text is not supported (the filter tojson is)",
                            jinja_type_name(v->type));
    *out = word ? (struct span){word, strlen(word)} : v->text;
    return 0;
}

static int characters(const struct jinja_value **items, size_t *count, struct jinja_run *r,
                      struct span text)
{
    struct jinja_value *list = NULL;
    *count = text_length(text);
    const int rc = jinja_items(&list, r, *count);
    for (size_t i = 0; i < *count && rc == 0; i++) {
        const size_t size = text_offset(text, 1);
        list[i] = jinja_string(text.s, size);
        text = (struct span){text.s + size, text.len - size};
    }
    *items = list;
    return rc;
}

static int iterate_generator(const struct jinja_value **items, size_t *count, struct jinja_run *r,
                             struct jinja_generator *g)
{
    if (g->used)
        return jinja_refuse(r, "going through a filter's items twice is not supported (the filter "
                               "list gives a list)");
    g->used = true;
    *items = g->items;
    *count = g->count;
    return 0;
}

int jinja_iterate(const struct jinja_value **items, size_t *count, struct jinja_run *r,
                  const struct jinja_value *v)
{
    struct jinja_value *keys = NULL;
    const bool list = v->type == JINJA_LIST || v->type == JINJA_VIEW;
    if (v->type == JINJA_STRING)
        return characters(items, count, r, v->text);
    if (v->type == JINJA_GENERATOR)
        return iterate_generator(items, count, r, v->generator);
    if (v->type == JINJA_DICT) {
        const int rc = jinja_items(&keys, r, v->count);
        for (size_t i = 0; i < v->count && rc == 0; i++)
            keys[i] = v->items[2 * i];
        *items = keys;
        *count = v->count;
        return rc;
    }
    if (v->type == JINJA_LOOP)
        return jinja_refuse(r, "going through \"loop\" is not supported");
    if (!list && v->type != JINJA_UNDEFINED)
        return jinja_fail(r, "%s is not iterable", jinja_type_name(v->type));
    *items = list ? v->items : NULL;
    *count = list ? v->count : 0;
    return 0;
}

// ---- JSON, as Python's json.dumps writes it

static void put_json_string(struct strbuf *out, struct span text)
{
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    strbuf_putc(out, '"');
    for (size_t i = 0; i < text.len; i++) {
        const char c = text.s[i];
        const char *name = NULL;
        for (size_t k = 0; k + 1 < sizeof names && !name; k += 2)
            name = names[k] == c ? &names[k + 1] : NULL;
        if (name)
            strbuf_printf(out, "\\%c", *name);
        else if ((unsigned char)c < 0x20)
            strbuf_printf(out, "\\u%04x", (unsigned)c);
        else
            strbuf_putc(out, c);
    }
    strbuf_putc(out, '"');
}

static void put_break(struct strbuf *out, int indent, int depth)
{
    if (indent < 0)
        return;
    strbuf_putc(out, '\n');
    for (int i = 0; i < indent * depth; i++)
        strbuf_putc(out, ' ');
}

static int put_json(struct strbuf *out, struct jinja_run *r, const struct jinja_value *v,
                    int indent, int depth);

static int put_json_container(struct strbuf *out, struct jinja_run *r, const struct jinja_value *v,
                              int indent, int depth)
{
    const bool dict = v->type == JINJA_DICT;
    int rc = 0;
    strbuf_putc(out, dict ? '{' : '[');
    for (size_t i = 0; i < v->count && rc == 0; i++) {
        if (i > 0)
            strbuf_puts(out, indent < 0 ? ", " : ",");
        put_break(out, indent, depth + 1);
        if (dict) {
            put_json_string(out, v->items[2 * i].text);
            strbuf_puts(out, ": ");
        }
        rc = put_json(out, r, &v->items[dict ? 2 * i + 1 : i], indent, depth + 1);
    }
    if (v->count > 0)
        put_break(out, indent, depth);
    strbuf_putc(out, dict ? '}' : ']');
    return rc;
}

static int put_json(struct strbuf *out, struct jinja_run *r, const struct jinja_value *v,
                    int indent, int depth)
{
    struct span text = {0};
    int rc = jinja_spend(r, PIECE + (v->type == JINJA_STRING ? v->text.len : 0) +
                                (size_t)(indent > 0 ? indent * depth : 0));
    if (rc)
        return rc;
    if (v->type == JINJA_STRING) {
        put_json_string(out, v->text);
    } else if (v->type == JINJA_NONE) {
        strbuf_puts(out, "null");
    } else if (v->type == JINJA_BOOL) {
        strbuf_puts(out, v->truth ? "true" : "false");
    } else if (v->type == JINJA_INT || v->type == JINJA_FLOAT) {
        rc = jinja_to_text(&text, r, v);
        if (rc == 0)
            strbuf_append(out, text.s, text.len);
    } else if (v->type == JINJA_LIST || v->type == JINJA_DICT) {
        rc = put_json_container(out, r, v, indent, depth);
    } else {
        rc = jinja_fail(r, "%s cannot be written as JSON", jinja_type_name(v->type));
    }
    return rc;
}

int jinja_put_json(struct strbuf *out, struct jinja_run *r, const struct jinja_value *v, int indent)
{
    return put_json(out, r, v, indent, 0);
}
