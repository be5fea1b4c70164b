// SPDX-License-Identifier: Apache-2.0
#include "policy/tokenizer_regex.h"

#include "base/error.h"
#include "base/mem.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The code points with the property White_Space (Unicode PropList), which is what \s means to
// Oniguruma, and all others. PCRE2's own \s has U+180E as well.
#define WHITE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"             \
    "\\x{202f}\\x{205f}\\x{3000}"
#define NOT_WHITE                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{"     \
    "1fff}"                                                                                        \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"
// \w of Oniguruma; PCRE2's has no marks and only one of the connectors.
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

struct token_regex {
    pcre2_code *code;
};

struct token_matcher {
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

struct translation {
    struct strbuf *out;
    const char *p;     // what is still to be read
    const char *whole; // the expression, for errors
    const char *where;
    bool in_class;
};

static int refuse(const struct translation *tr, const char *what)
{
    return err_set(ERR_MODEL, "%s: %s at byte %zu of the regex is not supported: \"%s\"", tr->where,
                   what, (size_t)(tr->p - tr->whole), tr->whole);
}

// \p{..} and \P{..}. A name longer than a general category is a script to Oniguruma; PCRE2 would
// take script extensions.
static int translate_property(struct translation *tr)
{
    const char *name = tr->p + 3;
    if (tr->p[2] != '{')
        return refuse(tr, "a property without braces");
    bool negated = *name == '^';
    name += negated;
    size_t len = strcspn(name, "}");
    if (name[len] != '}' || len == 0 || len > 32 || strspn(name, "&_") > 0 ||
        strcspn(name, ":=^ \\") < len)
        return refuse(tr, "this property");
    strbuf_printf(tr->out, "\\%c{%s%s%.*s}", tr->p[1], negated ? "^" : "", len > 2 ? "sc:" : "",
                  (int)len, name);
    tr->p = name + len + 1;
    return 0;
}

// \xHH and \x{H..}, \uHHHH.
static int translate_code(struct translation *tr)
{
    const char *digits = tr->p + 2;
    bool braces = tr->p[1] == 'x' && *digits == '{';
    digits += braces;
    size_t want = tr->p[1] == 'u' ? 4 : 2, len = 0;
    while (isxdigit((unsigned char)digits[len]) && len < (braces ? 6 : want))
        len++;
    bool whole = braces ? len > 0 && digits[len] == '}' : len == want;
    // Two digits name a byte, not a character, beyond ASCII.
    if (!whole || (!braces && want == 2 && digits[0] > '7'))
        return refuse(tr, "this character code");
    strbuf_printf(tr->out, "\\x{%.*s}", (int)len, digits);
    tr->p = digits + len + braces;
    return 0;
}

static int translate_escape(struct translation *tr)
{
    char c = tr->p[1];
    const char *set = NULL;
    switch (c) {
    case 'p':
    case 'P':
        return translate_property(tr);
    case 'x':
    case 'u':
        return translate_code(tr);
    case 's':
        set = tr->in_class ? WHITE : "[" WHITE "]";
        break;
    case 'S':
        set = tr->in_class ? NOT_WHITE : "[^" WHITE "]";
        break;
    case 'w':
        set = tr->in_class ? WORD : "[" WORD "]";
        break;
    case 'd':
        set = "\\p{Nd}";
        break;
    case 'D':
        set = "\\P{Nd}";
        break;
    case 'v':
        set = "\\x{b}";
        break;
    case 'W':
        if (tr->in_class)
            return refuse(tr, "\\W in a class");
        set = "[^" WORD "]";
        break;
    default:
        if ((c != 0 && strchr("rntfae", c)) || (!tr->in_class && (c == 'A' || c == 'z')) ||
            ispunct((unsigned char)c)) {
            strbuf_append(tr->out, tr->p, 2);
            tr->p += 2;
            return 0;
        }
        return refuse(tr, "this escape");
    }
    strbuf_puts(tr->out, set);
    tr->p += 2;
    return 0;
}

// What follows "(": groups that mean the same to both.
static int translate_group(struct translation *tr)
{
    static const char *const same[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    size_t len = tr->p[1] == '?' || tr->p[1] == '*' ? 0 : 1;
    for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++)
        if (strncmp(tr->p, same[i], strlen(same[i])) == 0)
            len = strlen(same[i]);
    if (tr->p == tr->whole && strncmp(tr->p, "(?i)", 4) == 0)
        len = 4;
    if (len == 0)
        return refuse(tr, "this kind of group");
    strbuf_append(tr->out, tr->p, len);
    tr->p += len;
    return 0;
}

// {n}, {n,} and {n,m}; in Ruby's syntax a + or ? behind it has another meaning than in Perl's.
static int translate_interval(struct translation *tr)
{
    size_t len = 1, digits = strspn(tr->p + 1, "0123456789");
    len += digits;
    if (tr->p[len] == ',')
        len += 1 + strspn(tr->p + len + 1, "0123456789");
    if (digits == 0 || tr->p[len] != '}' || tr->p[len + 1] == '+' || tr->p[len + 1] == '?')
        return refuse(tr, "this brace");
    strbuf_append(tr->out, tr->p, len + 1);
    tr->p += len + 1;
    return 0;
}

int token_regex_translate(struct strbuf *out, const char *pattern, const char *where)
{
    struct translation tr = {.out = out, .p = pattern, .whole = pattern, .where = where};
    int err = 0;
    while (*tr.p && !err) {
        char c = *tr.p;
        if (c == '\\') {
            err = translate_escape(&tr);
        } else if (c == '(' && !tr.in_class) {
            err = translate_group(&tr);
        } else if (c == '{' && !tr.in_class) {
            err = translate_interval(&tr);
        } else if (tr.in_class && (c == '[' || (c == '&' && tr.p[1] == '&'))) {
            err = refuse(&tr, "a class within a class");
        } else {
            if (c == '[')
                tr.in_class = true;
            else if (c == ']')
                tr.in_class = false;
            strbuf_putc(out, c);
            tr.p++;
            if (c == '[' && *tr.p == '^')
                strbuf_putc(out, *tr.p++);
            if (c == '[' && *tr.p == ']')
                err = refuse(&tr, "a class that starts with ]");
        }
    }
    return err;
}

int token_regex_open(struct token_regex **out, const char *pattern, const char *where)
{
    struct strbuf perl = {0};
    int err = token_regex_translate(&perl, pattern, where);
    if (err)
        goto out;
    // Ruby's ^ and $ match at every line.
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_MULTILINE;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        die_out_of_memory(0);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    size_t offset = 0;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)(perl.data ? perl.data : ""), perl.len,
                                         options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!compiled) {
        char message[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof(message));
        err = err_set(ERR_MODEL, "%s: %s in the regex \"%s\"", where, message, pattern);
        goto out;
    }
    // Where there is no JIT for this machine, the interpreter gives the same matches.
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    *out = mem_alloc0(sizeof(**out));
    (*out)->code = compiled;
