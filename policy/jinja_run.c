// SPDX-License-Identifier: Apache-2.0
// Theory of operation. A walk over the tree. Variables live in frames: the template's own, and one
// an iteration of a loop; a name is looked for from the innermost frame outwards and set in the
// innermost, which is what Jinja's scoping comes to for the statements of the subset.
#include "policy/jinja_run.h"

#include "policy/jinja_builtins.h"

#include <math.h>
#include <string.h>

#define NODE_WORK 32 // of evaluating one node

static int eval(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n);

static bool is_operator(const struct jinja_node *n, const char *s)
{
    return text_equal(n->text, (struct span){s, strlen(s)});
}

// ---- names and members

static void find_name(struct jinja_value *out, const struct jinja_run *r, struct span name)
{
    for (const struct jinja_scope *s = r->scope; s; s = s->outer) {
        const struct jinja_value *v = jinja_scope_get(s, name);
        if (v) {
            *out = *v;
            return;
        }
    }
    *out = jinja_undefined(name);
    const bool clock = text_equal(name, (struct span){"strftime_now", 12});
    if (jinja_is_global(name) && !(clock && r->time < 0))
        out->type = JINJA_FUNCTION;
}

static int loop_member(struct jinja_value *out, struct jinja_run *r, const struct jinja_loop *loop,
                       struct span name)
{
    const int64_t i = (int64_t)loop->index, n = (int64_t)loop->count;
    const struct {
        const char *name;
        struct jinja_value value;
    } members[] = {{"index", jinja_int(i + 1)},
                   {"index0", jinja_int(i)},
                   {"revindex", jinja_int(n - i)},
                   {"revindex0", jinja_int(n - i - 1)},
                   {"first", jinja_bool(i == 0)},
                   {"last", jinja_bool(i + 1 == n)},
                   {"length", jinja_int(n)},
                   {"previtem", i > 0 ? loop->items[i - 1] : jinja_undefined(name)},
                   {"nextitem", i + 1 < n ? loop->items[i + 1] : jinja_undefined(name)}};
    for (size_t k = 0; k < sizeof members / sizeof *members; k++) {
        if (text_equal(name, (struct span){members[k].name, strlen(members[k].name)})) {
            *out = members[k].value;
            return 0;
        }
    }
    return jinja_refuse(r, "\"loop.%.*s\" is not supported", text_shown(name), name.s);
}

// v.name for what is not an item of v; Python's own attributes are not supported.
static int attribute(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *v,
                     struct span name)
{
    const struct jinja_value *found = NULL;
    if (v->type == JINJA_UNDEFINED)
        return jinja_fail(r, "\"%.*s\" is undefined, so it has no \"%.*s\"", text_shown(v->text),
                          v->text.s, text_shown(name), name.s);
    if (v->type == JINJA_LOOP)
        return loop_member(out, r, v->loop, name);
    if (v->type == JINJA_FUNCTION)
        return jinja_refuse(r, "a member of the function \"%.*s\" is not supported",
                            text_shown(v->text), v->text.s);
    if (jinja_type_has_method(v->type, name))
        return jinja_refuse(r, "the method \"%.*s\" of %s without a call is not supported",
                            text_shown(name), name.s, jinja_type_name(v->type));
    if (v->type == JINJA_NAMESPACE)
        found = jinja_scope_get(v->space, name);
    *out = found ? *found : jinja_undefined(name);
    return 0;
}

// v.name: an attribute, else the item.
static int eval_member(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = {0};
    int rc = eval(&v, r, n->a);
    r->line = n->line;
    rc = rc ? rc : attribute(out, r, &v, n->text);
    const struct jinja_value *item =
        rc == 0 && v.type == JINJA_DICT ? jinja_dict_get(&v, n->text) : NULL;
    if (item)
        *out = *item;
    return rc;
}

