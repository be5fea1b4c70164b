// SPDX-License-Identifier: Apache-2.0
#include "policy/tokenizer_chat.h"

#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"
#include "policy/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

struct tokenizer_chat {
    const struct tokenizer *tokenizer;
    struct chat_template *plain, *tools; // tools NULL: plain is for those as well
    char *roles[3];                      // texts of BOS, EOS and padding; NULL: none
};

static int parse(struct chat_template **out, const char *text, const char *file, const char *name)
{
    struct strbuf where = {0};
    strbuf_printf(&where, "%s: %s", file, name);
    const int rc = chat_template_parse(out, text, strlen(text), where.data);
    strbuf_free(&where);
    return rc;
}

// A list of {"name", "template"}.
static int parse_named(struct tokenizer_chat *c, const struct json *list, const char *file)
{
    int rc = 0;
    for (const struct json *v = json_first(list); v && rc == 0; v = json_next(v)) {
        const char *name = json_string(json_get(v, "name"));
        const char *text = json_string(json_get(v, "template"));
        if (!name || !text)
            return err_set(ERR_MODEL,
                           "%s: \"chat_template\" holds what is not {\"name\", "
                           "\"template\"}",
                           file);
        if (strcmp(name, "default") == 0 && !c->plain)
            rc = parse(&c->plain, text, file, "chat_template \"default\"");
        else if (strcmp(name, "tool_use") == 0 && !c->tools)
            rc = parse(&c->tools, text, file, "chat_template \"tool_use\"");
    }
    if (rc == 0 && !c->plain)
        rc = err_set(ERR_MODEL, "%s: \"chat_template\" has no template named \"default\"", file);
    return rc;
}

static int parse_config(struct tokenizer_chat *c)
{
    const struct strbuf *text = &c->tokenizer->files[FILE_CONFIG];
    const char *file = c->tokenizer->names[FILE_CONFIG];
    struct json_doc *doc = NULL;
    int rc = json_parse(&doc, text->data, text->len, 0, file, 1, ERR_MODEL);
    if (rc)
        return rc;
    const struct json *v = json_get(json_root(doc), "chat_template");
    if (json_type(v) == JSON_STRING)
        rc = parse(&c->plain, json_string(v), file, "chat_template");
    else if (json_type(v) == JSON_ARRAY)
        rc = parse_named(c, v, file);
    else if (json_type(v) != JSON_NULL)
        rc = err_set(ERR_MODEL, "%s:%d: \"chat_template\" is %s, expected text", file,
                     json_line(doc, v), json_type_name(json_type(v)));
    json_free(&doc);
    return rc;
}

static char *role_text(const struct tokenizer *t, int id)
{
    size_t len = 0;
    const char *bytes = tokenizer_token_bytes(t, id, &len);
    return bytes ? mem_strndup(bytes, len) : NULL;
}

int tokenizer_chat_open(struct tokenizer_chat **out, const struct tokenizer *t)
{
    const struct strbuf *file = &t->files[FILE_TEMPLATE];
    struct tokenizer_chat *c = mem_alloc0(sizeof *c);
    c->tokenizer = t;
    const int roles[] = {tokenizer_bos(t), tokenizer_eos(t), tokenizer_pad(t)};
    for (int i = 0; i < 3; i++)
        c->roles[i] = role_text(t, roles[i]);
    int rc = 0;
    if (file->data)
        rc = chat_template_parse(&c->plain, file->data, file->len, t->names[FILE_TEMPLATE]);
    else if (t->files[FILE_CONFIG].data)
        rc = parse_config(c);
    if (rc || !c->plain)
        tokenizer_chat_free(&c);
    if (rc == 0)
        *out = c;
    return rc;
}

void tokenizer_chat_free(struct tokenizer_chat **c)
{
    if (!c || !*c)
        return;
    chat_template_free(&(*c)->plain);
    chat_template_free(&(*c)->tools);
    for (int i = 0; i < 3; i++)
        free((*c)->roles[i]);
    free(*c);
    *c = NULL;
}

int tokenizer_chat_render(struct strbuf *out, const struct tokenizer_chat *c,
                          const struct chat_request *request)
{
    struct chat_request r = *request;
    r.bos = c->roles[0];
    r.eos = c->roles[1];
    r.pad = c->roles[2];
    const bool tools = c->tools && json_type(r.tools) != JSON_NULL;
    return chat_template_render(out, tools ? c->tools : c->plain, &r);
}
