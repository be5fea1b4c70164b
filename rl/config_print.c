// SPDX-License-Identifier: Apache-2.0
// Writing structs back as JSON, and the tables as a person or an editor reads them.
#include "rl/config_table.h"

#include "base/error.h"
#include "rl/config.h"
#include <stdio.h>
#include <string.h>

// ---- values

static void write_value(struct json_writer *w, const struct config_type *type, const void *value);

static void write_list(struct json_writer *w, const struct config_type *type, const void *value)
{
    const bool map = type->kind == CONFIG_MAP;
    int count;
    const char *item;
    memcpy(&count, (const char *)value + type->count, sizeof count);
    memcpy(&item, (const char *)value + type->items, sizeof item);
    if (map)
        json_begin_object(w);
    else
        json_begin_array(w);
    for (int i = 0; i < count; i++, item += type->item_size) {
        const char *key;
        memcpy(&key, item, sizeof key);
        if (map)
            json_put_key(w, key);
        write_value(w, type->item, item + type->item_value);
    }
    if (map)
        json_end_object(w);
    else
        json_end_array(w);
}

// Whether there is something to write: text, words, models and lists may be absent.
static bool is_given(const struct config_type *type, const void *value)
{
    const void *pointer = NULL;
    switch (type->kind) {
    case CONFIG_TEXT:
    case CONFIG_PATH:
    case CONFIG_WORD:
        memcpy(&pointer, value, sizeof pointer);
        return pointer != NULL;
    case CONFIG_CHOICE:
        return type->words[*(const int *)value][0] != 0;
    case CONFIG_MODEL: {
        const struct config_model *m = value;
        return m->dir || m->value;
    }
    case CONFIG_INT_LIST:
        return ((const struct config_ints *)value)->items != NULL;
    case CONFIG_TEXT_LIST:
        return ((const struct config_texts *)value)->items != NULL;
    case CONFIG_LIST:
    case CONFIG_MAP:
        memcpy(&pointer, (const char *)value + type->items, sizeof pointer);
        return pointer != NULL;
    case CONFIG_INT:
    case CONFIG_INT64:
    case CONFIG_REAL:
    case CONFIG_FLAG:
    case CONFIG_OBJECT:
        break;
    }
    return true;
}

static void write_lists_of_scalars(struct json_writer *w, const struct config_type *type,
                                   const void *value)
{
    json_begin_array(w);
    if (type->kind == CONFIG_INT_LIST) {
        const struct config_ints *list = value;
        for (int i = 0; i < list->count; i++)
            json_put_int(w, list->items[i]);
    } else {
        const struct config_texts *list = value;
        for (int i = 0; i < list->count; i++)
            json_put_string(w, list->items[i]);
    }
    json_end_array(w);
}

static void write_value(struct json_writer *w, const struct config_type *type, const void *value)
{
    switch (type->kind) {
    case CONFIG_INT:
        json_put_int(w, *(const int *)value);
        break;
    case CONFIG_INT64:
        json_put_int(w, *(const int64_t *)value);
        break;
    case CONFIG_REAL:
        json_put_double(w, *(const double *)value);
        break;
    case CONFIG_FLAG:
        json_put_bool(w, *(const bool *)value);
        break;
    case CONFIG_TEXT:
    case CONFIG_PATH:
    case CONFIG_WORD:
        json_put_string(w, *(const char *const *)value);
        break;
    case CONFIG_CHOICE:
        json_put_string(w, type->words[*(const int *)value]);
        break;
    case CONFIG_MODEL: {
        const struct config_model *m = value;
        if (m->dir)
            json_put_string(w, m->dir);
        else
            json_put_value(w, m->doc, m->value);
        break;
    }
    case CONFIG_INT_LIST:
    case CONFIG_TEXT_LIST:
        write_lists_of_scalars(w, type, value);
        break;
    case CONFIG_OBJECT:
        config_table_write(w, type->table, value);
        break;
    case CONFIG_LIST:
    case CONFIG_MAP:
        write_list(w, type, value);
        break;
    }
}

