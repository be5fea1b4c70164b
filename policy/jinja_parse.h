// SPDX-License-Identifier: Apache-2.0
// The syntax tree of a chat template. What Jinja has beyond the subset is refused here, by name and
// line, wherever the text alone shows it. Internal to the chat template.
#ifndef POLICY_JINJA_PARSE_H
#define POLICY_JINJA_PARSE_H

#include "policy/jinja_value.h"

struct jinja_builtin; // policy/jinja_builtins.h

enum jinja_node_kind {
    // statements
    JINJA_NODE_TEXT,
    JINJA_NODE_PRINT, // a
    JINJA_NODE_IF,    // list: branches, each with its condition a (NULL: else) and its list
    JINJA_NODE_FOR,   // names: the targets; a: over what; list: the body
    JINJA_NODE_SET,   // text: the variable; text2: its member (len 0: none); a: the value
    // expressions
    JINJA_NODE_VALUE,
    JINJA_NODE_NAME,
    JINJA_NODE_LIST,      // list
    JINJA_NODE_DICT,      // list: key and value in turn
    JINJA_NODE_MEMBER,    // a.text
    JINJA_NODE_ITEM,      // a[b]
    JINJA_NODE_SLICE,     // a[list], three nodes: start, stop, step (JINJA_NODE_VALUE none: absent)
    JINJA_NODE_CALL,      // builtin(list)
    JINJA_NODE_METHOD,    // a.builtin(list)
    JINJA_NODE_FILTER,    // a | builtin(list)
    JINJA_NODE_TEST,      // a is builtin(list)
    JINJA_NODE_KEYWORD,   // text=a, in the list of a call
    JINJA_NODE_NOT,       // a
    JINJA_NODE_NEGATIVE,  // a
    JINJA_NODE_AND,       // a, b
    JINJA_NODE_OR,        // a, b
    JINJA_NODE_OPERATION, // a text b: arithmetic, ~, comparisons, in, not in
    JINJA_NODE_CHOICE     // b if a else c (NULL: undefined)
};

struct jinja_node {
    enum jinja_node_kind kind;
    int line;
    int depth; // of the tree below, itself included
    struct span text, text2;
    struct jinja_value value;
    const struct jinja_builtin *builtin;
    struct jinja_node *a, *b, *c;
    struct jinja_node *list, *names;
    struct jinja_node *next; // in a list
};

// The statements of a template, a list, in the arena (NULL: none). Errors: ERR_MODEL,
// "NAME:LINE: what".
int jinja_parse(struct jinja_node **out, struct arena *a, const char *source, size_t len,
                const char *name);

#endif
