// SPDX-License-Identifier: Apache-2.0
// Theory of operation. The lexer is in one of two places: in text, where it looks for the next tag
// and cuts the text before it as the tag's sign says; or inside a tag, where it takes token after
// token until the tag's end, and with the end the white space that the end's sign takes.
#include "policy/jinja_lex.h"

#include "base/error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE_MAX   ((size_t)256 << 10)
#define BRACKETS_MAX 200

struct lexer {
    struct jinja_tokens tokens;
    struct arena *arena;
    const char *name;
    struct span source;
    size_t at;
    int line;
    bool line_start; // what was read before the text ended a line
};

static int refuse(const struct lexer *l, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int refuse(const struct lexer *l, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return err_set(ERR_MODEL, "%s:%d: %s", l->name, l->line, what);
}

static struct jinja_token *push(struct lexer *l, enum jinja_token_kind kind, struct span text)
{
    struct jinja_tokens *t = &l->tokens;
    if (t->count == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 256;
        t->items = mem_realloc(t->items, t->cap * sizeof *t->items);
    }
    t->items[t->count] = (struct jinja_token){.kind = kind, .line = l->line, .text = text};
    return &t->items[t->count++];
}

static struct span rest(const struct lexer *l)
{
    return (struct span){l->source.s + l->at, l->source.len - l->at};
}

static bool looking_at(const struct lexer *l, const char *what)
{
    const size_t len = strlen(what);
    return rest(l).len >= len && memcmp(rest(l).s, what, len) == 0;
}

static void advance(struct lexer *l, size_t n)
{
    for (size_t i = 0; i < n; i++)
        l->line += rest(l).s[i] == '\n';
    l->at += n;
}

// Takes n bytes, and all white space behind them.
static void advance_and_strip(struct lexer *l, size_t n)
{
    advance(l, n);
    advance(l, rest(l).len - text_strip_left(rest(l)).len);
}

static void skip_newline(struct lexer *l)
{
    if (looking_at(l, "\n"))
        advance(l, 1);
}

// ---- text

// Offset of the next "{{", "{%" or "{#" in t, or its length.
static size_t next_tag(struct span t)
{
    for (size_t i = 0; i + 1 < t.len; i++)
        if (t.s[i] == '{' && (t.s[i + 1] == '{' || t.s[i + 1] == '%' || t.s[i + 1] == '#'))
            return i;
    return t.len;
}

// Without the blanks between the start of its last line and a tag.
static struct span strip_indent(struct span text, bool line_start)
{
    size_t line = text.len;
    while (line > 0 && text.s[line - 1] != '\n')
        line--;
    const struct span indent = {text.s + line, text.len - line};
    if ((line > 0 || line_start) && text_strip_left(indent).len == 0)
        text.len = line;
    return text;
}

static int lex_comment(struct lexer *l)
{
    const size_t end = text_find(rest(l), 0, (struct span){"#}", 2});
    if (end == SIZE_MAX)
        return refuse(l, "a comment has no end");
    const char sign = end > 0 ? rest(l).s[end - 1] : 0;
    if (sign == '-') {
        advance_and_strip(l, end + 2);
    } else {
        advance(l, end + 2);
        if (sign != '+')
            skip_newline(l);
    }
    return 0;
}

// ---- inside tags

static int hexadecimal(const struct lexer *l, const char *s, size_t left, size_t digits,
                       uint32_t *out)
{
    uint32_t c = 0;
    size_t n = 0;
    for (; n < digits && n < left && isxdigit((unsigned char)s[n]); n++)
        c = c << 4 | (uint32_t)(s[n] <= '9' ? s[n] - '0' : (s[n] | 32) - 'a' + 10);
    if (n < digits || c == 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return refuse(l, "a character code in a string is not one of a character");
    *out = c;
    return 0;
}

// Appends what an escape means, as in Python; *size is what it takes after the backslash. An
// unknown one means itself.
static int put_escape(struct strbuf *out, const struct lexer *l, struct span s, size_t *size)
{
    static const char known[] = "n\nt\tr\r\\\\'\'\"\"a\ab\bf\fv\v";
    const char c = s.s[0];
    *size = 1;
    for (size_t i = 0; i + 1 < sizeof known; i += 2) {
        if (known[i] == c) {
            strbuf_putc(out, known[i + 1]);
            return 0;
        }
    }
    if (c == '\n') // the line goes on
        return 0;
    if (isdigit((unsigned char)c) || c == 'N' || (unsigned char)c >= 0x80)
        return refuse(l, "the escape \\%.*s in a string is not supported", (int)text_offset(s, 1),
                      s.s);
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
        strbuf_putc(out, '\\');
        strbuf_putc(out, c);
        return 0;
    }
    uint32_t code = 0;
    const int rc = hexadecimal(l, s.s + 1, s.len - 1, digits, &code);
    if (rc == 0)
        text_put_char(out, code);
    *size += digits;
    return rc;
}

static int lex_string(struct lexer *l)
{
    const struct span s = rest(l);
    struct strbuf text = {0};
    size_t i = 1;
    int rc = 0;
    while (i < s.len && s.s[i] != s.s[0] && rc == 0) {
        size_t size = 1;
        if (s.s[i] != '\\') {
            strbuf_putc(&text, s.s[i]);
        } else if (i + 1 < s.len) {
            rc = put_escape(&text, l, (struct span){s.s + i + 1, s.len - i - 1}, &size);
            i++;
        }
        i += size;
    }
    if (rc == 0 && i >= s.len)
        rc = refuse(l, "a string has no end");
    if (rc == 0) {
        const char *copy = arena_strndup(l->arena, text.len ? text.data : "", text.len);
        push(l, JINJA_TOKEN_STRING, (struct span){copy, text.len});
        advance(l, i + 1);
    }
    strbuf_free(&text);
    return rc;
}

static size_t count_digits(struct span s, size_t from)
{
    size_t n = 0;
    while (from + n < s.len && isdigit((unsigned char)s.s[from + n]))
        n++;
    return n;
}

static bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }

