// SPDX-License-Identifier: Apache-2.0
// Theory of operation. Statements, by recursive descent over the tokens; expressions are in
// jinja_expression.c. Every node knows the depth of the tree below it, which is bounded, so that
// whoever walks a tree may recurse.
#include "policy/jinja_names.h"
#include "policy/jinja_parser.h"

#include <stdlib.h>

static int parse_body(struct jinja_parser *p, struct jinja_node **out, const char *const *ends);

// ---- statements

static int parse_if(struct jinja_parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_IF, p->at->line), **branch = &n->list;
    bool more = true;
    int rc = 0;
    *out = n;
    while (rc == 0 && more) {
        const bool otherwise = n->list && parser_span_is(p->at[-1].text, "else");
        *branch = parser_new_node(p, JINJA_NODE_IF, p->at->line);
        if (!otherwise)
            rc = parser_expression(p, &(*branch)->a);
        rc = rc ? rc : parser_expect_kind(p, JINJA_TOKEN_TAG_END, "the end of the tag");
        rc = rc ? rc : parse_body(p, &(*branch)->list, otherwise ? last : ends);
        rc = rc ? rc : parser_finish(p, *branch);
        more = rc == 0 && !parser_at_name(p, "endif");
        branch = &(*branch)->next;
        p->at += rc == 0;
    }
    return rc ? rc : parser_finish(p, n);
}

static int parse_for(struct jinja_parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_FOR, p->at->line), **name = &n->names;
    int rc = 0;
    *out = n;
    do {
        *name = parser_new_node(p, JINJA_NODE_NAME, p->at->line);
        rc = parser_expect_name(p, &(*name)->text);
        name = &(*name)->next;
    } while (rc == 0 && parser_take_operator(p, ","));
    if (rc == 0 && !parser_take_name(p, "in"))
        rc = parser_refuse_token(p, "\"in\"");
    rc = rc ? rc : parser_operation(p, &n->a);
    if (rc == 0 && parser_at_name(p, "if"))
        return parser_refuse(p, "a \"for\" with \"if\" is not supported");
    if (rc == 0 && parser_at_name(p, "recursive"))
        return parser_refuse(p, "a recursive \"for\" is not supported");
    rc = rc ? rc : parser_expect_kind(p, JINJA_TOKEN_TAG_END, "the end of the tag");
    rc = rc ? rc : parse_body(p, &n->list, ends);
    if (rc == 0 && parser_at_name(p, "else"))
        return parser_refuse(p, "a \"for\" with \"else\" is not supported");
    p->at += rc == 0;
    return rc ? rc : parser_finish(p, n);
}

static int parse_set(struct jinja_parser *p, struct jinja_node **out)
{
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_SET, p->at->line);
    int rc = parser_expect_name(p, &n->text);
    *out = n;
    if (rc == 0 && parser_take_operator(p, "."))
        rc = parser_expect_name(p, &n->text2);
    if (rc == 0 && parser_at_operator(p, ","))
        return parser_refuse(p, "a \"set\" of several variables is not supported");
    if (rc == 0 && p->at->kind == JINJA_TOKEN_TAG_END)
        return parser_refuse(p, "a \"set\" of a block is not supported");
    rc = rc ? rc : parser_expect_operator(p, "=");
    rc = rc ? rc : parser_expression(p, &n->a);
    if (rc == 0 && parser_at_operator(p, ","))
        return parser_refuse(p, "a tuple is not supported");
    return rc ? rc : parser_finish(p, n);
}

// A tag, after its opening; its name has been looked at.
static int parse_tag(struct jinja_parser *p, struct jinja_node **out)
{
    int rc = 0;
    if (parser_take_name(p, "if"))
        rc = parse_if(p, out);
    else if (parser_take_name(p, "for"))
        rc = parse_for(p, out);
    else if (parser_take_name(p, "set"))
        rc = parse_set(p, out);
    else if (p->at->kind == JINJA_TOKEN_NAME)
        rc = parser_refuse(p, "the tag \"%.*s\" is not supported here", text_shown(p->at->text),
                           p->at->text.s);
    else
        rc = parser_refuse_token(p, "the name of a tag");
    return rc ? rc : parser_expect_kind(p, JINJA_TOKEN_TAG_END, "the end of the tag");
}

static int parse_print(struct jinja_parser *p, struct jinja_node **out)
{
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_PRINT, p->at->line);
    int rc = parser_expression(p, &n->a);
    if (rc == 0 && parser_at_operator(p, ","))
        return parser_refuse(p, "a tuple is not supported");
    rc = rc ? rc : parser_expect_kind(p, JINJA_TOKEN_PRINT_END, "the end of the tag");
    *out = n;
    return rc ? rc : parser_finish(p, n);
}

static bool at_any(const struct jinja_parser *p, const char *const *names)
{
    while (*names && !parser_at_name(p, *names))
        names++;
    return *names != NULL;
}

// Statements up to a tag of one of these names, before which it stops; ends NULL: up to the end of
// the template. The last name is the one that must come.
static int parse_body(struct jinja_parser *p, struct jinja_node **out, const char *const *ends)
{
    if (p->depth == JINJA_DEPTH_MAX)
        return parser_refuse(p, "the template nests more than %d deep", JINJA_DEPTH_MAX);
    p->depth++;
    int rc = 0;
    for (; rc == 0; out = *out ? &(*out)->next : out) {
        const enum jinja_token_kind kind = p->at->kind;
        if (kind == JINJA_TOKEN_END) {
            while (ends && ends[1])
                ends++;
            if (ends)
                rc = parser_refuse(p, "the template ends before the tag \"%s\"", ends[0]);
            break;
        }
        const struct jinja_token *token = p->at++;
        if (kind == JINJA_TOKEN_TEXT) {
            *out = parser_new_node(p, JINJA_NODE_TEXT, token->line);
            (*out)->text = token->text;
            rc = parser_finish(p, *out);
        } else if (kind == JINJA_TOKEN_PRINT_BEGIN) {
            rc = parse_print(p, out);
        } else if (ends && at_any(p, ends)) {
            break;
        } else {
            rc = parse_tag(p, out);
        }
    }
    p->depth--;
    return rc;
}

int jinja_parse(struct jinja_node **out, struct arena *a, const char *source, size_t len,
                const char *name)
{
    struct jinja_tokens tokens = {0};
    struct jinja_node *statements = NULL;
    int rc = jinja_lex(&tokens, a, source, len, name);
    if (rc)
        return rc;
    struct jinja_parser p = {.at = tokens.items, .arena = a, .name = name};
    rc = parse_body(&p, &statements, NULL);
    free(tokens.items);
    rc = rc ? rc : jinja_check_names(statements, a, name);
    if (rc == 0)
        *out = statements;
    return rc;
}
