// SPDX-License-Identifier: Apache-2.0
// The values of a chat template: what JSON can say, and what a template adds. They are immutable,
// save for namespaces, and live in the arena of the rendering. Operations do what Python does on
// these types, and fail where it would raise. Internal to the chat template.
#ifndef POLICY_JINJA_VALUE_H
#define POLICY_JINJA_VALUE_H

#include "base/json.h"
#include "base/mem.h"
#include "policy/jinja_text.h"

enum jinja_type {
    JINJA_UNDEFINED, // Jinja's own: a missing name or member
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_DICT,
    JINJA_VIEW,      // keys, values or pairs of a dict: no list, but items to go through
    JINJA_GENERATOR, // what lazy filters give: items to go through once
    JINJA_NAMESPACE,
    JINJA_LOOP,    // the variable `loop`
    JINJA_FUNCTION // a global function that is named, not called
};

struct jinja_value {
    enum jinja_type type;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct span text; // of UNDEFINED: the name that is missing; of FUNCTION: its own
        struct {
            const struct jinja_value *items; // of a LIST or VIEW; of a DICT keys and values in turn
            uint32_t count;                  // items of a LIST or VIEW, pairs of a DICT
            uint32_t depth;                  // of the nesting, itself included
        };
        struct jinja_scope *space;
        const struct jinja_loop *loop;
        struct jinja_generator *generator;
    };
};

struct jinja_generator {
    const struct jinja_value *items;
    size_t count;
    bool used;
};

// Named values: the variables of a frame, the members of a namespace.
struct jinja_variable {
    struct span name;
    struct jinja_value value;
    struct jinja_variable *next;
};
struct jinja_scope {
    struct jinja_variable *first;
    struct jinja_scope *outer; // of a frame; NULL: the outermost, or a namespace
};

struct jinja_loop {
    const struct jinja_value *items;
    size_t count, index;
};

// What a rendering needs everywhere.
struct jinja_run {
    const char *name; // of the template, in errors
    int line;         // of the node that is evaluated, for errors
    struct arena *arena;
    struct jinja_scope *scope;
    struct strbuf *out;
    size_t work;  // spent so far: bytes made or looked at
    int64_t time; // for strftime_now, seconds since 1970; negative: there is no such function
};

// The fault of a conversation that the template does not take (ERR_DATA), and of a template that
// asks for what is not supported (ERR_MODEL); both name template and line.
int jinja_fail(const struct jinja_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int jinja_refuse(const struct jinja_run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
// Counts work; ERR_MODEL when a template would go on without end.
int jinja_spend(struct jinja_run *r, size_t bytes);

struct jinja_value jinja_string(const char *s, size_t len); // borrowed
struct jinja_value jinja_int(int64_t i);
struct jinja_value jinja_bool(bool b);
struct jinja_value jinja_undefined(struct span what);
// A copy of bytes, or room for items (zeroed: undefined), in the arena.
int jinja_copy(struct jinja_value *out, struct jinja_run *r, const char *s, size_t len);
int jinja_items(struct jinja_value **out, struct jinja_run *r, size_t count);
// A JINJA_LIST, JINJA_DICT or JINJA_VIEW of items that are set; refused where it nests too deeply.
int jinja_container(struct jinja_value *out, const struct jinja_run *r, enum jinja_type type,
                    const struct jinja_value *items, size_t count);
int jinja_generator(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *items,
                    size_t count);
// A JSON value, converted. Numbers are integers when written so; one beyond 64 bits is refused.
int jinja_from_json(struct jinja_value *out, struct jinja_run *r, const struct json_doc *doc,
                    const struct json *v);

const char *jinja_type_name(enum jinja_type t); // as Python calls it, with an article
bool jinja_truth(const struct jinja_value *v);
bool jinja_is_number(const struct jinja_value *v);  // bool, int or float
double jinja_real(const struct jinja_value *v);     // of a number
int64_t jinja_integer(const struct jinja_value *v); // of a bool or int
bool jinja_equal(const struct jinja_value *a, const struct jinja_value *b);

// The value of a string key; NULL: there is none.
const struct jinja_value *jinja_dict_get(const struct jinja_value *dict, struct span key);
const struct jinja_value *jinja_scope_get(const struct jinja_scope *s, struct span name);
int jinja_scope_set(struct jinja_scope *s, struct jinja_run *r, struct span name,
                    const struct jinja_value *v);

// str(v), refused for what Python writes by repr.
int jinja_to_text(struct span *out, struct jinja_run *r, const struct jinja_value *v);
// What iterating over v gives: items, keys, characters. A generator is refused the second time.
int jinja_iterate(const struct jinja_value **items, size_t *count, struct jinja_run *r,
                  const struct jinja_value *v);
// Appends json.dumps(v, ensure_ascii=False, indent=indent); indent -1: None, on one line.
int jinja_put_json(struct strbuf *out, struct jinja_run *r, const struct jinja_value *v,
                   int indent);

#endif
