// SPDX-License-Identifier: Apache-2.0
// What the parsers of statements and of expressions share: tokens and nodes. Internal to
// jinja_parse.c and jinja_expression.c.
#ifndef POLICY_JINJA_PARSER_H
#define POLICY_JINJA_PARSER_H

#include "policy/jinja_lex.h"
#include "policy/jinja_parse.h"

enum { JINJA_DEPTH_MAX = 200 };

struct jinja_parser {
    const struct jinja_token *at;
    struct arena *arena;
    const char *name; // of the template, in errors
    int depth;        // of the recursion
};

// ERR_MODEL, "NAME:LINE: what"; and that what stands here is not what is expected.
int parser_refuse(const struct jinja_parser *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int parser_refuse_token(const struct jinja_parser *p, const char *expected);

bool parser_span_is(struct span t, const char *s);
bool parser_at_operator(const struct jinja_parser *p, const char *s);
bool parser_at_name(const struct jinja_parser *p, const char *s);
bool parser_take_operator(struct jinja_parser *p, const char *s);
bool parser_take_name(struct jinja_parser *p, const char *s);
int parser_expect_operator(struct jinja_parser *p, const char *s);
int parser_expect_kind(struct jinja_parser *p, enum jinja_token_kind kind, const char *what);
int parser_expect_name(struct jinja_parser *p, struct span *out); // no reserved word

// A zeroed node; parser_finish is called once its children are set, and bounds the tree's depth.
struct jinja_node *parser_new_node(struct jinja_parser *p, enum jinja_node_kind kind, int line);
struct jinja_node *parser_new_value(struct jinja_parser *p, struct jinja_value v, int line);
int parser_finish(struct jinja_parser *p, struct jinja_node *n);
// A node of one or two operands in place of the first, which *out holds; finished.
int parser_wrap(struct jinja_parser *p, struct jinja_node **out, enum jinja_node_kind kind,
                struct span text, struct jinja_node *b);

int parser_expression(struct jinja_parser *p, struct jinja_node **out);
// The same without a choice ("a if b else c"): what a loop goes over.
int parser_operation(struct jinja_parser *p, struct jinja_node **out);

#endif
