// SPDX-License-Identifier: Apache-2.0
// Filters and methods on lists and dicts, and filters on anything.
#include "policy/jinja_builtins.h"

#include <string.h>

// ---- lists and dicts

static int filter_length(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const enum jinja_type t = c->self.type;
    if (t == JINJA_STRING) {
        *out = jinja_int((int64_t)text_length(c->self.text));
        return jinja_spend(r, c->self.text.len);
    }
    const bool items = t == JINJA_LIST || t == JINJA_DICT || t == JINJA_VIEW;
    if (t == JINJA_LOOP)
        return jinja_refuse(r, "the length of \"loop\" by a filter is not supported");
    if (!items && t != JINJA_UNDEFINED)
        return jinja_fail(r, "%s has no length", jinja_type_name(t));
    *out = jinja_int(items ? c->self.count : 0);
    return 0;
}

static int filter_list(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const struct jinja_value *items = NULL;
    size_t count = 0;
    const int rc = jinja_iterate(&items, &count, r, &c->self);
    return rc ? rc : jinja_container(out, r, JINJA_LIST, items, count);
}

static int end_of(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c,
                  bool last)
{
    const struct jinja_value *items = NULL;
    size_t count = 0;
    if (last && c->self.type == JINJA_GENERATOR)
        return jinja_fail(r, "a generator has no last item");
    const int rc = jinja_iterate(&items, &count, r, &c->self);
    if (rc == 0)
        *out = count ? items[last ? count - 1 : 0]
                     : jinja_undefined((struct span){"an item of an empty list", 24});
    return rc;
}

static int filter_first(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return end_of(out, r, c, false);
}

static int filter_last(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return end_of(out, r, c, true);
}

static int filter_join(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const struct jinja_value *items = NULL;
    size_t count = 0;
    struct span between = {"", 0}, t = {0};
    struct strbuf text = {0};
    int rc = jinja_iterate(&items, &count, r, &c->self);
    if (rc == 0 && c->args[0])
        rc = jinja_to_text(&between, r, c->args[0]);
    for (size_t i = 0; i < count && rc == 0; i++) {
        rc = jinja_to_text(&t, r, &items[i]);
        rc = rc ? rc : jinja_spend(r, between.len + t.len);
        if (rc == 0 && i > 0)
            strbuf_append(&text, between.s, between.len);
        if (rc == 0)
            strbuf_append(&text, t.s, t.len);
    }
    rc = rc ? rc : jinja_copy(out, r, text.data, text.len);
    strbuf_free(&text);
    return rc;
}

static int filter_default(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    (void)r;
    const bool falsy = c->args[1] && jinja_truth(c->args[1]) && !jinja_truth(&c->self);
    *out = c->self;
    if (c->self.type == JINJA_UNDEFINED || falsy)
        *out = c->args[0] ? *c->args[0] : jinja_string("", 0);
    return 0;
}

// Pairs of a dict, as lists of two.
static int pairs(struct jinja_value **out, struct jinja_run *r, const struct jinja_value *dict)
{
    int rc = jinja_items(out, r, dict->count);
    for (size_t i = 0; i < dict->count && rc == 0; i++)
        rc = jinja_container(&(*out)[i], r, JINJA_LIST, &dict->items[2 * i], 2);
    return rc;
}

static int filter_items(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct jinja_value *list = NULL;
    if (c->self.type == JINJA_UNDEFINED)
        return jinja_generator(out, r, NULL, 0);
    if (c->self.type != JINJA_DICT)
        return jinja_refuse(r, "the filter \"items\" of %s is not supported (of a dict it is)",
                            jinja_type_name(c->self.type));
    const int rc = pairs(&list, r, &c->self);
    return rc ? rc : jinja_generator(out, r, list, c->self.count);
}

static int want_dict(struct jinja_run *r, const struct jinja_call *c, const char *method)
{
    return c->self.type == JINJA_DICT
               ? 0
               : jinja_fail(r, "%s has no method \"%s\"", jinja_type_name(c->self.type), method);
}

static int method_items(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct jinja_value *list = NULL;
    int rc = want_dict(r, c, "items");
    rc = rc ? rc : pairs(&list, r, &c->self);
    return rc ? rc : jinja_container(out, r, JINJA_VIEW, list, c->self.count);
}

