// SPDX-License-Identifier: Apache-2.0
#include "base/json_scan.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 64

static int scan_value(struct json_scan *s, int depth, int line);

static char peek(const struct json_scan *s)
{
    return s->text[s->at]; // '\0' at the end
}

static bool at_end(const struct json_scan *s) { return s->at >= s->len; }

static int fault(const struct json_scan *s, const char *what)
{
    return err_set(s->code, "%s:%d: %s", s->name, s->line, what);
}

// What is wrong when `expected` should be here: "expected ':' after a key, found 'x'".
static int fault_expected(const struct json_scan *s, const char *expected)
{
    if (at_end(s))
        return err_set(s->code, "%s:%d: the text ends where %s is expected", s->name, s->line,
                       expected);
    if (peek(s) == '/')
        return err_set(s->code, "%s:%d: expected %s, found a comment%s", s->name, s->line, expected,
                       s->flags & JSON_COMMENTS ? " of another kind than //" : "");
    struct strbuf found = {0};
    const size_t left = s->len - s->at;
    const size_t shown = utf8_complete_prefix(s->text + s->at, left < 12 ? left : 12);
    strbuf_put_visible(&found, s->text + s->at, shown);
    err_set(s->code, "%s:%d: expected %s, found `%s`", s->name, s->line, expected, found.data);
    strbuf_free(&found);
    return s->code;
}

static void skip_comment(struct json_scan *s)
{
    while (!at_end(s) && peek(s) != '\n')
        s->text[s->at++] = ' ';
}

static void skip_space(struct json_scan *s)
{
    for (;; s->at++) {
        while (s->flags & JSON_COMMENTS && peek(s) == '/' && s->text[s->at + 1] == '/')
            skip_comment(s);
        if (peek(s) == '\n')
            s->line++;
        else if (peek(s) != ' ' && peek(s) != '\t' && peek(s) != '\r')
            return;
    }
}

static size_t skip_digits(struct json_scan *s)
{
    const size_t begin = s->at;
    while (peek(s) >= '0' && peek(s) <= '9')
        s->at++;
    return s->at - begin;
}

// -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
static bool skip_number(struct json_scan *s)
{
    s->at += peek(s) == '-';
    const bool zero = peek(s) == '0';
    const size_t digits = skip_digits(s);
    if (digits == 0 || (zero && digits > 1))
        return false;
    if (peek(s) == '.') {
        s->at++;
        if (skip_digits(s) == 0)
            return false;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        s->at += peek(s) == '+' || peek(s) == '-';
        if (skip_digits(s) == 0)
            return false;
    }
    const char after = peek(s);
    return at_end(s) || after == ',' || after == ']' || after == '}' || after == ' ' ||
           after == '\t' || after == '\r' || after == '\n' || after == '/';
}

static int scan_number(struct json_scan *s, double *out)
{
    const size_t begin = s->at;
    if (!skip_number(s)) {
        s->at = begin;
        return fault_expected(s, "a number as JSON writes it");
    }
    const double v = strtod(s->text + begin, NULL);
    if (!isfinite(v))
        return fault(s, "a number is too large for a double");
    *out = v;
    return 0;
}

// The four hexadecimal digits of \uXXXX at `at`, or -1.
static int hex4(const struct json_scan *s, size_t at)
{
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        const char c = s->text[i]; // the terminator ends a text that is too short
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        v = 16 * v + digit;
    }
    return v;
}

// s->at is at the 'u' of an escape.
static int scan_unicode_escape(struct json_scan *s)
{
    const int c = hex4(s, s->at + 1);
    if (c < 0)
        return fault(s, "\\u is not followed by four hexadecimal digits");
    if (c == 0)
        return fault(s, "a string holds \\u0000, which is not supported");
    s->at += 5;
    if (c < 0xd800 || c > 0xdfff)
        return 0;
    int low = -1;
    if (c < 0xdc00 && peek(s) == '\\' && s->text[s->at + 1] == 'u')
        low = hex4(s, s->at + 2);
    if (low < 0xdc00 || low > 0xdfff)
        return err_set(s->code, "%s:%d: \\u%04x is half a surrogate pair", s->name, s->line, c);
    s->at += 6;
    return 0;
}

static int scan_escape(struct json_scan *s)
{
    s->at++;
    const char c = peek(s);
    if (c == 'u')
        return scan_unicode_escape(s);
    if (c == '\0' || !strchr("\"\\/bfnrt", c))
        return fault(s, "a string holds an escape that JSON does not have");
    s->at++;
    return 0;
}