static int char_at(struct jinja_value *out, struct jinja_run *r, struct span text, int64_t at)
{
    const int rc = jinja_spend(r, text.len);
    const int64_t count = rc ? 0 : (int64_t)text_length(text);
    at += at < 0 ? count : 0;
    if (rc || at < 0 || at >= count)
        return rc;
    const size_t offset = text_offset(text, (size_t)at);
    const struct span rest = {text.s + offset, text.len - offset};
    *out = jinja_string(rest.s, text_offset(rest, 1));
    return 0;
}

// v[key]: the item, else the attribute.
static int subscript(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *v,
                     const struct jinja_value *key)
{
    const bool whole = key->type == JINJA_INT || key->type == JINJA_BOOL;
    if (v->type == JINJA_UNDEFINED)
        return jinja_fail(r, "\"%.*s\" is undefined, so it has no items", text_shown(v->text),
                          v->text.s);
    *out = jinja_undefined((struct span){"an item that is not there", 25});
    if (v->type == JINJA_LIST && whole) {
        int64_t at = jinja_integer(key);
        at += at < 0 ? v->count : 0;
        if (at >= 0 && at < v->count)
            *out = v->items[at];
        return 0;
    }
    if (v->type == JINJA_STRING && whole)
        return char_at(out, r, v->text, jinja_integer(key));
    if (key->type != JINJA_STRING)
        return 0;
    const struct jinja_value *item = v->type == JINJA_DICT ? jinja_dict_get(v, key->text) : NULL;
    if (!item)
        return attribute(out, r, v, key->text);
    *out = *item;
    return 0;
}

static int eval_item(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = {0}, key = {0};
    int rc = eval(&v, r, n->a);
    rc = rc ? rc : eval(&key, r, n->b);
    r->line = n->line;
    return rc ? rc : subscript(out, r, &v, &key);
}

// ---- slices

struct slice {
    int64_t start, step;
    size_t count;
};

// The bounds of Python's slice.indices for a sequence of n.
static int slice_of(struct slice *out, struct jinja_run *r, const struct jinja_value parts[3],
                    int64_t n)
{
    for (int i = 0; i < 3; i++)
        if (parts[i].type != JINJA_NONE && parts[i].type != JINJA_INT)
            return jinja_fail(r, "a slice's bound is %s", jinja_type_name(parts[i].type));
    const int64_t step = parts[2].type == JINJA_INT ? parts[2].integer : 1;
    if (step == 0)
        return jinja_fail(r, "a slice's step is zero");
    const int64_t lo = step < 0 ? -1 : 0, hi = step < 0 ? n - 1 : n;
    int64_t bounds[2] = {step < 0 ? hi : lo, step < 0 ? lo : hi};
    for (int i = 0; i < 2; i++) {
        if (parts[i].type != JINJA_INT)
            continue;
        const int64_t at = parts[i].integer;
        bounds[i] = at < -n ? lo : at < 0 ? at + n : at > hi ? hi : at;
    }
    const int64_t distance = step < 0 ? bounds[0] - bounds[1] : bounds[1] - bounds[0];
    const uint64_t stride = step < 0 ? -(uint64_t)step : (uint64_t)step;
    out->start = bounds[0];
    out->step = step;
    out->count = distance > 0 ? (size_t)(((uint64_t)distance - 1) / stride) + 1 : 0;
    return 0;
}

static int slice_text(struct jinja_value *out, struct jinja_run *r, struct span text,
                      const struct jinja_value parts[3])
{
    struct slice s = {0};
    int rc = jinja_spend(r, text.len);
    rc = rc ? rc : slice_of(&s, r, parts, (int64_t)text_length(text));
    if (rc)
        return rc;
    if (s.step != 1)
        return jinja_refuse(r, "a slice of text with a step is not supported");
    const size_t begin = text_offset(text, (size_t)(s.count ? s.start : 0));
    const struct span rest = {text.s + begin, text.len - begin};
    *out = jinja_string(rest.s, text_offset(rest, s.count));
    return 0;
}