// Every second of a dict's items.
static int half(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c,
                size_t from)
{
    struct jinja_value *list = NULL;
    const int rc = jinja_items(&list, r, c->self.count);
    for (size_t i = 0; i < c->self.count && rc == 0; i++)
        list[i] = c->self.items[2 * i + from];
    return rc ? rc : jinja_container(out, r, JINJA_VIEW, list, c->self.count);
}

static int method_keys(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const int rc = want_dict(r, c, "keys");
    return rc ? rc : half(out, r, c, 0);
}

static int method_values(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const int rc = want_dict(r, c, "values");
    return rc ? rc : half(out, r, c, 1);
}

static int method_get(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    struct span key = {0};
    int rc = want_dict(r, c, "get");
    rc = rc ? rc : jinja_want_text(&key, r, c->args[0], "the key");
    const struct jinja_value *found = rc ? NULL : jinja_dict_get(&c->self, key);
    *out = found ? *found : c->args[1] ? *c->args[1] : (struct jinja_value){.type = JINJA_NONE};
    return rc;
}

static int filter_tojson(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const struct jinja_value *ascii = c->args[0], *indent = c->args[1], *separators = c->args[2];
    const struct jinja_value *sort = c->args[3];
    if ((ascii && jinja_truth(ascii)) || (separators && separators->type != JINJA_NONE) ||
        (sort && jinja_truth(sort)))
        return jinja_refuse(r, "of the arguments of tojson only \"indent\" is supported");
    int spaces = -1;
    if (indent && indent->type != JINJA_NONE) {
        if (indent->type != JINJA_INT || indent->integer < 0 || indent->integer > 64)
            return jinja_refuse(r, "this \"indent\" of tojson is not supported");
        spaces = (int)indent->integer;
    }
    struct strbuf text = {0};
    int rc = jinja_put_json(&text, r, &c->self, spaces);
    rc = rc ? rc : jinja_copy(out, r, text.data, text.len);
    strbuf_free(&text);
    return rc;
}

// ---- choosing items

// Member `name` of an item; undefined where there is none.
static int attribute(struct jinja_value *out, struct jinja_run *r, const struct jinja_value *item,
                     struct span name)
{
    if (item->type == JINJA_UNDEFINED)
        return jinja_refuse(r, "\"%.*s\" of what is undefined", text_shown(name), name.s);
    const struct jinja_value *found = item->type == JINJA_DICT ? jinja_dict_get(item, name) : NULL;
    if (memchr(name.s, '.', name.len) || (name.len > 0 && name.s[0] >= '0' && name.s[0] <= '9') ||
        (!found && jinja_type_has_method(item->type, name)))
        return jinja_refuse(r, "the attribute \"%.*s\" is not supported here", text_shown(name),
                            name.s);
    *out = found ? *found : jinja_undefined(name);
    return 0;
}

// What a lazy filter goes through. Jinja would raise when its result is used: what cannot be gone
// through is refused at once.
static int lazy_items(const struct jinja_value **items, size_t *count, struct jinja_run *r,
                      const struct jinja_value *v)
{
    if (v->type == JINJA_NONE || jinja_is_number(v) || v->type >= JINJA_NAMESPACE)
        return jinja_refuse(r, "a filter of the items of %s is not supported",
                            jinja_type_name(v->type));
    return jinja_iterate(items, count, r, v);
}

