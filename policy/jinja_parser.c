// SPDX-License-Identifier: Apache-2.0
#include "policy/jinja_parser.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int parser_refuse(const struct jinja_parser *p, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return err_set(ERR_MODEL, "%s:%d: %s", p->name, p->at->line, what);
}

// ---- tokens

bool parser_span_is(struct span t, const char *s)
{
    return t.len == strlen(s) && memcmp(t.s, s, t.len) == 0;
}

bool parser_at_operator(const struct jinja_parser *p, const char *s)
{
    return p->at->kind == JINJA_TOKEN_OPERATOR && parser_span_is(p->at->text, s);
}

bool parser_at_name(const struct jinja_parser *p, const char *s)
{
    return p->at->kind == JINJA_TOKEN_NAME && parser_span_is(p->at->text, s);
}

bool parser_take_operator(struct jinja_parser *p, const char *s)
{
    const bool here = parser_at_operator(p, s);
    p->at += here;
    return here;
}

bool parser_take_name(struct jinja_parser *p, const char *s)
{
    const bool here = parser_at_name(p, s);
    p->at += here;
    return here;
}

int parser_refuse_token(const struct jinja_parser *p, const char *expected)
{
    const enum jinja_token_kind kind = p->at->kind;
    if (kind == JINJA_TOKEN_PRINT_END || kind == JINJA_TOKEN_TAG_END)
        return parser_refuse(p, "the tag ends where %s is expected", expected);
    if (kind == JINJA_TOKEN_TEXT || kind == JINJA_TOKEN_PRINT_BEGIN ||
        kind == JINJA_TOKEN_TAG_BEGIN || kind == JINJA_TOKEN_END)
        return parser_refuse(p, "the template ends where %s is expected", expected);
    return parser_refuse(p, "\"%.*s\" stands where %s is expected", text_shown(p->at->text),
                         p->at->text.s, expected);
}

int parser_expect_operator(struct jinja_parser *p, const char *s)
{
    char expected[16];
    snprintf(expected, sizeof expected, "\"%s\"", s);
    return parser_take_operator(p, s) ? 0 : parser_refuse_token(p, expected);
}

int parser_expect_kind(struct jinja_parser *p, enum jinja_token_kind kind, const char *what)
{
    if (p->at->kind != kind)
        return parser_refuse_token(p, what);
    p->at++;
    return 0;
}

int parser_expect_name(struct jinja_parser *p, struct span *out)
{
    static const char *const reserved[] = {"and",  "or",   "not",  "if",    "else",
                                           "in",   "is",   "for",  "true",  "True",
                                           "none", "None", "elif", "false", "False"};
    if (p->at->kind != JINJA_TOKEN_NAME)
        return parser_refuse_token(p, "a name");
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (parser_span_is(p->at->text, reserved[i]))
            return parser_refuse_token(p, "a name");
    *out = p->at++->text;
    return 0;
}

// ---- nodes

struct jinja_node *parser_new_node(struct jinja_parser *p, enum jinja_node_kind kind, int line)
{
    struct jinja_node *n = arena_push0(p->arena, sizeof *n);
    n->kind = kind;
    n->line = line;
    return n;
}

static int depth_of(const struct jinja_node *n) { return n ? n->depth : 0; }

// To be called once the children of n are set.
int parser_finish(struct jinja_parser *p, struct jinja_node *n)
{
    const struct jinja_node *const below[] = {n->a, n->b, n->c};
    int depth = 0;
    for (int i = 0; i < 3; i++)
        depth = depth_of(below[i]) > depth ? depth_of(below[i]) : depth;
    for (const struct jinja_node *m = n->list; m; m = m->next)
        depth = m->depth > depth ? m->depth : depth;
    n->depth = depth + 1;
    return n->depth <= JINJA_DEPTH_MAX
               ? 0
               : parser_refuse(p, "the template nests more than %d deep", JINJA_DEPTH_MAX);
}

// A node of one or two operands in place of the first, which *out holds.
int parser_wrap(struct jinja_parser *p, struct jinja_node **out, enum jinja_node_kind kind,
                struct span text, struct jinja_node *b)
{
    struct jinja_node *n = parser_new_node(p, kind, (*out)->line);
    n->text = text;
    n->a = *out;
    n->b = b;
    *out = n;
    return parser_finish(p, n);
}

struct jinja_node *parser_new_value(struct jinja_parser *p, struct jinja_value v, int line)
{
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_VALUE, line);
    n->value = v;
    n->depth = 1;
    return n;
}
