// SPDX-License-Identifier: Apache-2.0
// Theory of operation. Expressions, by recursive descent. Binary operators bind by level, as in
// Jinja's own parser: or, and, not, comparisons, + -, ~, * / // %, then signs, then what follows an
// operand (members, calls), filters and tests.
#include "policy/jinja_builtins.h"
#include "policy/jinja_parser.h"

#include <string.h>

// ---- operands

static int parse_literal_text(struct jinja_parser *p, struct jinja_node **out)
{
    struct strbuf joined = {0}; // literals side by side are one
    const int line = p->at->line;
    for (; p->at->kind == JINJA_TOKEN_STRING; p->at++)
        strbuf_append(&joined, p->at->text.s, p->at->text.len);
    const char *copy = arena_strndup(p->arena, joined.len ? joined.data : "", joined.len);
    *out = parser_new_value(p, jinja_string(copy, joined.len), line);
    strbuf_free(&joined);
    return 0;
}

// Elements up to the closing bracket; of a dict, keys and values.
static int parse_elements(struct jinja_parser *p, struct jinja_node **out, bool dict)
{
    struct jinja_node *n =
        parser_new_node(p, dict ? JINJA_NODE_DICT : JINJA_NODE_LIST, p->at++->line);
    struct jinja_node **end = &n->list;
    const char *close = dict ? "}" : "]";
    int rc = 0;
    while (rc == 0 && !parser_take_operator(p, close)) {
        rc = parser_expression(p, end);
        if (rc == 0 && dict) {
            end = &(*end)->next;
            rc = parser_expect_operator(p, ":");
            rc = rc ? rc : parser_expression(p, end);
        }
        if (rc == 0 && !parser_at_operator(p, close))
            rc = parser_expect_operator(p, ",");
        if (rc == 0)
            end = &(*end)->next;
    }
    *out = n;
    return rc ? rc : parser_finish(p, n);
}

static int parse_name(struct jinja_parser *p, struct jinja_node **out)
{
    const int line = p->at->line;
    static const struct {
        const char *name;
        struct jinja_value value;
    } constants[] = {{"true", {.type = JINJA_BOOL, .truth = true}},
                     {"True", {.type = JINJA_BOOL, .truth = true}},
                     {"false", {.type = JINJA_BOOL}},
                     {"False", {.type = JINJA_BOOL}},
                     {"none", {.type = JINJA_NONE}},
                     {"None", {.type = JINJA_NONE}}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (parser_take_name(p, constants[i].name)) {
            *out = parser_new_value(p, constants[i].value, line);
            return 0;
        }
    }
    struct span name = {0};
    const int rc = parser_expect_name(p, &name);
    if (rc)
        return rc;
    *out = parser_new_node(p, JINJA_NODE_NAME, line);
    (*out)->text = name;
    return parser_finish(p, *out);
}

static int parse_operand(struct jinja_parser *p, struct jinja_node **out)
{
    const int line = p->at->line;
    const enum jinja_token_kind kind = p->at->kind;
    if (kind == JINJA_TOKEN_STRING)
        return parse_literal_text(p, out);
    if (kind == JINJA_TOKEN_NAME)
        return parse_name(p, out);
    if (kind == JINJA_TOKEN_INTEGER || kind == JINJA_TOKEN_FLOAT) {
        const struct jinja_value real = {.type = JINJA_FLOAT, .real = p->at->real};
        *out =
            parser_new_value(p, kind == JINJA_TOKEN_FLOAT ? real : jinja_int(p->at->integer), line);
        p->at++;
        return 0;
    }
    if (parser_at_operator(p, "[") || parser_at_operator(p, "{"))
        return parse_elements(p, out, parser_at_operator(p, "{"));
    if (!parser_take_operator(p, "("))
        return parser_refuse_token(p, "an expression");
    if (parser_at_operator(p, ")"))
        return parser_refuse(p, "a tuple is not supported");
    int rc = parser_expression(p, out);
    if (rc == 0 && parser_at_operator(p, ","))
        rc = parser_refuse(p, "a tuple is not supported");
    return rc ? rc : parser_expect_operator(p, ")");
}

// ---- calls

