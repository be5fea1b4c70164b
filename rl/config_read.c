// SPDX-License-Identifier: Apache-2.0
// Reading a merged tree into the structs that the tables describe.
#include "rl/config_table.h"

#include "base/error.h"
#include "rl/config.h"
#include "rl/options.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

// A share of a mixture: what the key's lo and hi are for other numbers.
static const double share_lo = 1e-9, share_hi = 1e9;

struct reader {
    struct config_tree *tree;
    char path[256]; // of the value being read, cut when longer
};

// Appends a member's key, or an element's index when key is NULL; returns where to cut it off.
static size_t enter(struct reader *r, const char *key, int key_len, int index)
{
    const size_t mark = strlen(r->path);
    if (key)
        snprintf(r->path + mark, sizeof r->path - mark, "%s%.*s", mark ? "." : "", key_len, key);
    else
        snprintf(r->path + mark, sizeof r->path - mark, "[%d]", index);
    return mark;
}

// What was written, short enough for a line.
static void fault_value(struct reader *r, const struct config_node *n, const char *expected)
{
    struct strbuf text = {0};
    if (n->type == JSON_OBJECT || n->type == JSON_ARRAY)
        strbuf_puts(&text, json_type_name(n->type));
    else
        config_node_write(&text, n, false);
    if (text.len > 60) {
        text.data[57] = 0;
        text.data[utf8_complete_prefix(text.data, 57)] = 0;
        strcat(text.data, "...");
    }
    config_fault(r->tree, n, "%s is %s, expected %s", r->path, text.data, expected);
    strbuf_free(&text);
}

static void read_number(struct reader *r, const struct config_node *n, enum config_kind kind,
                        double lo, double hi, void *out)
{
    int64_t i = 0;
    double d = 0;
    const bool read = kind == CONFIG_REAL
                          ? json_double(n->value, &d) && d >= lo && d <= hi
                          : json_int(n->doc, n->value, (int64_t)lo, (int64_t)hi, &i);
    if (!read) {
        char expected[96];
        snprintf(expected, sizeof expected, "%s in [%.16g, %.16g]",
                 kind == CONFIG_REAL ? "a number" : "a whole number", lo, hi);
        fault_value(r, n, expected);
    } else if (kind == CONFIG_REAL) {
        *(double *)out = d;
    } else if (kind == CONFIG_INT64) {
        *(int64_t *)out = i;
    } else {
        *(int *)out = (int)i;
    }
}

static void read_word(struct reader *r, const struct config_node *n, const struct config_type *type,
                      void *out)
{
    const char *text = json_string(n->value);
    for (int i = 0; text && text[0] && i < type->num_words; i++) {
        if (strcmp(type->words[i], text) != 0)
            continue;
        if (type->kind == CONFIG_CHOICE)
            *(int *)out = i;
        else
            *(const char **)out = type->words[i];
        return;
    }
    struct strbuf expected = {0};
    strbuf_puts(&expected, "one of");
    for (int i = 0; i < type->num_words; i++)
        if (type->words[i][0])
            strbuf_printf(&expected, " \"%s\"", type->words[i]);
    const char *near = text ? options_nearest(text, type->words, type->num_words) : NULL;
    if (near && near[0])
        strbuf_printf(&expected, "; did you mean \"%s\"?", near);
    fault_value(r, n, expected.data);
    strbuf_free(&expected);
}

static int count_children(const struct config_node *n)
{
    int count = 0;
    for (const struct config_node *c = n->first; c; c = c->next)
        count += c->type != JSON_NULL;
    return count;
}

static void read_scalar_list(struct reader *r, const struct config_node *n, bool ints, double lo,
                             double hi, void *out)
{
    if (n->type != JSON_ARRAY) {
        fault_value(r, n, ints ? "a list of whole numbers" : "a list of strings");
        return;
    }
    const int count = count_children(n);
    int *numbers = arena_push0(&r->tree->arena, (size_t)(count + 1) * sizeof *numbers);
    const char **texts = arena_push0(&r->tree->arena, (size_t)(count + 1) * sizeof *texts);
    int i = 0;
    for (const struct config_node *c = n->first; c; c = c->next) {
        if (c->type == JSON_NULL)
            continue;
        const size_t mark = enter(r, NULL, 0, i);
        if (ints)
            read_number(r, c, CONFIG_INT, lo, hi, &numbers[i]);
        else if (!(texts[i] = json_string(c->value)))
            fault_value(r, c, "a string");
        r->path[mark] = 0;
        i++;
    }
    if (ints)
        *(struct config_ints *)out = (struct config_ints){count, numbers};
    else
        *(struct config_texts *)out = (struct config_texts){count, texts};
}

static void read_object(struct reader *r, const struct config_node *n,
                        const struct config_table *table, void *value);
static void read_value(struct reader *r, const struct config_node *n,
                       const struct config_type *type, double lo, double hi, void *out);

// Lists and maps; null removes what a base file has.
static void read_items(struct reader *r, const struct config_node *n,
                       const struct config_type *type, void *out)
{
    const bool map = type->kind == CONFIG_MAP;
    if (n->type != (map ? JSON_OBJECT : JSON_ARRAY)) {
        fault_value(r, n, map ? "an object" : "a list");
        return;
    }
    const int count = count_children(n);
    char *items = arena_push0(&r->tree->arena, (size_t)(count + 1) * type->item_size);
    char *item = items;
    int index = 0;
    for (const struct config_node *c = n->first; c; c = c->next) {
        if (c->type == JSON_NULL)
            continue;
        const size_t mark = enter(r, map ? c->key : NULL, map ? (int)strlen(c->key) : 0, index);
        read_value(r, c, type->item, share_lo, share_hi, item + type->item_value);
        if (map)
            *(const char **)(void *)item = c->key;
        r->path[mark] = 0;
        item += type->item_size;
        index++;
    }
    memcpy((char *)out + type->count, &count, sizeof count);
    memcpy((char *)out + type->items, &items, sizeof items);
}