static void put_key(struct json_writer *w, const struct config_key *k)
{
    char name[64];
    const int len = config_key_len(k);
    memcpy(name, k->name, (size_t)len);
    name[len] = 0;
    json_put_key(w, name);
}

void config_table_write(struct json_writer *w, const struct config_table *table, const void *value)
{
    json_begin_object(w);
    for (int i = 0; i < table->num_keys; i++) {
        const struct config_key *k = &table->keys[i];
        const void *field = (const char *)value + k->offset;
        if (!config_key_applies(table, k, value) || !is_given(k->type, field))
            continue;
        put_key(w, k);
        write_value(w, k->type, field);
    }
    json_end_object(w);
}

void config_json_indent(struct strbuf *out, const char *compact, size_t len)
{
    char open[128];
    int depth = 0;
    bool text = false;
    for (size_t i = 0; i < len; i++) {
        const char c = compact[i];
        if (text || c == '"') {
            strbuf_putc(out, c);
            if (c == '\\')
                strbuf_putc(out, compact[++i]);
            text = text ? c != '"' : true;
            continue;
        }
        const bool opens = c == '{' || c == '[', closes = c == '}' || c == ']';
        const bool empty = opens && (compact[i + 1] == '}' || compact[i + 1] == ']');
        if (closes && compact[i - 1] != '{' && compact[i - 1] != '[' && open[--depth] == '{')
            strbuf_printf(out, "\n%*s", 2 * depth, "");
        strbuf_putc(out, c);
        if (opens && !empty)
            open[depth++] = c;
        const bool member = depth > 0 && open[depth - 1] == '{';
        if ((opens && !empty && member) || (c == ',' && member))
            strbuf_printf(out, "\n%*s", 2 * depth, "");
        else if (c == ':' || c == ',')
            strbuf_putc(out, ' ');
    }
    strbuf_putc(out, '\n');
}

// ---- for people

static const struct config_type *innermost(const struct config_type *type)
{
    while (type->kind == CONFIG_LIST || type->kind == CONFIG_MAP)
        type = type->item;
    return type;
}

static void describe_type(struct strbuf *out, const struct config_key *k)
{
    switch (k->type->kind) {
    case CONFIG_INT:
    case CONFIG_INT64:
    case CONFIG_REAL:
    case CONFIG_INT_LIST:
        strbuf_printf(out, "%s%s in [%.16g, %.16g]",
                      k->type->kind == CONFIG_INT_LIST ? "list, each " : "",
                      k->type->kind == CONFIG_REAL ? "number" : "whole number", k->lo, k->hi);
        break;
    case CONFIG_FLAG:
        strbuf_puts(out, "true or false");
        break;
    case CONFIG_TEXT:
        strbuf_puts(out, "text");
        break;
    case CONFIG_PATH:
        strbuf_puts(out, "path");
        break;
    case CONFIG_TEXT_LIST:
        strbuf_puts(out, "list of text");
        break;
    case CONFIG_CHOICE:
    case CONFIG_WORD:
        for (int i = 0, shown = 0; i < k->type->num_words; i++)
            if (k->type->words[i][0])
                strbuf_printf(out, "%s\"%s\"", shown++ ? " | " : "", k->type->words[i]);
        break;
    case CONFIG_MODEL:
        strbuf_puts(out, "path or object");
        break;
    case CONFIG_OBJECT:
        strbuf_puts(out, "object");
        break;
    case CONFIG_LIST:
        strbuf_puts(out, "list of objects");
        break;
    case CONFIG_MAP:
        strbuf_printf(out, "object: %s by source",
                      innermost(k->type)->kind == CONFIG_REAL ? "numbers"
                      : k->type->item->kind == CONFIG_LIST    ? "lists of objects"
                                                              : "objects");
        break;
    }
}

// The default as JSON; nothing where there is none, or it is derived.
static bool write_default(struct json_writer *w, const struct config_table *table,
                          const struct config_key *k)
{
    const void *field = (const char *)table->defaults + k->offset;
    if (k->type->kind == CONFIG_OBJECT || !is_given(k->type, field))
        return false;
    if (k->type->kind == CONFIG_REAL && *(const double *)field < k->lo)
        return false;
    if (config_key_required(table, k))
        return false;
    write_value(w, k->type, field);
    return true;
}