static int eval_slice(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = {0}, parts[3] = {{0}}, *items = NULL;
    struct slice s = {0};
    int rc = eval(&v, r, n->a), i = 0;
    for (const struct jinja_node *m = n->list; m && rc == 0; m = m->next)
        rc = eval(&parts[i++], r, m);
    r->line = n->line;
    if (rc)
        return rc;
    if (v.type == JINJA_STRING)
        return slice_text(out, r, v.text, parts);
    if (v.type != JINJA_LIST)
        return jinja_refuse(r, "a slice of %s is not supported", jinja_type_name(v.type));
    rc = slice_of(&s, r, parts, v.count);
    rc = rc ? rc : jinja_items(&items, r, s.count);
    for (size_t k = 0; k < s.count && rc == 0; k++)
        items[k] = v.items[s.start + (int64_t)k * s.step];
    return rc ? rc : jinja_container(out, r, JINJA_LIST, items, s.count);
}

// ---- lists and calls

static size_t list_length(const struct jinja_node *n)
{
    size_t count = 0;
    for (; n; n = n->next)
        count++;
    return count;
}

static int eval_container(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    const bool dict = n->kind == JINJA_NODE_DICT;
    const size_t count = list_length(n->list);
    struct jinja_value *items = NULL;
    size_t i = 0;
    int rc = jinja_items(&items, r, count);
    for (const struct jinja_node *m = n->list; m && rc == 0; m = m->next, i++) {
        rc = eval(&items[i], r, m);
        r->line = n->line;
        if (rc == 0 && dict && i % 2 == 0 && items[i].type != JINJA_STRING)
            rc = jinja_refuse(r, "a dict's key that is %s is not supported",
                              jinja_type_name(items[i].type));
        for (size_t k = 0; dict && i % 2 == 0 && k < i && rc == 0; k += 2)
            if (text_equal(items[k].text, items[i].text))
                rc = jinja_refuse(r, "a dict with the same key twice is not supported");
    }
    return rc ? rc
              : jinja_container(out, r, dict ? JINJA_DICT : JINJA_LIST, items,
                                dict ? count / 2 : count);
}

static int eval_call(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_call call = {0};
    struct jinja_value *args = NULL;
    size_t i = 0;
    int rc = n->a ? eval(&call.self, r, n->a) : 0;
    rc = rc ? rc : jinja_items(&args, r, 2 * list_length(n->list));
    const bool any = strcmp(n->builtin->params, "**") == 0;
    for (const struct jinja_node *m = n->list; m && rc == 0; m = m->next, i++) {
        const bool keyword = m->kind == JINJA_NODE_KEYWORD;
        rc = eval(&args[2 * i + 1], r, keyword ? m->a : m);
        args[2 * i] = jinja_string(m->text.s, m->text.len);
        if (!any)
            call.args[keyword ? (size_t)jinja_builtin_param(n->builtin, m->text) : i] =
                &args[2 * i + 1];
    }
    call.named = any ? args : NULL;
    call.num_named = any ? i : 0;
    r->line = n->line;
    if (rc == 0 && n->kind == JINJA_NODE_METHOD && call.self.type == JINJA_UNDEFINED)
        rc = jinja_fail(r, "\"%.*s\" is undefined, so it has no method \"%s\"",
                        text_shown(call.self.text), call.self.text.s, n->builtin->name);
    return rc ? rc : n->builtin->run(out, r, &call);
}

// ---- operators

static int type_error(const struct jinja_run *r, const struct jinja_node *n,
                      const struct jinja_value *a, const struct jinja_value *b)
{
    return jinja_fail(r, "\"%.*s\" of %s and %s", text_shown(n->text), n->text.s,
                      jinja_type_name(a->type), jinja_type_name(b->type));
}

