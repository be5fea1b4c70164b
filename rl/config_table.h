// SPDX-License-Identifier: Apache-2.0
// The tables of configs/config.h at work: reading a merged tree into the structs of rl/config.h,
// writing the structs back, and describing the keys to people and to editors. Nothing here knows
// what a key is for. Reading adds faults to the tree and goes on. Used by rl/config only.
#ifndef RL_CONFIG_TABLE_H
#define RL_CONFIG_TABLE_H

#include "base/json.h"
#include "rl/config_tree.h"
#include <stdbool.h>
#include <stddef.h>

enum config_kind {
    CONFIG_INT,
    CONFIG_INT64,
    CONFIG_REAL,
    CONFIG_FLAG,
    CONFIG_TEXT,
    CONFIG_PATH,
    CONFIG_INT_LIST,
    CONFIG_TEXT_LIST,
    CONFIG_CHOICE, // an enum, whose constants count the words from 0; the word "" is for absence
    CONFIG_WORD,   // text that is one of the words
    CONFIG_MODEL,
    CONFIG_OBJECT,
    CONFIG_LIST, // of items
    CONFIG_MAP   // of items, each of which starts with its key
};

struct config_type {
    enum config_kind kind;
    const char *const *words; // CONFIG_CHOICE, CONFIG_WORD
    int num_words;
    const struct config_table *table; // CONFIG_OBJECT
    const struct config_type *item;   // CONFIG_LIST, CONFIG_MAP: type of the values,
    size_t item_size;                 // the distance between items, and where in an item
    size_t item_value;                // its value starts
    size_t count, items;              // where in the list its count and its items are
};

struct config_key {
    const char *name; // a trailing underscore is not part of it: `for` is a word of C
    const struct config_type *type;
    size_t offset;
    double lo, hi;
    const char *help;
};

// One kind of object. Where the help of a key begins with "WORD: ", and WORD is one of the words of
// the table's first key, the key is only for objects whose first key is that word.
struct config_table {
    const char *name;
    const struct config_key *keys;
    int num_keys;
    size_t size;
    const void *defaults;
};
const struct config_table *config_table_root(void); // of struct config

int config_key_len(const struct config_key *k); // of its name
const struct config_key *config_table_find(const struct config_table *table, const char *name);
const char *config_object_word(const struct config_table *table, const void *value); // or ""
const char *config_key_word(const struct config_table *table,
                            const struct config_key *k); // or NULL
// Whether it must be given: a first key that is one of some words, none of which is "".
bool config_key_required(const struct config_table *table, const struct config_key *k);
bool config_key_applies(const struct config_table *table, const struct config_key *k,
                        const void *value);

// Fills value (of table->size bytes) with defaults, then with what the node holds. Lists and maps
// are in the tree's arena. (config_read.c)
void config_table_read(struct config_tree *t, const struct config_node *n,
                       const struct config_table *table, void *value);

// Writes an object as it would be read. (config_print.c)
void config_table_write(struct json_writer *w, const struct config_table *table, const void *value);

// Lays compact JSON out over lines. (config_print.c)
void config_json_indent(struct strbuf *out, const char *compact, size_t len);

// See config_explain and config_schema in rl/config.h. (config_print.c)
int config_table_explain(struct strbuf *out, const char *path);
void config_table_explain_all(struct strbuf *out);
void config_table_schema(struct json_writer *w);

#endif