// An integer, or a float when a point and digits or an exponent follow; after a point ("x.0.1")
// always integers.
static int lex_number(struct lexer *l)
{
    const struct span s = rest(l);
    const bool member = l->at > 0 && s.s[-1] == '.';
    const size_t whole = count_digits(s, 0);
    size_t n = whole;
    if (!member && n + 1 < s.len && s.s[n] == '.' && count_digits(s, n + 1) > 0)
        n += 1 + count_digits(s, n + 1);
    if (!member && n < s.len && (s.s[n] | 32) == 'e') {
        const size_t sign = n + 1 < s.len && (s.s[n + 1] == '-' || s.s[n + 1] == '+');
        const size_t digits = count_digits(s, n + 1 + sign);
        n += digits > 0 ? 1 + sign + digits : 0;
    }
    char *text = mem_strndup(s.s, n);
    long long integer = 0;
    double real = 0;
    const bool is_float = n > whole;
    bool good = n < s.len && is_name(s.s[n]) ? false : !(whole > 1 && s.s[0] == '0');
    good = good && (is_float ? str_to_double(text, &real)
                             : str_to_int(text, INT64_MIN, INT64_MAX, &integer));
    int rc = good ? 0 : refuse(l, "the number that begins with \"%.40s\" is not supported", text);
    free(text);
    if (rc)
        return rc;
    struct jinja_token *t =
        push(l, is_float ? JINJA_TOKEN_FLOAT : JINJA_TOKEN_INTEGER, (struct span){s.s, n});
    if (is_float)
        t->real = real;
    else
        t->integer = integer;
    advance(l, n);
    return 0;
}