static int join_texts(struct jinja_value *out, struct jinja_run *r, struct span a, struct span b)
{
    if (a.len == 0 || b.len == 0) {
        *out = a.len ? jinja_string(a.s, a.len) : jinja_string(b.s, b.len);
        return 0;
    }
    const int rc = jinja_spend(r, a.len + b.len + 64);
    if (rc)
        return rc;
    char *both = arena_push(r->arena, a.len + b.len);
    memcpy(both, a.s, a.len);
    memcpy(both + a.len, b.s, b.len);
    *out = jinja_string(both, a.len + b.len);
    return 0;
}

static int join_lists(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *a,
                      const struct jinja_value *b)
{
    struct jinja_value *items = NULL;
    const size_t count = (size_t)a->count + b->count;
    const int rc = jinja_items(&items, r, count);
    for (size_t i = 0; i < count && rc == 0; i++)
        items[i] = i < a->count ? a->items[i] : b->items[i - a->count];
    return rc ? rc : jinja_container(out, r, JINJA_LIST, items, count);
}

// Quotient and remainder towards minus infinity, as Python's.
static int64_t floor_divide(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static int whole_arithmetic(struct jinja_value *out, struct jinja_run *r,
                            const struct jinja_node *n, int64_t a, int64_t b)
{
    int64_t x = 0;
    bool over = false;
    if (is_operator(n, "+")) {
        over = __builtin_add_overflow(a, b, &x);
    } else if (is_operator(n, "-")) {
        over = __builtin_sub_overflow(a, b, &x);
    } else if (is_operator(n, "*")) {
        over = __builtin_mul_overflow(a, b, &x);
    } else if (b == 0) {
        return jinja_fail(r, "a division by zero");
    } else if (b == -1) { // INT64_MIN / -1 has no quotient
        over = is_operator(n, "//") && __builtin_sub_overflow((int64_t)0, a, &x);
    } else {
        x = is_operator(n, "//") ? floor_divide(a, b) : a - floor_divide(a, b) * b;
    }
    *out = jinja_int(x);
    return over ? jinja_refuse(r, "a number beyond 64 bits is not supported") : 0;
}

static int real_arithmetic(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n,
                           double a, double b)
{
    const bool divides = is_operator(n, "/") || is_operator(n, "//") || is_operator(n, "%");
    if (divides && b == 0)
        return jinja_fail(r, "a division by zero");
    if (is_operator(n, "//") || is_operator(n, "%"))
        return jinja_refuse(r, "\"%.*s\" of floats is not supported", text_shown(n->text),
                            n->text.s);
    const double x = is_operator(n, "+")   ? a + b
                     : is_operator(n, "-") ? a - b
                     : is_operator(n, "*") ? a * b
                                           : a / b;
    *out = (struct jinja_value){.type = JINJA_FLOAT, .real = x};
    return 0;
}

static int arithmetic(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n,
                      const struct jinja_value *a, const struct jinja_value *b)
{
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a->type == JINJA_FLOAT || b->type == JINJA_FLOAT || is_operator(n, "/"))
            return real_arithmetic(out, r, n, jinja_real(a), jinja_real(b));
        return whole_arithmetic(out, r, n, jinja_integer(a), jinja_integer(b));
    }
    if (is_operator(n, "+") && a->type == JINJA_STRING && b->type == JINJA_STRING)
        return join_texts(out, r, a->text, b->text);
    if (is_operator(n, "+") && a->type == JINJA_LIST && b->type == JINJA_LIST)
        return join_lists(out, r, a, b);
    const bool texts = a->type == JINJA_STRING || b->type == JINJA_STRING ||
                       a->type == JINJA_LIST || b->type == JINJA_LIST;
    if (texts && (is_operator(n, "*") || is_operator(n, "%")))
        return jinja_refuse(r, "\"%.*s\" of %s and %s is not supported", text_shown(n->text),
                            n->text.s, jinja_type_name(a->type), jinja_type_name(b->type));
    return type_error(r, n, a, b);
}