static int scan_string(struct json_scan *s)
{
    s->at++;
    while (peek(s) != '"') {
        if (at_end(s))
            return fault(s, "the text ends inside a string");
        if ((unsigned char)peek(s) < 0x20)
            return fault(s, peek(s) == '\n'
                                ? "a line ends inside a string"
                                : "a string holds a control character that is not escaped");
        if (peek(s) != '\\') {
            s->at++;
            continue;
        }
        const int rc = scan_escape(s);
        if (rc)
            return rc;
    }
    s->at++;
    return 0;
}

static struct json *push(struct json_scan *s, enum json_type type, int line)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->values = mem_realloc(s->values, s->cap * sizeof *s->values);
    }
    struct json *v = &s->values[s->count++];
    *v = (struct json){.at = (uint32_t)s->at, .line = line, .type = type};
    return v;
}

static int scan_key(struct json_scan *s)
{
    if (peek(s) != '"')
        return fault_expected(s, "a key in double quotes");
    const int rc = scan_string(s);
    if (rc)
        return rc;
    skip_space(s);
    if (peek(s) != ':')
        return fault_expected(s, "':' after a key");
    s->at++;
    skip_space(s);
    return 0;
}

// An array or an object, from its bracket on.
static int scan_container(struct json_scan *s, enum json_type type, int depth, int line)
{
    const char end = type == JSON_OBJECT ? '}' : ']';
    const size_t self = s->count;
    size_t last = self; // the latest child
    if (depth == DEPTH_MAX)
        return fault(s, "values are nested more than 64 deep");
    push(s, type, line);
    s->at++;
    skip_space(s);
    while (peek(s) != end) {
        if (last != self) {
            if (peek(s) != ',')
                return fault_expected(s, type == JSON_OBJECT ? "',' or '}'" : "',' or ']'");
            s->at++;
            skip_space(s);
            if (peek(s) == end)
                return fault(s, "a comma with nothing after it");
        }
        const int child_line = s->line;
        const size_t child = s->count;
        int rc = type == JSON_OBJECT ? scan_key(s) : 0;
        if (!rc)
            rc = scan_value(s, depth + 1, child_line);
        if (rc)
            return rc;
        if (last != self)
            s->values[last].next = (uint32_t)(child - last);
        last = child;
        s->values[self].count++;
        skip_space(s);
    }
    s->at++;
    return 0;
}

static int scan_word(struct json_scan *s, int line)
{
    static const struct {
        const char *word;
        enum json_type type;
    } words[] = {{"true", JSON_BOOL}, {"false", JSON_BOOL}, {"null", JSON_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t len = strlen(words[i].word);
        if (strncmp(s->text + s->at, words[i].word, len) == 0) {
            push(s, words[i].type, line);
            s->at += len;
            return 0;
        }
    }
    return fault_expected(s, "a value");
}

static int scan_value(struct json_scan *s, int depth, int line)
{
    const size_t begin = s->at, self = s->count;
    const char c = peek(s);
    int rc = 0;
    if (c == '{') {
        rc = scan_container(s, JSON_OBJECT, depth, line);
    } else if (c == '[') {
        rc = scan_container(s, JSON_ARRAY, depth, line);
    } else if (c == '"') {
        push(s, JSON_STRING, line);
        rc = scan_string(s);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        push(s, JSON_NUMBER, line);
        rc = scan_number(s, &s->values[self].number);
    } else {
        rc = scan_word(s, line);
    }
    if (!rc)
        s->values[self].len = (uint32_t)(s->at - begin);
    return rc;
}

static int check_utf8(struct json_scan *s)
{
    const size_t valid = utf8_valid_prefix(s->text, s->len);
    if (valid == s->len)
        return 0;
    for (const char *p = s->text; (p = memchr(p, '\n', (size_t)(s->text + valid - p))); p++)
        s->line++;
    return fault(s, "the text is not valid UTF-8");
}

int json_scan(struct json_scan *s)
{
    int rc = check_utf8(s);
    if (rc)
        return rc;
    if (s->len >= 3 && memcmp(s->text, "\xef\xbb\xbf", 3) == 0) // a byte order mark says nothing
        memset(s->text, ' ', 3);
    skip_space(s);
    rc = scan_value(s, 0, s->line);
    if (rc)
        return rc;
    skip_space(s);
    return at_end(s) ? 0 : fault_expected(s, "the end of the text");
}