// Arguments up to ")", after "(".
static int parse_arguments(struct jinja_parser *p, struct jinja_node **out)
{
    int rc = 0;
    for (bool named = false; rc == 0 && !parser_take_operator(p, ")");) {
        const bool keyword = p->at->kind == JINJA_TOKEN_NAME &&
                             p->at[1].kind == JINJA_TOKEN_OPERATOR &&
                             parser_span_is(p->at[1].text, "=");
        if (parser_at_operator(p, "*") || parser_at_operator(p, "**"))
            return parser_refuse(p, "unpacked arguments are not supported");
        if (named && !keyword)
            return parser_refuse(p, "an argument without a name follows one with a name");
        named = keyword;
        struct jinja_node *n = NULL;
        if (keyword) {
            n = parser_new_node(p, JINJA_NODE_KEYWORD, p->at->line);
            n->text = p->at->text;
            p->at += 2;
        }
        rc = parser_expression(p, n ? &n->a : &n);
        rc = rc || !keyword ? rc : parser_finish(p, n);
        if (rc == 0 && !parser_at_operator(p, ")"))
            rc = parser_expect_operator(p, ",");
        *out = n;
        out = n ? &n->next : out;
    }
    return rc;
}

// Every argument has a parameter, and every required one is there.
static int check_arguments(const struct jinja_parser *p, const struct jinja_node *n)
{
    const struct jinja_builtin *b = n->builtin;
    bool given[JINJA_ARGS_MAX] = {false};
    int place = 0;
    for (const struct jinja_node *m = n->list; m; m = m->next) {
        const bool keyword = m->kind == JINJA_NODE_KEYWORD;
        if (keyword && strcmp(b->params, "**") == 0)
            continue;
        const int param = keyword ? jinja_builtin_param(b, m->text) : place++;
        if (param < 0)
            return parser_refuse(p, "the argument \"%.*s\" of \"%s\" is not supported",
                                 text_shown(m->text), m->text.s, b->name);
        if (param >= jinja_builtin_num_params(b))
            return parser_refuse(p, "\"%s\" has more arguments than are supported (%d)", b->name,
                                 jinja_builtin_num_params(b));
        if (given[param])
            return parser_refuse(p, "an argument of \"%s\" is given twice", b->name);
        given[param] = true;
    }
    for (int i = 0; i < b->required; i++)
        if (!given[i])
            return parser_refuse(p, "\"%s\" lacks an argument", b->name);
    return 0;
}

// n calls the builtin of its name, with what stands in brackets where there are any.
static int finish_call(struct jinja_parser *p, struct jinja_node *n, enum jinja_builtin_kind kind,
                       const char *what)
{
    n->builtin = jinja_builtin_find(kind, n->text);
    if (!n->builtin)
        return parser_refuse(p, "the %s \"%.*s\" is not supported", what, text_shown(n->text),
                             n->text.s);
    int rc = parser_take_operator(p, "(") ? parse_arguments(p, &n->list) : 0;
    rc = rc ? rc : check_arguments(p, n);
    return rc ? rc : parser_finish(p, n);
}

static int parse_subscript(struct jinja_parser *p, struct jinja_node **out)
{
    struct jinja_node *parts[3] = {NULL}, **list = NULL;
    int count = 0, colons = 0, rc = 0;
    while (rc == 0 && !parser_take_operator(p, "]")) {
        if (parser_at_operator(p, ","))
            return parser_refuse(p, "a tuple is not supported");
        if (parser_take_operator(p, ":")) {
            if (++colons > 2)
                return parser_refuse(p, "a slice has more than two colons");
            count = colons;
        } else {
            if (parts[count])
                return parser_refuse_token(p, "\"]\"");
            rc = parser_expression(p, &parts[count]);
        }
    }
    if (rc)
        return rc;
    if (colons == 0)
        return parts[0] ? parser_wrap(p, out, JINJA_NODE_ITEM, (struct span){0}, parts[0])
                        : parser_refuse(p, "an index is missing");
    struct jinja_node *n = parser_new_node(p, JINJA_NODE_SLICE, (*out)->line);
    n->a = *out;
    list = &n->list;
    for (int i = 0; i < 3; i++) {
        *list = parts[i] ? parts[i]
                         : parser_new_value(p, (struct jinja_value){.type = JINJA_NONE}, n->line);
        list = &(*list)->next;
    }
    *out = n;
    return parser_finish(p, n);
}

