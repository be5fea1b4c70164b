// SPDX-License-Identifier: Apache-2.0
// A config before it is understood: the values of a file, of the files that it amends and of --set
// options, merged into one tree whose every node knows where it was written; and the list of faults
// that is built up while the tree is read. Used by rl/config only, by one thread.
#ifndef RL_CONFIG_TREE_H
#define RL_CONFIG_TREE_H

#include "base/json.h"
#include "base/mem.h"
#include "rl/verb.h"
#include <stdbool.h>

struct config_node {
    const char *key;  // of a member; NULL for an element
    const char *file; // where it was written: a file and a line, or "--set ..." and 0
    int line;
    bool inherited; // a copy of a node that is read in another place as well
    enum json_type type;
    const struct json_doc *doc; // the value as it was written; of objects and lists, whose children
    const struct json *value;   // may have been merged, only the type is to be read from here
    struct config_node *first, *next; // children, in order
};

struct config_tree {
    struct arena arena; // nodes, and what is made of them
    struct json_doc **docs;
    int num_docs;
    struct config_node *root; // an object
    struct strbuf faults;     // one a line
    int num_faults;
    bool reading; // faults of inherited nodes were reported where they come from
};

// Fills a zeroed tree. text NULL: reads the file `name`. ERR_CONFIG at once for a file that cannot
// be read or parsed; faults of --set options are added to the list.
int config_tree_open(struct config_tree *t, const char *name, const char *text, size_t len,
                     const struct option_list *sets);
void config_tree_free(struct config_tree *t);

// The child with this key; NULL when there is none, or null was written.
struct config_node *config_node_get(const struct config_node *object, const char *key);

// Members of `from` that object lacks are added to it, recursively; they are copied.
void config_node_inherit(struct config_tree *t, struct config_node *object,
                         const struct config_node *from);

// Appends the value, as merged, as JSON; with `lines`, members keep the lines they were written on
// as far as they come from one file.
void config_node_write(struct strbuf *out, const struct config_node *n, bool lines);

// Parses JSON whose document lives as long as the tree. Errors: ERR_CONFIG.
int config_tree_parse(struct config_tree *t, const struct json_doc **out, const char *text,
                      size_t len, int flags, const char *name, int first_line);

// Adds "FILE:LINE: ..." to the faults, unless the same fault is there already; config_fault_text
// adds lines that are whole.
void config_fault(struct config_tree *t, const struct config_node *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void config_fault_text(struct config_tree *t, const char *lines);

// A path as the config means it: looked for beside the file that it is written in, then in the
// folders above that, then as it is; where nothing is found, as it is. In the tree's arena.
const char *config_tree_path(struct config_tree *t, const char *file, const char *path);

#endif