// Brackets must match; depth counts the open ones.
static int lex_operator(struct lexer *l, char *open, int *depth)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", NULL};
    const char *const *o = operators;
    while (*o && !looking_at(l, *o))
        o++;
    if (!*o)
        return refuse(l, "the character \"%.*s\" has no meaning in a tag",
                      (int)text_offset(rest(l), 1), rest(l).s);
    const char c = **o;
    if (c == '(' || c == '[' || c == '{') {
        if (*depth == BRACKETS_MAX)
            return refuse(l, "more than %d brackets are open", BRACKETS_MAX);
        open[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if ((c == ')' || c == ']' || c == '}') && (*depth == 0 || open[--*depth] != c)) {
        return refuse(l, "a \"%c\" closes nothing", c);
    }
    push(l, JINJA_TOKEN_OPERATOR, (struct span){*o, strlen(*o)});
    advance(l, strlen(*o));
    return 0;
}

// Takes the end of a tag, if it is here.
static bool lex_end(struct lexer *l, bool print)
{
    const size_t begin = l->at;
    const int line = l->line;
    if (looking_at(l, print ? "-}}" : "-%}")) {
        advance_and_strip(l, 3);
    } else if (looking_at(l, print ? "}}" : "%}")) {
        advance(l, 2);
        if (!print)
            skip_newline(l);
    } else if (!print && looking_at(l, "+%}")) {
        advance(l, 3);
    }
    if (l->at == begin)
        return false;
    push(l, print ? JINJA_TOKEN_PRINT_END : JINJA_TOKEN_TAG_END, (struct span){0})->line = line;
    return true;
}

static int lex_inside(struct lexer *l, bool print)
{
    char open[BRACKETS_MAX];
    int depth = 0, rc = 0;
    const int line = l->line;
    while (rc == 0) {
        advance_and_strip(l, 0);
        if (depth == 0 && lex_end(l, print))
            return 0;
        const struct span s = rest(l);
        if (s.len == 0) {
            l->line = line;
            return refuse(l, "a tag has no end");
        }
        if (s.s[0] == '"' || s.s[0] == '\'') {
            rc = lex_string(l);
        } else if (isdigit((unsigned char)s.s[0])) {
            rc = lex_number(l);
        } else if (is_name(s.s[0])) {
            size_t n = 1;
            while (n < s.len && is_name(s.s[n]))
                n++;
            push(l, JINJA_TOKEN_NAME, (struct span){s.s, n});
            l->at += n;
        } else {
            rc = lex_operator(l, open, &depth);
        }
    }
    return rc;
}

// ---- the whole

static int lex_next(struct lexer *l)
{
    struct span text = rest(l);
    const size_t tag = next_tag(text);
    const char kind = tag < text.len ? text.s[tag + 1] : 0;
    const char sign = tag + 2 < text.len ? text.s[tag + 2] : 0;
    text.len = tag;
    if (kind && sign == '-')
        text = text_strip_right(text);
    else if (kind && kind != '{' && sign != '+')
        text = strip_indent(text, l->line_start);
    if (text.len > 0)
        push(l, JINJA_TOKEN_TEXT, text);
    advance(l, tag);
    if (!kind)
        return 0;
    int rc = 0;
    advance(l, sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') {
        rc = lex_comment(l);
    } else {
        push(l, kind == '{' ? JINJA_TOKEN_PRINT_BEGIN : JINJA_TOKEN_TAG_BEGIN, (struct span){0});
        rc = lex_inside(l, kind == '{');
    }
    l->line_start = l->at > 0 && l->source.s[l->at - 1] == '\n';
    return rc;
}

// Every end of a line becomes "\n", and the last one is dropped.
static struct span clean(struct arena *a, const char *source, size_t len)
{
    char *s = arena_strndup(a, len ? source : "", len);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const bool twice = source[i] == '\r' && i + 1 < len && source[i + 1] == '\n';
        i += twice;
        s[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    n -= n > 0 && s[n - 1] == '\n';
    s[n] = 0;
    return (struct span){s, n};
}

int jinja_lex(struct jinja_tokens *out, struct arena *a, const char *source, size_t len,
              const char *name)
{
    struct lexer l = {.arena = a, .name = name, .line = 1, .line_start = true};
    const size_t valid = utf8_valid_prefix(source, len);
    if (len > SOURCE_MAX)
        return refuse(&l, "a chat template of %zu bytes is over the limit of %zu", len, SOURCE_MAX);
    if (valid < len || (len > 0 && memchr(source, 0, len)))
        return refuse(&l, "the chat template is not text in UTF-8");
    l.source = clean(a, source, len);
    int rc = 0;
    while (l.at < l.source.len && rc == 0)
        rc = lex_next(&l);
    if (rc) {
        free(l.tokens.items);
        return rc;
    }
    push(&l, JINJA_TOKEN_END, (struct span){"", 0});
    *out = l.tokens;
    return 0;
}