// ".name", ".0", or the call of a method.
static int parse_member(struct jinja_parser *p, struct jinja_node **out)
{
    const int line = p->at->line;
    if (p->at->kind == JINJA_TOKEN_INTEGER)
        return parser_wrap(p, out, JINJA_NODE_ITEM, (struct span){0},
                           parser_new_value(p, jinja_int(p->at++->integer), line));
    if (p->at->kind != JINJA_TOKEN_NAME)
        return parser_refuse_token(p, "the name of a member");
    const struct span name = p->at++->text;
    if (name.len > 1 && name.s[0] == '_' && name.s[1] == '_')
        return parser_refuse(p, "the member \"%.*s\" is not supported", text_shown(name), name.s);
    int rc = parser_wrap(p, out, JINJA_NODE_MEMBER, name, NULL);
    if (rc || !parser_at_operator(p, "("))
        return rc;
    (*out)->kind = JINJA_NODE_METHOD;
    return finish_call(p, *out, JINJA_METHOD_BUILTIN, "method");
}

// Members, subscripts and calls behind an operand.
static int parse_postfix(struct jinja_parser *p, struct jinja_node **out)
{
    int rc = 0;
    while (rc == 0) {
        if (parser_take_operator(p, ".")) {
            rc = parse_member(p, out);
        } else if (parser_take_operator(p, "[")) {
            rc = parse_subscript(p, out);
        } else if (parser_at_operator(p, "(")) {
            if ((*out)->kind != JINJA_NODE_NAME)
                return parser_refuse(p, "a call of what has no name is not supported");
            (*out)->kind = JINJA_NODE_CALL;
            rc = finish_call(p, *out, JINJA_GLOBAL_BUILTIN, "function");
        } else {
            break;
        }
    }
    return rc;
}

// A test's argument may stand without brackets: "is divisibleby 3".
static bool at_bare_argument(const struct jinja_parser *p)
{
    static const char *const ends[] = {"else", "or", "and", "is"};
    if (p->at->kind == JINJA_TOKEN_OPERATOR)
        return parser_at_operator(p, "[") || parser_at_operator(p, "{");
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (parser_at_name(p, ends[i]))
            return false;
    return p->at->kind == JINJA_TOKEN_NAME || p->at->kind == JINJA_TOKEN_STRING ||
           p->at->kind == JINJA_TOKEN_INTEGER || p->at->kind == JINJA_TOKEN_FLOAT;
}

static int parse_test(struct jinja_parser *p, struct jinja_node **out)
{
    const bool negated = parser_take_name(p, "not");
    if (p->at->kind != JINJA_TOKEN_NAME)
        return parser_refuse_token(p, "the name of a test");
    const struct span name = p->at++->text;
    int rc = parser_wrap(p, out, JINJA_NODE_TEST, name, NULL);
    struct jinja_node *n = *out;
    if (rc)
        return rc;
    if (at_bare_argument(p)) {
        rc = parse_operand(p, &n->list);
        rc = rc ? rc : parse_postfix(p, &n->list);
    }
    if (rc == 0 && n->list && parser_at_operator(p, "("))
        rc = parser_refuse(p, "a call of what has no name is not supported");
    rc = rc ? rc : finish_call(p, n, JINJA_TEST_BUILTIN, "test");
    if (rc == 0 && parser_at_name(p, "is"))
        rc = parser_refuse(p, "a test of a test is not supported");
    return rc || !negated ? rc : parser_wrap(p, out, JINJA_NODE_NOT, (struct span){0}, NULL);
}

static int parse_filters(struct jinja_parser *p, struct jinja_node **out)
{
    int rc = 0;
    while (rc == 0) {
        if (parser_take_operator(p, "|")) {
            struct span name = {0};
            rc = parser_expect_name(p, &name);
            rc = rc ? rc : parser_wrap(p, out, JINJA_NODE_FILTER, name, NULL);
            rc = rc ? rc : finish_call(p, *out, JINJA_FILTER_BUILTIN, "filter");
        } else if (parser_take_name(p, "is")) {
            rc = parse_test(p, out);
        } else {
            break;
        }
    }
    return rc;
}

// ---- operators