// A key, and the keys below it; sections that stand at the top as well are explained there.
static void explain_key(struct strbuf *out, const struct config_table *table,
                        const struct config_key *k, const char *prefix)
{
    const struct config_type *inner = innermost(k->type);
    strbuf_printf(out, "%s%.*s", prefix, config_key_len(k), k->name);
    struct strbuf value = {0};
    struct json_writer w = {.out = &value};
    if (write_default(&w, table, k))
        strbuf_printf(out, " = %s", value.data);
    strbuf_free(&value);
    strbuf_puts(out, "    ");
    describe_type(out, k);
    strbuf_printf(out, "%s\n    %s\n", config_key_required(table, k) ? ", required" : "", k->help);
    const struct config_table *root = config_table_root();
    for (int i = 0; table != root && i < root->num_keys; i++)
        if (root->keys[i].type == k->type && k->type->kind != CONFIG_PATH)
            return;
    if (inner->kind != CONFIG_OBJECT)
        return;
    struct strbuf below = {0};
    strbuf_printf(&below, "%s%.*s", prefix, config_key_len(k), k->name);
    for (const struct config_type *t = k->type; t != inner; t = t->item)
        strbuf_puts(&below, t->kind == CONFIG_MAP ? ".SOURCE" : "[]");
    strbuf_putc(&below, '.');
    for (int i = 0; i < inner->table->num_keys; i++)
        explain_key(out, inner->table, &inner->table->keys[i], below.data);
    strbuf_free(&below);
}

int config_table_explain(struct strbuf *out, const char *path)
{
    const struct config_table *table = config_table_root(), *owner = NULL;
    const struct config_key *found = NULL;
    struct strbuf prefix = {0};
    bool item = false; // the next segment may name an item: a source, or an index
    for (const char *at = path, *end; at; at = *end ? end + 1 : NULL) {
        end = at + strcspn(at, ".");
        char segment[64];
        const size_t len = strcspn(at, ".[");
        snprintf(segment, sizeof segment, "%.*s", (int)len, at);
        const struct config_key *k = table ? config_table_find(table, segment) : NULL;
        if (!k && !item) {
            strbuf_free(&prefix);
            return err_set(ERR_CONFIG, "\"%s\" is no key of a config; see `gradus config`", path);
        }
        item = false;
        if (!k)
            continue;
        if (found)
            strbuf_printf(&prefix, "%.*s.", config_key_len(found), found->name);
        found = k;
        owner = table;
        const struct config_type *inner = innermost(k->type);
        table = inner->kind == CONFIG_OBJECT ? inner->table : NULL;
        item = inner != k->type;
    }
    explain_key(out, owner, found, prefix.data ? prefix.data : "");
    strbuf_free(&prefix);
    return 0;
}

void config_table_explain_all(struct strbuf *out)
{
    const struct config_table *root = config_table_root();
    for (int i = 0; i < root->num_keys; i++)
        explain_key(out, root, &root->keys[i], "");
}

// ---- for editors: JSON Schema, draft 2020-12