// "DIR", or an object, which is kept as JSON.
static void read_model(struct reader *r, const struct config_node *n, struct config_model *out)
{
    if (n->type == JSON_STRING) {
        out->dir = config_tree_path(r->tree, n->file, json_string(n->value));
    } else if (n->type == JSON_OBJECT) {
        struct strbuf text = {0};
        config_node_write(&text, n, true);
        const int rc = config_tree_parse(r->tree, &out->doc, text.data, text.len, 0, n->file,
                                         n->line > 0 ? n->line : 1);
        strbuf_free(&text);
        if (rc == 0)
            out->value = json_root(out->doc);
        else
            config_fault(r->tree, n, "%s", err_message());
    } else {
        fault_value(r, n, "a directory, or an object with the fields of a config.json");
    }
}

static void read_value(struct reader *r, const struct config_node *n,
                       const struct config_type *type, double lo, double hi, void *out)
{
    switch (type->kind) {
    case CONFIG_INT:
    case CONFIG_INT64:
    case CONFIG_REAL:
        read_number(r, n, type->kind, lo, hi, out);
        break;
    case CONFIG_FLAG:
        if (!json_bool(n->value, out))
            fault_value(r, n, "true or false");
        break;
    case CONFIG_TEXT:
    case CONFIG_PATH: {
        const char *text = json_string(n->value);
        if (!text || (type->kind == CONFIG_PATH && !text[0]))
            fault_value(r, n, text ? "a path" : "a string");
        else
            *(const char **)out =
                type->kind == CONFIG_PATH ? config_tree_path(r->tree, n->file, text) : text;
        break;
    }
    case CONFIG_INT_LIST:
    case CONFIG_TEXT_LIST:
        read_scalar_list(r, n, type->kind == CONFIG_INT_LIST, lo, hi, out);
        break;
    case CONFIG_CHOICE:
    case CONFIG_WORD:
        read_word(r, n, type, out);
        break;
    case CONFIG_MODEL:
        read_model(r, n, out);
        break;
    case CONFIG_OBJECT:
        read_object(r, n, type->table, out);
        break;
    case CONFIG_LIST:
    case CONFIG_MAP:
        read_items(r, n, type, out);
        break;
    }
}

static void fault_unknown(struct reader *r, const struct config_node *n,
                          const struct config_table *table)
{
    char copies[64][40];
    const char *names[64];
    assert(table->num_keys <= 64);
    for (int i = 0; i < table->num_keys; i++) {
        snprintf(copies[i], sizeof copies[i], "%.*s", config_key_len(&table->keys[i]),
                 table->keys[i].name);
        names[i] = copies[i];
    }
    const char *near = options_nearest(n->key, names, table->num_keys);
    char where[300] = "the config";
    if (r->path[0])
        snprintf(where, sizeof where, "\"%s\"", r->path);
    config_fault(r->tree, n, "unknown key \"%.80s\" in %s%s%s%s", n->key, where,
                 near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static void fault_not_for(struct reader *r, const struct config_node *n,
                          const struct config_table *table, const struct config_key *k,
                          const void *value)
{
    const char *word = config_object_word(table, value);
    config_fault(r->tree, n, "%s is for %.*s \"%s\" only%s%s%s", r->path,
                 config_key_len(table->keys), table->keys->name, config_key_word(table, k),
                 word[0] ? "; this one is \"" : "", word, word[0] ? "\"" : "");
}

static void set_defaults(const struct config_table *table, void *value)
{
    memcpy(value, table->defaults, table->size);
    for (int i = 0; i < table->num_keys; i++)
        if (table->keys[i].type->kind == CONFIG_OBJECT)
            set_defaults(table->keys[i].type->table, (char *)value + table->keys[i].offset);
}

static void read_object(struct reader *r, const struct config_node *n,
                        const struct config_table *table, void *value)
{
    set_defaults(table, value);
    if (n->type != JSON_OBJECT) {
        fault_value(r, n, "an object");
        return;
    }
    for (int i = 0; i < table->num_keys; i++) { // in the table's order: its first key decides
        const struct config_key *k = &table->keys[i];
        const struct config_node *c = n->first;
        while (c && config_table_find(table, c->key) != k)
            c = c->next;
        if (!c || c->type == JSON_NULL) {
            if (config_key_required(table, k))
                config_fault(r->tree, n, "%s has no \"%s\"", r->path, k->name);
            continue;
        }
        const size_t mark = enter(r, c->key, (int)strlen(c->key), 0);
        if (config_key_applies(table, k, value))
            read_value(r, c, k->type, k->lo, k->hi, (char *)value + k->offset);
        else
            fault_not_for(r, c, table, k, value);
        r->path[mark] = 0;
    }
    for (const struct config_node *c = n->first; c; c = c->next)
        if (!config_table_find(table, c->key))
            fault_unknown(r, c, table);
}

void config_table_read(struct config_tree *t, const struct config_node *n,
                       const struct config_table *table, void *value)
{
    struct reader r = {.tree = t};
    t->reading = true;
    read_object(&r, n, table, value);
    t->reading = false;
}