static int parse_signed(struct jinja_parser *p, struct jinja_node **out, bool with_filters)
{
    int rc = 0;
    if (parser_at_operator(p, "+"))
        return parser_refuse(p, "the sign + is not supported");
    if (parser_take_operator(p, "-")) {
        if (parser_at_operator(p, "-"))
            return parser_refuse(p, "two signs are not supported");
        rc = parse_signed(p, out, false);
        rc = rc ? rc : parser_wrap(p, out, JINJA_NODE_NEGATIVE, (struct span){0}, NULL);
    } else {
        rc = parse_operand(p, out);
        rc = rc ? rc : parse_postfix(p, out);
    }
    return rc || !with_filters ? rc : parse_filters(p, out);
}

enum {
    LEVEL_OR,
    LEVEL_AND,
    LEVEL_NOT,
    LEVEL_COMPARE,
    LEVEL_SUM,
    LEVEL_JOIN,
    LEVEL_PRODUCT,
    LEVELS
};

// The operator of that level here, which is taken.
static bool take_level(struct jinja_parser *p, int level, struct span *out)
{
    static const char *const operators[LEVELS][7] = {
        [LEVEL_COMPARE] = {"==", "!=", "<", "<=", ">", ">="},
        [LEVEL_SUM] = {"+", "-"},
        [LEVEL_JOIN] = {"~"},
        [LEVEL_PRODUCT] = {"*", "/", "//", "%"}};
    *out = p->at->text;
    if (level == LEVEL_OR || level == LEVEL_AND)
        return parser_take_name(p, level == LEVEL_OR ? "or" : "and");
    for (const char *const *o = operators[level]; *o; o++)
        if (parser_take_operator(p, *o))
            return true;
    if (level == LEVEL_COMPARE && parser_at_name(p, "not") && p->at[1].kind == JINJA_TOKEN_NAME &&
        parser_span_is(p->at[1].text, "in")) {
        *out = (struct span){"not in", 6};
        p->at += 2;
        return true;
    }
    return level == LEVEL_COMPARE && parser_take_name(p, "in");
}

static int parse_level(struct jinja_parser *p, struct jinja_node **out, int level)
{
    static const enum jinja_node_kind kinds[LEVELS] = {
        JINJA_NODE_OR,        JINJA_NODE_AND,       JINJA_NODE_NOT,      JINJA_NODE_OPERATION,
        JINJA_NODE_OPERATION, JINJA_NODE_OPERATION, JINJA_NODE_OPERATION};
    if (level == LEVELS)
        return parse_signed(p, out, true);
    if (level == LEVEL_NOT) {
        int nots = 0;
        while (parser_take_name(p, "not"))
            nots++;
        int rc = parse_level(p, out, level + 1);
        while (rc == 0 && nots-- > 0)
            rc = parser_wrap(p, out, JINJA_NODE_NOT, (struct span){0}, NULL);
        return rc;
    }
    int rc = parse_level(p, out, level + 1);
    for (int n = 0; rc == 0; n++) {
        struct span text = {0};
        struct jinja_node *right = NULL;
        if (!take_level(p, level, &text))
            break;
        if (level == LEVEL_COMPARE && n > 0)
            return parser_refuse(p, "a chain of comparisons is not supported");
        rc = parse_level(p, &right, level + 1);
        rc = rc ? rc : parser_wrap(p, out, kinds[level], text, right);
    }
    if (rc == 0 && parser_at_operator(p, "**"))
        rc = parser_refuse(p, "the operator \"**\" is not supported");
    return rc;
}

int parser_expression(struct jinja_parser *p, struct jinja_node **out)
{
    if (p->depth == JINJA_DEPTH_MAX)
        return parser_refuse(p, "the template nests more than %d deep", JINJA_DEPTH_MAX);
    p->depth++;
    int rc = parse_level(p, out, LEVEL_OR);
    if (rc == 0 && parser_take_name(p, "if")) {
        struct jinja_node *n = parser_new_node(p, JINJA_NODE_CHOICE, (*out)->line);
        n->b = *out;
        *out = n;
        rc = parse_level(p, &n->a, LEVEL_OR);
        if (rc == 0 && parser_take_name(p, "else"))
            rc = parser_expression(p, &n->c);
        else if (rc == 0 && parser_at_name(p, "if"))
            rc = parser_refuse(p, "a choice of a choice is not supported");
        rc = rc ? rc : parser_finish(p, n);
    }
    p->depth--;
    return rc;
}
int parser_operation(struct jinja_parser *p, struct jinja_node **out)
{
    return parse_level(p, out, LEVEL_OR);
}
