// SPDX-License-Identifier: Apache-2.0
#include "policy/chat_template.h"

#include "base/error.h"
#include "policy/jinja_run.h"

#include <stdlib.h>
#include <string.h>

struct chat_template {
    char *name;
    struct arena arena; // of the statements
    struct jinja_node *statements;
};

int chat_template_parse(struct chat_template **out, const char *text, size_t len, const char *name)
{
    struct chat_template *t = mem_alloc0(sizeof *t);
    t->name = mem_strdup(name);
    const int rc = jinja_parse(&t->statements, &t->arena, text, len, t->name);
    if (rc)
        chat_template_free(&t);
    else
        *out = t;
    return rc;
}

void chat_template_free(struct chat_template **t)
{
    if (!t || !*t)
        return;
    arena_free(&(*t)->arena);
    free((*t)->name);
    free(*t);
    *t = NULL;
}

static int set(struct jinja_run *r, const char *name, const struct jinja_value *v)
{
    return jinja_scope_set(r->scope, r, (struct span){name, strlen(name)}, v);
}

static int set_json(struct jinja_run *r, const char *name, const struct json_doc *doc,
                    const struct json *v)
{
    struct jinja_value value = {0};
    const int rc = jinja_from_json(&value, r, doc, v);
    return rc ? rc : set(r, name, &value);
}

static int set_token(struct jinja_run *r, const char *name, const char *text)
{
    const struct jinja_value v = jinja_string(text, text ? strlen(text) : 0);
    return text ? set(r, name, &v) : 0;
}

static int set_messages(struct jinja_run *r, const struct chat_request *c)
{
    struct jinja_value all = {0}, some = {0};
    int rc = jinja_from_json(&all, r, c->doc, c->messages);
    const bool cut = c->num_messages > 0 && (uint32_t)c->num_messages < all.count;
    const size_t count = cut ? (size_t)c->num_messages : all.count;
    rc = rc ? rc : jinja_container(&some, r, JINJA_LIST, all.items, count);
    return rc ? rc : set(r, "messages", &some);
}

// What transformers gives to a template.
static int set_variables(struct jinja_run *r, const struct chat_request *c)
{
    const struct jinja_value none = {.type = JINJA_NONE};
    const struct jinja_value prompt = jinja_bool(c->generation_prompt);
    int rc = set_token(r, "bos_token", c->bos);
    rc = rc ? rc : set_token(r, "eos_token", c->eos);
    rc = rc ? rc : set_token(r, "pad_token", c->pad);
    rc = rc ? rc : set(r, "documents", &none);
    rc = rc ? rc : set(r, "add_generation_prompt", &prompt);
    rc = rc ? rc : set_json(r, "tools", c->doc, c->tools);
    rc = rc ? rc : set_messages(r, c);
    for (const struct json *v = json_first(c->variables); v && rc == 0; v = json_next(v))
        rc = set_json(r, json_key(v), c->doc, v);
    return rc;
}

static int check_messages(const struct chat_request *c)
{
    if (json_type(c->messages) != JSON_ARRAY)
        return err_set(ERR_DATA, "\"messages\" is %s, not an array of messages",
                       json_type_name(json_type(c->messages)));
    int i = 0;
    for (const struct json *m = json_first(c->messages); m; m = json_next(m), i++)
        if (!json_string(json_get(m, "role")))
            return err_set(ERR_DATA, "message %d is not an object with a text \"role\"", i);
    if (json_type(c->tools) != JSON_NULL && json_type(c->tools) != JSON_ARRAY)
        return err_set(ERR_DATA, "\"tools\" is %s, not an array",
                       json_type_name(json_type(c->tools)));
    return 0;
}

int chat_template_render(struct strbuf *out, const struct chat_template *t,
                         const struct chat_request *c)
{
    int rc = check_messages(c);
    if (rc)
        return rc;
    struct arena arena = {0};
    struct strbuf text = {0};
    struct jinja_scope scope = {0};
    struct jinja_run r = {.name = t->name,
                          .line = 1,
                          .arena = &arena,
                          .scope = &scope,
                          .out = &text,
                          .time = c->time};
    rc = set_variables(&r, c);
    rc = rc ? rc : jinja_run_statements(&r, t->statements);
    if (rc == 0)
        strbuf_append(out, text.len ? text.data : "", text.len);
    strbuf_free(&text);
    arena_free(&arena);
    return rc;
}