// Items whose test (its name, and perhaps its argument; NULL: truth) agrees with `keep`; name s
// NULL: the test is of the items themselves.
static int choose(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c,
                  struct span name, const struct jinja_value *const test[2], bool keep)
{
    const struct jinja_builtin *b = NULL;
    const struct jinja_value *items = NULL;
    struct jinja_value *kept = NULL;
    size_t count = 0, n = 0;
    int rc = lazy_items(&items, &count, r, &c->self);
    rc = rc ? rc : jinja_items(&kept, r, count);
    if (rc == 0 && test[0]) {
        b = test[0]->type == JINJA_STRING ? jinja_builtin_find(JINJA_TEST_BUILTIN, test[0]->text)
                                          : NULL;
        if (!b || b->required != (test[1] != NULL))
            return jinja_refuse(r, "this test of items is not supported");
    }
    for (size_t i = 0; i < count && rc == 0; i++) {
        struct jinja_value tested = items[i], answer = {0};
        rc = name.s ? attribute(&tested, r, &items[i], name) : 0;
        answer = tested;
        if (rc == 0 && b)
            rc = b->run(&answer, r, &(struct jinja_call){.self = tested, .args = {test[1]}});
        if (rc == 0 && jinja_truth(&answer) == keep)
            kept[n++] = items[i];
    }
    return rc ? rc : jinja_generator(out, r, kept, n);
}

static int filter_select(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return choose(out, r, c, (struct span){0}, c->args, true);
}

static int filter_reject(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    return choose(out, r, c, (struct span){0}, c->args, false);
}

static int filter_selectattr(struct jinja_value *out, struct jinja_run *r,
                             const struct jinja_call *c)
{
    struct span name = {0};
    const int rc = jinja_want_text(&name, r, c->args[0], "the attribute");
    return rc ? rc : choose(out, r, c, name, c->args + 1, true);
}

static int filter_rejectattr(struct jinja_value *out, struct jinja_run *r,
                             const struct jinja_call *c)
{
    struct span name = {0};
    const int rc = jinja_want_text(&name, r, c->args[0], "the attribute");
    return rc ? rc : choose(out, r, c, name, c->args + 1, false);
}

static int filter_map(struct jinja_value *out, struct jinja_run *r, const struct jinja_call *c)
{
    const struct jinja_value *items = NULL;
    struct jinja_value *mapped = NULL;
    size_t count = 0;
    struct span name = {0};
    if (c->num_named != 1 || !text_equal(c->named[0].text, (struct span){"attribute", 9}))
        return jinja_refuse(r, "of the arguments of map only \"attribute\" is supported");
    int rc = jinja_want_text(&name, r, &c->named[1], "the attribute");
    rc = rc ? rc : lazy_items(&items, &count, r, &c->self);
    rc = rc ? rc : jinja_items(&mapped, r, count);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = attribute(&mapped[i], r, &items[i], name);
    return rc ? rc : jinja_generator(out, r, mapped, count);
}

// clang-format off
const struct jinja_builtin jinja_builtins_items[] = {
    {"length", JINJA_FILTER_BUILTIN, "", 0, filter_length},
    {"count", JINJA_FILTER_BUILTIN, "", 0, filter_length},
    {"tojson", JINJA_FILTER_BUILTIN, " ensure_ascii indent separators sort_keys ", 0, filter_tojson},
    {"items", JINJA_FILTER_BUILTIN, "", 0, filter_items},
    {"join", JINJA_FILTER_BUILTIN, " d ", 0, filter_join},
    {"default", JINJA_FILTER_BUILTIN, " default_value boolean ", 0, filter_default},
    {"d", JINJA_FILTER_BUILTIN, " default_value boolean ", 0, filter_default},
    {"first", JINJA_FILTER_BUILTIN, "", 0, filter_first},
    {"last", JINJA_FILTER_BUILTIN, "", 0, filter_last},
    {"list", JINJA_FILTER_BUILTIN, "", 0, filter_list},
    {"select", JINJA_FILTER_BUILTIN, " test arg ", 0, filter_select},
    {"reject", JINJA_FILTER_BUILTIN, " test arg ", 0, filter_reject},
    {"selectattr", JINJA_FILTER_BUILTIN, " attribute test arg ", 1, filter_selectattr},
    {"rejectattr", JINJA_FILTER_BUILTIN, " attribute test arg ", 1, filter_rejectattr},
    {"map", JINJA_FILTER_BUILTIN, "**", 0, filter_map},
    {"get", JINJA_METHOD_BUILTIN, " key default ", 1, method_get},
    {"items", JINJA_METHOD_BUILTIN, "", 0, method_items},
    {"keys", JINJA_METHOD_BUILTIN, "", 0, method_keys},
    {"values", JINJA_METHOD_BUILTIN, "", 0, method_values},
    {0}};
// clang-format on