static int compare(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n,
                   const struct jinja_value *a, const struct jinja_value *b)
{
    int order = 0; // UTF-8 sorts as its code points do
    if (a->type == JINJA_STRING && b->type == JINJA_STRING) {
        const size_t common = a->text.len < b->text.len ? a->text.len : b->text.len;
        order = common ? memcmp(a->text.s, b->text.s, common) : 0;
        if (order == 0)
            order = (a->text.len > b->text.len) - (a->text.len < b->text.len);
    } else if (jinja_is_number(a) && jinja_is_number(b)) {
        const bool real = a->type == JINJA_FLOAT || b->type == JINJA_FLOAT;
        const double x = jinja_real(a), y = jinja_real(b);
        const int64_t i = real ? 0 : jinja_integer(a), j = real ? 0 : jinja_integer(b);
        order = real ? (x > y) - (x < y) : (i > j) - (i < j);
    } else if (a->type == JINJA_LIST && b->type == JINJA_LIST) {
        return jinja_refuse(r, "the order of lists is not supported");
    } else {
        return type_error(r, n, a, b);
    }
    const char *o = n->text.s;
    const bool equal = n->text.len == 2 && order == 0;
    *out = jinja_bool(equal || (*o == '<' ? order < 0 : order > 0));
    return 0;
}

static int contains(bool *out, struct jinja_run *r, const struct jinja_node *n,
                    const struct jinja_value *a, const struct jinja_value *b)
{
    const bool nested = a->type == JINJA_LIST || a->type == JINJA_DICT;
    const struct jinja_value *items = NULL;
    size_t count = 0;
    *out = false;
    if ((b->type == JINJA_STRING && a->type != JINJA_STRING) || (b->type == JINJA_DICT && nested))
        return type_error(r, n, a, b);
    if (b->type == JINJA_STRING) {
        *out = a->text.len == 0 || text_find(b->text, 0, a->text) != SIZE_MAX;
        return jinja_spend(r, b->text.len);
    }
    int rc = jinja_iterate(&items, &count, r, b);
    rc = rc ? rc : jinja_spend(r, count * 16);
    for (size_t i = 0; i < count && rc == 0 && !*out; i++)
        *out = jinja_equal(&items[i], a);
    return rc;
}

static int operate(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n,
                   const struct jinja_value *a, const struct jinja_value *b)
{
    struct span x = {0}, y = {0};
    bool found = false;
    int rc = 0;
    if (a->type == JINJA_VIEW || b->type == JINJA_VIEW || a->type == JINJA_LOOP ||
        b->type == JINJA_LOOP)
        return jinja_refuse(r, "\"%.*s\" of %s and %s is not supported", text_shown(n->text),
                            n->text.s, jinja_type_name(a->type), jinja_type_name(b->type));
    if (is_operator(n, "==") || is_operator(n, "!=")) {
        *out = jinja_bool(jinja_equal(a, b) == (n->text.s[0] == '='));
    } else if (is_operator(n, "in") || is_operator(n, "not in")) {
        rc = contains(&found, r, n, a, b);
        *out = jinja_bool(found == (n->text.len == 2));
    } else if (is_operator(n, "~")) {
        rc = jinja_to_text(&x, r, a);
        rc = rc ? rc : jinja_to_text(&y, r, b);
        rc = rc ? rc : join_texts(out, r, x, y);
    } else if (is_operator(n, "%") && a->type == JINJA_STRING) {
        rc = jinja_refuse(r, "formatting by \"%%\" is not supported");
    } else if (a->type == JINJA_UNDEFINED || b->type == JINJA_UNDEFINED) {
        const struct span what = a->type == JINJA_UNDEFINED ? a->text : b->text;
        rc = jinja_fail(r, "\"%.*s\" is undefined, in an expression with \"%.*s\"",
                        text_shown(what), what.s, text_shown(n->text), n->text.s);
    } else if (n->text.s[0] == '<' || n->text.s[0] == '>') {
        rc = compare(out, r, n, a, b);
    } else {
        rc = arithmetic(out, r, n, a, b);
    }
    return rc;
}

