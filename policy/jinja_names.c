// SPDX-License-Identifier: Apache-2.0
// Theory of operation. Jinja decides before it runs a scope (the template, the body of a loop)
// where each name that the scope mentions comes from: from outside when the first mention reads it,
// or when not every way sets it; else from the scope, and then it is undefined until it is set, for
// loops inside as well. A walk in the order of the text keeps, for each scope, the names that it
// mentions and those that loops inside read from outside themselves.
#include "policy/jinja_names.h"

#include "base/error.h"

struct name {
    struct span text;
    struct name *next;
};

struct scope {
    struct name *mentioned; // by the scope's own statements
    struct name *read;      // by loops inside, when the scope had not mentioned it
    struct name *free;      // what a loop may read from outside: not set before on every way
    int branches;           // open ones
};

struct walk {
    struct arena *arena;
    const char *name;
};

static bool has(const struct name *list, struct span text)
{
    while (list && !text_equal(list->text, text))
        list = list->next;
    return list != NULL;
}

static void add(const struct walk *w, struct name **list, struct span text)
{
    if (has(*list, text))
        return;
    struct name *n = arena_push(w->arena, sizeof *n);
    *n = (struct name){text, *list};
    *list = n;
}

static void read_name(const struct walk *w, struct scope *s, struct span text)
{
    if (!has(s->mentioned, text))
        add(w, &s->free, text);
    add(w, &s->mentioned, text);
}

static void read_names(const struct walk *w, struct scope *s, const struct jinja_node *n)
{
    if (!n)
        return;
    if (n->kind == JINJA_NODE_NAME)
        read_name(w, s, n->text);
    read_names(w, s, n->a);
    read_names(w, s, n->b);
    read_names(w, s, n->c);
    for (const struct jinja_node *m = n->list; m; m = m->next)
        read_names(w, s, m);
}

static int walk_body(const struct walk *w, struct scope *s, const struct jinja_node *n);

static int walk_for(const struct walk *w, struct scope *s, const struct jinja_node *n)
{
    struct scope body = {0};
    read_names(w, s, n->a);
    add(w, &body.mentioned, (struct span){"loop", 4});
    for (const struct jinja_node *m = n->names; m; m = m->next)
        add(w, &body.mentioned, m->text);
    const int rc = walk_body(w, &body, n->list);
    for (const struct name *f = body.free; f; f = f->next) {
        if (has(s->mentioned, f->text))
            continue;
        add(w, &s->read, f->text);
        add(w, &s->free, f->text);
    }
    return rc;
}

static int set_name(const struct walk *w, struct scope *s, const struct jinja_node *n)
{
    if (has(s->read, n->text) && !has(s->mentioned, n->text))
        return err_set(ERR_MODEL,
                       "%s:%d: setting \"%.*s\" after a loop has used that name is not supported",
                       w->name, n->line, text_shown(n->text), n->text.s);
    if (s->branches > 0 && !has(s->mentioned, n->text))
        add(w, &s->free, n->text);
    add(w, &s->mentioned, n->text);
    return 0;
}

static int walk_if(const struct walk *w, struct scope *s, const struct jinja_node *n)
{
    int rc = 0;
    s->branches++;
    for (const struct jinja_node *branch = n->list; branch && rc == 0; branch = branch->next) {
        read_names(w, s, branch->a);
        rc = walk_body(w, s, branch->list);
    }
    s->branches--;
    return rc;
}

static int walk_body(const struct walk *w, struct scope *s, const struct jinja_node *n)
{
    int rc = 0;
    for (; n && rc == 0; n = n->next) {
        if (n->kind == JINJA_NODE_FOR) {
            rc = walk_for(w, s, n);
        } else if (n->kind == JINJA_NODE_IF) {
            rc = walk_if(w, s, n);
        } else if (n->kind == JINJA_NODE_SET) {
            read_names(w, s, n->a);
            if (n->text2.len > 0)
                read_name(w, s, n->text);
            else
                rc = set_name(w, s, n);
        } else {
            read_names(w, s, n->a);
        }
    }
    return rc;
}

int jinja_check_names(const struct jinja_node *statements, struct arena *a, const char *name)
{
    struct scope root = {0};
    return walk_body(&(struct walk){a, name}, &root, statements);
}