out:
    strbuf_free(&perl);
    return err;
}

void token_regex_free(struct token_regex **r)
{
    if (!r || !*r)
        return;
    pcre2_code_free((*r)->code);
    free(*r);
    *r = NULL;
}

// A run of n blanks costs an expression like \s*[\r\n]+ about n steps, so the limit is a multiple
// of the text; it is there for expressions whose cost explodes.
struct token_matcher *token_matcher_new(size_t len)
{
    struct token_matcher *m = mem_alloc0(sizeof(*m));
    m->data = pcre2_match_data_create(1, NULL);
    m->limits = pcre2_match_context_create(NULL);
    if (!m->data || !m->limits)
        die_out_of_memory(0);
    size_t steps = 10000000 + 8 * len;
    pcre2_set_match_limit(m->limits, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    pcre2_set_depth_limit(m->limits, UINT32_MAX);
    return m;
}

void token_matcher_free(struct token_matcher **m)
{
    if (!m || !*m)
        return;
    pcre2_match_data_free((*m)->data);
    pcre2_match_context_free((*m)->limits);
    free(*m);
    *m = NULL;
}

static int search(const struct token_scan *scan, const struct token_regex *r,
                  struct token_matcher *m)
{
    PCRE2_SPTR text = (PCRE2_SPTR)scan->text;
    int rc =
        pcre2_match(r->code, text, scan->len, scan->at, PCRE2_NO_UTF_CHECK, m->data, m->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(r->code, text, scan->len, scan->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         m->data, m->limits);
    if (rc >= 0)
        return 1;
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    char message[128];
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof(message));
    return err_set(ERR_DATA, "splitting a text of %zu bytes: %s at byte %zu", scan->len, message,
                   scan->at);
}

int token_regex_next(size_t *start, size_t *end, struct token_scan *scan,
                     const struct token_regex *r, struct token_matcher *m)
{
    while (scan->at <= scan->len) {
        int rc = search(scan, r, m);
        if (rc <= 0)
            return rc;
        const size_t *range = pcre2_get_ovector_pointer(m->data);
        if (range[0] == range[1] && scan->after && scan->last == range[1]) {
            scan->at++;
            while (scan->at < scan->len && ((unsigned char)scan->text[scan->at] & 0xC0) == 0x80)
                scan->at++;
            continue;
        }
        *start = range[0];
        *end = scan->at = scan->last = range[1];
        scan->after = true;
        return 1;
    }
    return 0;
}