static int eval_operation(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value a = {0}, b = {0};
    int rc = eval(&a, r, n->a);
    rc = rc ? rc : eval(&b, r, n->b);
    r->line = n->line;
    return rc ? rc : operate(out, r, n, &a, &b);
}

static int negate(struct jinja_value *v, struct jinja_run *r)
{
    if (v->type == JINJA_FLOAT) {
        v->real = -v->real;
        return 0;
    }
    if (!jinja_is_number(v))
        return jinja_fail(r, "\"-\" of %s", jinja_type_name(v->type));
    if (jinja_integer(v) == INT64_MIN)
        return jinja_refuse(r, "a number beyond 64 bits is not supported");
    *v = jinja_int(-jinja_integer(v));
    return 0;
}

// ---- expressions

static int eval_choice(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value condition = {0};
    const int rc = eval(&condition, r, n->a);
    if (rc)
        return rc;
    if (jinja_truth(&condition))
        return eval(out, r, n->b);
    *out = jinja_undefined((struct span){"a choice without \"else\"", 23});
    return n->c ? eval(out, r, n->c) : 0;
}

static int eval(struct jinja_value *out, struct jinja_run *r, const struct jinja_node *n)
{
    int rc = 0;
    r->line = n->line;
    if ((rc = jinja_spend(r, NODE_WORK)) != 0)
        return rc;
    switch (n->kind) {
    case JINJA_NODE_VALUE:
        *out = n->value;
        return 0;
    case JINJA_NODE_NAME:
        find_name(out, r, n->text);
        return 0;
    case JINJA_NODE_LIST:
    case JINJA_NODE_DICT:
        return eval_container(out, r, n);
    case JINJA_NODE_MEMBER:
        return eval_member(out, r, n);
    case JINJA_NODE_ITEM:
        return eval_item(out, r, n);
    case JINJA_NODE_SLICE:
        return eval_slice(out, r, n);
    case JINJA_NODE_CALL:
    case JINJA_NODE_METHOD:
    case JINJA_NODE_FILTER:
    case JINJA_NODE_TEST:
        return eval_call(out, r, n);
    case JINJA_NODE_NOT:
        rc = eval(out, r, n->a);
        *out = jinja_bool(rc == 0 && !jinja_truth(out));
        return rc;
    case JINJA_NODE_NEGATIVE:
        rc = eval(out, r, n->a);
        return rc ? rc : negate(out, r);
    case JINJA_NODE_AND:
    case JINJA_NODE_OR:
        rc = eval(out, r, n->a);
        if (rc == 0 && jinja_truth(out) == (n->kind == JINJA_NODE_AND))
            rc = eval(out, r, n->b);
        return rc;
    case JINJA_NODE_OPERATION:
        return eval_operation(out, r, n);
    case JINJA_NODE_CHOICE:
        return eval_choice(out, r, n);
    case JINJA_NODE_TEXT:
    case JINJA_NODE_PRINT:
    case JINJA_NODE_IF:
    case JINJA_NODE_FOR:
    case JINJA_NODE_SET:
    case JINJA_NODE_KEYWORD:
        break;
    }
    return jinja_refuse(r, "a statement stands where an expression is expected");
}

// ---- statements

static int print(struct jinja_run *r, struct span text)
{
    const int rc = jinja_spend(r, text.len);
    if (rc == 0)
        strbuf_append(r->out, text.s, text.len);
    return rc;
}

