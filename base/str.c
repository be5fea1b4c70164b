// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *strbuf_reserve(struct strbuf *b, size_t len)
{
    if (len >= SIZE_MAX - b->len)
        die_out_of_memory(len);
    const size_t need = b->len + len + 1;
    if (need > b->cap) {
        const size_t doubled = b->cap > SIZE_MAX / 2 ? SIZE_MAX : 2 * b->cap;
        b->cap = need > doubled ? need : doubled;
        if (b->cap < 64)
            b->cap = 64;
        b->data = mem_realloc(b->data, b->cap);
    }
    b->data[b->len] = '\0';
    return b->data + b->len;
}

void strbuf_append(struct strbuf *b, const void *bytes, size_t len)
{
    char *end = strbuf_reserve(b, len);
    if (len)
        memcpy(end, bytes, len);
    end[len] = '\0';
    b->len += len;
}

void strbuf_puts(struct strbuf *b, const char *s) { strbuf_append(b, s, strlen(s)); }

void strbuf_putc(struct strbuf *b, char c) { strbuf_append(b, &c, 1); }

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (len > 0) {
        vsnprintf(strbuf_reserve(b, (size_t)len), (size_t)len + 1, fmt, again);
        b->len += (size_t)len;
    }
    va_end(again);
}

void strbuf_clear(struct strbuf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

void strbuf_free(struct strbuf *b)
{
    free(b->data);
    *b = (struct strbuf){0};
}

char *strbuf_take(struct strbuf *b)
{
    strbuf_reserve(b, 0);
    char *s = b->data;
    *b = (struct strbuf){0};
    return s;
}

// Bytes of the character whose first byte is c; 0 when no character starts so.
static size_t utf8_length(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c < 0xc2)
        return 0;
    if (c < 0xe0)
        return 2;
    if (c < 0xf0)
        return 3;
    return c < 0xf5 ? 4 : 0;
}

// Bytes of the valid character at s[0..len), 0 when there is none. The second byte's range excludes
// what is overlong, surrogates and code points past U+10FFFF (Unicode 15, table 3-7).
static size_t utf8_character(const unsigned char *s, size_t len)
{
    const size_t n = utf8_length(s[0]);
    if (n < 2 || n > len)
        return n == 1;
    const unsigned char lo = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned char hi = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

size_t utf8_valid_prefix(const char *s, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)s;
    size_t at = 0;
    while (at < len) {
        uint64_t eight;
        if (len - at >= sizeof eight) {
            memcpy(&eight, bytes + at, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                at += sizeof eight;
                continue;
            }
        }
        const size_t n = utf8_character(bytes + at, len - at);
        if (!n)
            break;
        at += n;
    }
    return at;
}

size_t utf8_complete_prefix(const char *s, size_t len)
{
    size_t tail = 0; // continuation bytes at the end
    while (tail < 3 && tail < len && ((unsigned char)s[len - 1 - tail] & 0xc0) == 0x80)
        tail++;
    if (tail == len)
        return len;
    const size_t lead = len - 1 - tail;
    return utf8_length((unsigned char)s[lead]) > tail + 1 ? lead : len;
}

// Characters that a terminal would obey rather than show: C0 and C1 controls, DEL, and the marks
// that reorder text.
static bool is_control(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0x200e || c == 0x200f || c == 0x061c;
}

static void put_escape(struct strbuf *b, uint32_t c)
{
    switch (c) {
    case '\n':
        strbuf_puts(b, "\\n");
        break;
    case '\r':
        strbuf_puts(b, "\\r");
        break;
    case '\t':
        strbuf_puts(b, "\\t");
        break;
    default:
        strbuf_printf(b, c < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)c);
    }
}

void strbuf_put_visible(struct strbuf *b, const char *s, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)s;
    for (size_t at = 0; at < len;) {
        const size_t n = utf8_character(bytes + at, len - at);
        if (n == 0) {
            strbuf_printf(b, "\\x%02x", (unsigned)bytes[at++]);
            continue;
        }
        uint32_t c = n == 1 ? bytes[at] : bytes[at] & (0xffu >> (n + 1));
        for (size_t i = 1; i < n; i++)
            c = c << 6 | (bytes[at + i] & 0x3fu);
        if (is_control(c))
            put_escape(b, c);
        else
            strbuf_append(b, s + at, n);
        at += n;
    }
}

// Levenshtein's distance, one row of the table at a time.
int str_distance(const char *a, const char *b)
{
    const size_t n = strlen(b);
    int *row = mem_array0(n + 1, sizeof *row);
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 1; j <= n; j++) {
            const int replace = diagonal + (a[i] != b[j - 1]);
            const int edit = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replace < edit ? replace : edit;
        }
    }
    const int distance = row[n];
    free(row);
    return distance;
}

static const char *skip_digits(const char *s)
{
    while (*s >= '0' && *s <= '9')
        s++;
    return s;
}

bool str_to_int(const char *s, long long lo, long long hi, long long *out)
{
    const char *digits = s + (*s == '-');
    const char *end = skip_digits(digits);
    if (end == digits || *end)
        return false;
    errno = 0;
    const long long v = strtoll(s, NULL, 10);
    if (errno || v < lo || v > hi)
        return false;
    *out = v;
    return true;
}

// -?(digits[.digits*] | .digits)([eE][+-]?digits)?
static bool is_decimal(const char *s)
{
    s += *s == '-';
    const char *whole = skip_digits(s);
    size_t digits = (size_t)(whole - s);
    s = whole;
    if (*s == '.') {
        const char *fraction = skip_digits(s + 1);
        digits += (size_t)(fraction - s - 1);
        s = fraction;
    }
    if (digits == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '+' || s[1] == '-');
        const char *exponent = skip_digits(s);
        if (exponent == s)
            return false;
        s = exponent;
    }
    return *s == '\0';
}

bool str_to_double(const char *s, double *out)
{
    if (!is_decimal(s))
        return false;
    const double v = strtod(s, NULL);
    if (!isfinite(v))
        return false;
    *out = v;
    return true;
}