static void schema_type(struct json_writer *w, const struct config_type *type, double lo, double hi)
{
    static const char *const names[] = {
        [CONFIG_INT] = "integer",    [CONFIG_INT64] = "integer",   [CONFIG_REAL] = "number",
        [CONFIG_FLAG] = "boolean",   [CONFIG_TEXT] = "string",     [CONFIG_PATH] = "string",
        [CONFIG_INT_LIST] = "array", [CONFIG_TEXT_LIST] = "array", [CONFIG_CHOICE] = "string",
        [CONFIG_WORD] = "string",    [CONFIG_OBJECT] = "object",   [CONFIG_LIST] = "array",
        [CONFIG_MAP] = "object"};
    if (type->kind == CONFIG_OBJECT) {
        char ref[64];
        snprintf(ref, sizeof ref, "#/$defs/%s", type->table->name);
        json_put_key(w, "$ref");
        json_put_string(w, ref);
        return;
    }
    json_put_key(w, "type");
    if (type->kind == CONFIG_MODEL) {
        json_begin_array(w);
        json_put_string(w, "string");
        json_put_string(w, "object");
        json_end_array(w);
        return;
    }
    json_put_string(w, names[type->kind]);
    if (type->kind == CONFIG_INT || type->kind == CONFIG_INT64 || type->kind == CONFIG_REAL) {
        json_put_key(w, "minimum");
        json_put_double(w, lo);
        json_put_key(w, "maximum");
        json_put_double(w, hi);
    }
    if (type->kind == CONFIG_CHOICE || type->kind == CONFIG_WORD) {
        json_put_key(w, "enum");
        json_begin_array(w);
        for (int i = 0; i < type->num_words; i++)
            if (type->words[i][0])
                json_put_string(w, type->words[i]);
        json_end_array(w);
    }
    static const struct config_type number = {.kind = CONFIG_INT}, text = {.kind = CONFIG_TEXT};
    const struct config_type *item = type->kind == CONFIG_INT_LIST    ? &number
                                     : type->kind == CONFIG_TEXT_LIST ? &text
                                                                      : type->item;
    if (!item)
        return;
    json_put_key(w, type->kind == CONFIG_MAP ? "additionalProperties" : "items");
    json_begin_object(w);
    schema_type(w, item, lo, hi);
    json_end_object(w);
}

static void schema_property(struct json_writer *w, const char *name, const char *help)
{
    json_put_key(w, name);
    json_begin_object(w);
    json_put_key(w, "type");
    json_put_string(w, "string");
    json_put_key(w, "description");
    json_put_string(w, help);
    json_end_object(w);
}

// The members of an object's schema.
static void schema_table(struct json_writer *w, const struct config_table *table)
{
    json_put_key(w, "type");
    json_put_string(w, "object");
    json_put_key(w, "additionalProperties");
    json_put_bool(w, false);
    if (config_key_required(table, table->keys)) {
        json_put_key(w, "required");
        json_begin_array(w);
        json_put_string(w, table->keys->name);
        json_end_array(w);
    }
    json_put_key(w, "properties");
    json_begin_object(w);
    if (table == config_table_root()) {
        schema_property(w, "$schema", "for editors");
        schema_property(w, "base", "a config that this one amends");
    }
    for (int i = 0; i < table->num_keys; i++) {
        const struct config_key *k = &table->keys[i];
        struct strbuf value = {0};
        put_key(w, k);
        json_begin_object(w);
        schema_type(w, k->type, k->lo, k->hi);
        json_put_key(w, "description");
        json_put_string(w, k->help);
        if (write_default(&(struct json_writer){.out = &value}, table, k)) {
            json_put_key(w, "default");
            write_default(w, table, k);
        }
        strbuf_free(&value);
        json_end_object(w);
    }
    json_end_object(w);
}

// One definition for each table that is reached; `done` lists those that have theirs.
static void schema_definitions(struct json_writer *w, const struct config_table *table,
                               const struct config_table **done, int *num_done)
{
    for (int i = 0; i < table->num_keys; i++) {
        const struct config_type *inner = innermost(table->keys[i].type);
        bool known = inner->kind != CONFIG_OBJECT;
        for (int j = 0; j < *num_done && !known; j++)
            known = done[j] == inner->table;
        if (known)
            continue;
        done[(*num_done)++] = inner->table;
        json_put_key(w, inner->table->name);
        json_begin_object(w);
        schema_table(w, inner->table);
        json_end_object(w);
        schema_definitions(w, inner->table, done, num_done);
    }
}

void config_table_schema(struct json_writer *w)
{
    const struct config_table *done[32];
    int num_done = 0;
    json_begin_object(w);
    json_put_key(w, "$schema");
    json_put_string(w, "https://json-schema.org/draft/2020-12/schema");
    json_put_key(w, "title");
    json_put_string(w, "Gradus: the config of a run");
    schema_table(w, config_table_root());
    json_put_key(w, "$defs");
    json_begin_object(w);
    schema_definitions(w, config_table_root(), done, &num_done);
    json_end_object(w);
    json_end_object(w);
}
