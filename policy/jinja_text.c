// SPDX-License-Identifier: Apache-2.0
#include "policy/jinja_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

// Bytes of the character that begins with this byte.
static size_t char_size(char first)
{
    const unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static uint32_t decode_char(const char *s, size_t size)
{
    static const unsigned char mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = (unsigned char)s[0] & mask[size];
    for (size_t i = 1; i < size; i++)
        c = c << 6 | ((unsigned char)s[i] & 0x3F);
    return c;
}

// Bytes of the last character of a text that is not empty.
static size_t last_size(struct span t)
{
    size_t size = 1;
    while (((unsigned char)t.s[t.len - size] & 0xC0) == 0x80)
        size++;
    return size;
}

struct span text_strip_left(struct span t)
{
    for (size_t size; t.len > 0; t.s += size, t.len -= size) {
        size = char_size(t.s[0]);
        if (!text_is_space(decode_char(t.s, size)))
            break;
    }
    return t;
}

struct span text_strip_right(struct span t)
{
    for (size_t size; t.len > 0; t.len -= size) {
        size = last_size(t);
        if (!text_is_space(decode_char(t.s + t.len - size, size)))
            break;
    }
    return t;
}

// UTF-8 is self-synchronising: a character is found by its bytes.
static bool holds_char(struct span chars, const char *s, size_t size)
{
    return text_find(chars, 0, (struct span){s, size}) != SIZE_MAX;
}

struct span text_strip_left_of(struct span t, struct span chars)
{
    for (size_t size; t.len > 0; t.s += size, t.len -= size) {
        size = char_size(t.s[0]);
        if (!holds_char(chars, t.s, size))
            break;
    }
    return t;
}

struct span text_strip_right_of(struct span t, struct span chars)
{
    for (size_t size; t.len > 0; t.len -= size) {
        size = last_size(t);
        if (!holds_char(chars, t.s + t.len - size, size))
            break;
    }
    return t;
}

size_t text_length(struct span t)
{
    size_t n = 0;
    for (size_t i = 0; i < t.len; i++)
        n += ((unsigned char)t.s[i] & 0xC0) != 0x80;
    return n;
}

size_t text_offset(struct span t, size_t at)
{
    size_t offset = 0;
    while (offset < t.len && at-- > 0)
        offset += char_size(t.s[offset]);
    return offset;
}

size_t text_find(struct span t, size_t from, struct span what)
{
    if (from > t.len || what.len > t.len - from)
        return SIZE_MAX;
    const char *at = memmem(t.s + from, t.len - from, what.s, what.len);
    return at ? (size_t)(at - t.s) : SIZE_MAX;
}

bool text_equal(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.s, b.s, a.len) == 0);
}

int text_shown(struct span t)
{
    size_t len = 0;
    while (len < t.len && len + char_size(t.s[len]) <= 60)
        len += char_size(t.s[len]);
    return (int)len;
}

void text_put_char(struct strbuf *out, uint32_t c)
{
    if (c < 0x80) {
        strbuf_putc(out, (char)c);
        return;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    strbuf_putc(out, (char)((more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0) | c >> (6 * more)));
    for (int i = more - 1; i >= 0; i--)
        strbuf_putc(out, (char)(0x80 | (c >> (6 * i) & 0x3F)));
}

// The fewest digits that read back the same; an exponent below -4 or from 16 on is written out.
void text_put_float(struct strbuf *out, double x)
{
    char digits[40];
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && ++precision < 17);
    const int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        // C writes the same: at least two digits of exponent.
        strbuf_puts(out, digits);
        return;
    }
    const int decimals = precision > exponent ? precision - exponent : 1;
    strbuf_printf(out, "%.*f", decimals, x);
}
