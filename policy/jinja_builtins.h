// SPDX-License-Identifier: Apache-2.0
// Filters, tests, methods and global functions of chat templates: those of the subset, each as
// Jinja 3.1 and transformers define it. Internal to the chat template.
#ifndef POLICY_JINJA_BUILTINS_H
#define POLICY_JINJA_BUILTINS_H

#include "policy/jinja_value.h"

enum jinja_builtin_kind {
    JINJA_FILTER_BUILTIN,
    JINJA_TEST_BUILTIN,
    JINJA_METHOD_BUILTIN,
    JINJA_GLOBAL_BUILTIN
};

enum { JINJA_ARGS_MAX = 4 };

struct jinja_call {
    struct jinja_value self; // what is filtered, tested, or has the method
    // By parameter; those that were not given are NULL.
    const struct jinja_value *args[JINJA_ARGS_MAX];
    // Of a function that takes any: names and values in turn.
    const struct jinja_value *named;
    size_t num_named;
};

struct jinja_builtin {
    const char *name;
    enum jinja_builtin_kind kind;
    const char *params; // names between blanks; "**": any keywords
    int required;       // the first so many must be given
    int (*run)(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c);
};

// The tables that jinja_builtin_find looks into; each ends with a row without a name.
extern const struct jinja_builtin jinja_builtins_text[], jinja_builtins_items[];

// NULL: the subset has none of that name.
const struct jinja_builtin *jinja_builtin_find(enum jinja_builtin_kind kind, struct span name);
// Place of a parameter; -1: there is none of that name.
int jinja_builtin_param(const struct jinja_builtin *b, struct span name);
int jinja_builtin_num_params(const struct jinja_builtin *b);

// The text of a str; ERR_DATA for another type, which `what` is then said to be.
int jinja_want_text(struct span *out, struct jinja_run *r, const struct jinja_value *v,
                    const char *what);

// Global functions of Jinja and transformers, in the subset or not: their names are defined.
bool jinja_is_global(struct span name);
// Whether Python's type has a method (or another attribute) of that name, in the subset or not.
bool jinja_type_has_method(enum jinja_type t, struct span name);

#endif
