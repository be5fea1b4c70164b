// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"
#include "base/json_scan.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX ((int)(sizeof((struct json_writer *)0)->comma / sizeof(bool)))

// The comma before a key or an element, when it is not the first.
static void separate(struct json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth == 0)
        return;
    if (w->comma[w->depth - 1])
        strbuf_putc(w->out, ',');
    w->comma[w->depth - 1] = true;
}

static void begin(struct json_writer *w, char bracket)
{
    assert(w->depth < DEPTH_MAX);
    separate(w);
    strbuf_putc(w->out, bracket);
    w->comma[w->depth++] = false;
}

static void end(struct json_writer *w, char bracket)
{
    assert(w->depth > 0 && !w->after_key);
    w->depth--;
    strbuf_putc(w->out, bracket);
}

void json_begin_object(struct json_writer *w) { begin(w, '{'); }

void json_end_object(struct json_writer *w) { end(w, '}'); }

void json_begin_array(struct json_writer *w) { begin(w, '['); }

void json_end_array(struct json_writer *w) { end(w, ']'); }

static void put_escaped(struct strbuf *out, unsigned char c)
{
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt"; // a character, then its escape
    for (size_t i = 0; i < sizeof letters - 1; i += 2)
        if ((unsigned char)letters[i] == c) {
            strbuf_putc(out, '\\');
            strbuf_putc(out, letters[i + 1]);
            return;
        }
    strbuf_printf(out, "\\u%04x", c);
}

static bool is_plain(char c) { return (unsigned char)c >= 0x20 && c != '"' && c != '\\'; }

// Valid UTF-8 as it is, what must be escaped escaped. A NUL, which our reader refuses, becomes
// U+FFFD like bytes that are not text.
static void put_quoted(struct strbuf *out, const char *s, size_t len)
{
    strbuf_putc(out, '"');
    size_t valid = utf8_valid_prefix(s, len);
    for (size_t at = 0; at < len;) {
        size_t plain = at;
        while (plain < valid && is_plain(s[plain]))
            plain++;
        strbuf_append(out, s + at, plain - at);
        at = plain;
        if (at == len)
            break;
        if (at < valid && s[at]) {
            put_escaped(out, (unsigned char)s[at++]);
            continue;
        }
        strbuf_puts(out, "\xef\xbf\xbd");
        at++;
        if (at > valid)
            valid = at + utf8_valid_prefix(s + at, len - at);
    }
    strbuf_putc(out, '"');
}

void json_put_key(struct json_writer *w, const char *key)
{
    assert(w->depth > 0 && !w->after_key);
    separate(w);
    put_quoted(w->out, key, strlen(key));
    strbuf_putc(w->out, ':');
    w->after_key = true;
}

void json_put_text(struct json_writer *w, const char *s, size_t len)
{
    separate(w);
    put_quoted(w->out, s, len);
}

void json_put_string(struct json_writer *w, const char *s) { json_put_text(w, s, strlen(s)); }

void json_put_int(struct json_writer *w, int64_t v)
{
    separate(w);
    strbuf_printf(w->out, "%" PRId64, v);
}

// Every decimal of DBL_DIG digits survives a normal double, so a shorter one shows at that
// precision with its zeros dropped; subnormals have fewer digits to give. The same holds for float
// with FLT_DIG.
void json_put_double(struct json_writer *w, double v)
{
    separate(w);
    if (!isfinite(v)) {
        strbuf_puts(w->out, "null");
        return;
    }
    char text[32];
    int digits = fabs(v) < DBL_MIN ? 1 : DBL_DIG;
    do
        snprintf(text, sizeof text, "%.*g", digits, v);
    while (strtod(text, NULL) != v && digits++ < DBL_DECIMAL_DIG);
    strbuf_puts(w->out, text);
}

void json_put_float(struct json_writer *w, float v)
{
    separate(w);
    if (!isfinite(v)) {
        strbuf_puts(w->out, "null");
        return;
    }
    char text[32];
    int digits = fabsf(v) < FLT_MIN ? 1 : FLT_DIG;
    do
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
    while (strtof(text, NULL) != v && digits++ < FLT_DECIMAL_DIG);
    strbuf_puts(w->out, text);
}

void json_put_bool(struct json_writer *w, bool v)
{
    separate(w);
    strbuf_puts(w->out, v ? "true" : "false");
}

void json_put_null(struct json_writer *w)
{
    separate(w);
    strbuf_puts(w->out, "null");
}

static void put_container(struct json_writer *w, const struct json_doc *doc, const struct json *v)
{
    const bool object = json_type(v) == JSON_OBJECT;
    begin(w, object ? '{' : '[');
    for (const struct json *child = json_first(v); child; child = json_next(child)) {
        if (object)
            json_put_key(w, json_key(child));
        json_put_value(w, doc, child);
    }
    end(w, object ? '}' : ']');
}

void json_put_value(struct json_writer *w, const struct json_doc *doc, const struct json *v)
{
    size_t len;
    const char *number;
    switch (json_type(v)) {
    case JSON_NULL:
        json_put_null(w);
        break;
    case JSON_BOOL:
        json_put_bool(w, json_is_true(v));
        break;
    case JSON_NUMBER:
        number = json_number_text(doc, v, &len);
        separate(w);
        strbuf_append(w->out, number, len);
        break;
    case JSON_STRING:
        json_put_string(w, json_string(v));
        break;
    case JSON_ARRAY:
    case JSON_OBJECT:
        put_container(w, doc, v);
        break;
    }
}