static int run_if(struct jinja_run *r, const struct jinja_node *n)
{
    for (const struct jinja_node *branch = n->list; branch; branch = branch->next) {
        struct jinja_value condition = jinja_bool(true);
        const int rc = branch->a ? eval(&condition, r, branch->a) : 0;
        if (rc)
            return rc;
        if (jinja_truth(&condition))
            return jinja_run_statements(r, branch->list);
    }
    return 0;
}

// Gives the targets of a loop their item: the one name, or as many names as the item has items.
static int set_targets(struct jinja_run *r, const struct jinja_node *names,
                       const struct jinja_value *item)
{
    if (!names->next)
        return jinja_scope_set(r->scope, r, names->text, item);
    if (item->type == JINJA_STRING || item->type == JINJA_DICT || item->type == JINJA_VIEW ||
        item->type == JINJA_GENERATOR)
        return jinja_refuse(r, "taking %s apart into variables is not supported",
                            jinja_type_name(item->type));
    if (item->type != JINJA_LIST || item->count != list_length(names))
        return jinja_fail(r, "%s cannot be taken apart into %zu variables",
                          jinja_type_name(item->type), list_length(names));
    int rc = 0;
    for (size_t i = 0; names && rc == 0; names = names->next)
        rc = jinja_scope_set(r->scope, r, names->text, &item->items[i++]);
    return rc;
}

static int run_for(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope *outer = r->scope;
    struct jinja_value over = {0};
    struct jinja_loop *loop = NULL;
    const struct jinja_value *items = NULL;
    size_t count = 0;
    int rc = eval(&over, r, n->a);
    r->line = n->line;
    rc = rc ? rc : jinja_iterate(&items, &count, r, &over);
    rc = rc ? rc : jinja_spend(r, sizeof *loop + 64);
    if (rc)
        return rc;
    loop = arena_push0(r->arena, sizeof *loop);
    *loop = (struct jinja_loop){.items = items, .count = count};
    const struct jinja_value name = {.type = JINJA_LOOP, .loop = loop};
    for (; loop->index < count && rc == 0; loop->index++) {
        rc = jinja_spend(r, sizeof *outer + 64);
        if (rc)
            break;
        r->scope = arena_push0(r->arena, sizeof *outer);
        r->scope->outer = outer;
        rc = jinja_scope_set(r->scope, r, (struct span){"loop", 4}, &name);
        rc = rc ? rc : set_targets(r, n->names, &items[loop->index]);
        rc = rc ? rc : jinja_run_statements(r, n->list);
    }
    r->scope = outer;
    return rc;
}

static int run_set(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = {0}, space = {0};
    int rc = eval(&v, r, n->a);
    r->line = n->line;
    if (rc)
        return rc;
    if (n->text2.len == 0)
        return jinja_scope_set(r->scope, r, n->text, &v);
    find_name(&space, r, n->text);
    if (space.type != JINJA_NAMESPACE)
        return jinja_fail(r, "\"%.*s\" is %s, not a namespace, so it has no members to set",
                          text_shown(n->text), n->text.s, jinja_type_name(space.type));
    return jinja_scope_set(space.space, r, n->text2, &v);
}

static int run_print(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_value v = {0};
    struct span text = {0};
    int rc = eval(&v, r, n->a);
    r->line = n->line;
    rc = rc ? rc : jinja_to_text(&text, r, &v);
    return rc ? rc : print(r, text);
}

int jinja_run_statements(struct jinja_run *r, const struct jinja_node *statements)
{
    int rc = 0;
    for (const struct jinja_node *n = statements; n && rc == 0; n = n->next) {
        r->line = n->line;
        if (n->kind == JINJA_NODE_PRINT)
            rc = run_print(r, n);
        else if (n->kind == JINJA_NODE_IF)
            rc = run_if(r, n);
        else if (n->kind == JINJA_NODE_FOR)
            rc = run_for(r, n);
        else if (n->kind == JINJA_NODE_SET)
            rc = run_set(r, n);
        else
            rc = print(r, n->text);
    }
    return rc;
}
