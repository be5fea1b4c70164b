// SPDX-License-Identifier: Apache-2.0
#include "sandbox/value.h"

#include "base/mem.h"
#include "sandbox/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_u32(struct strbuf *b, uint32_t v) { strbuf_append(b, &v, sizeof v); }

static void put_text(struct strbuf *b, char tag, const char *s, size_t len)
{
    strbuf_putc(b, tag);
    put_u32(b, (uint32_t)len);
    strbuf_append(b, s, len);
}

void value_put_none(struct strbuf *b) { strbuf_putc(b, WIRE_NONE); }

void value_put_bool(struct strbuf *b, bool v) { strbuf_putc(b, v ? WIRE_TRUE : WIRE_FALSE); }

void value_put_int(struct strbuf *b, int64_t v)
{
    char text[24];
    const uint64_t magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    const int n = snprintf(text, sizeof text, "%s%lx", v < 0 ? "-" : "", (unsigned long)magnitude);
    put_text(b, WIRE_INT, text, (size_t)n);
}

void value_put_float(struct strbuf *b, double v)
{
    strbuf_putc(b, WIRE_FLOAT);
    strbuf_append(b, &v, sizeof v);
}

void value_put_str(struct strbuf *b, const char *s, size_t len) { put_text(b, WIRE_STR, s, len); }

void value_put_container(struct strbuf *b, char tag, uint32_t n)
{
    strbuf_putc(b, tag);
    put_u32(b, n);
}

bool value_put_decimal(struct strbuf *b, const char *text)
{
    enum {
        DIGITS_MAX = 4300,
        NIBBLES = 3600
    }; // 4300 log2(10) / 4 = 3572 hexadecimal digits at most
    const bool negative = *text == '-';
    const char *digits = text + (negative ? 1 : 0);
    const size_t n = strlen(digits);
    if (n == 0 || n > DIGITS_MAX || strspn(digits, "0123456789") != n)
        return false;
    uint8_t nibble[NIBBLES] = {0}; // least significant first
    size_t used = 1;
    for (size_t i = 0; i < n; i++) {
        unsigned carry = (unsigned)(digits[i] - '0');
        for (size_t j = 0; j < used; j++) {
            carry += nibble[j] * 10u;
            nibble[j] = carry & 15;
            carry >>= 4;
        }
        if (carry != 0)
            nibble[used++] = (uint8_t)carry;
    }
    char hex[NIBBLES + 1];
    size_t len = 0;
    if (negative && (used > 1 || nibble[0] != 0))
        hex[len++] = '-';
    while (used > 0)
        hex[len++] = "0123456789abcdef"[nibble[--used]];
    put_text(b, WIRE_INT, hex, len);
    return true;
}

// Reading. Theory of operation: canon() reads one value and appends its canonical form, which is
// the encoding itself with
//  - every number that is equal to an integer written as that integer (True, 1.0 and 1+0j as 1), a
//  complex without imaginary part
//    as its real part; other floats as their bits, -0.0 being the integer 0;
//  - the members of sets and the pairs of dicts sorted by the bytes of their canonical forms.
// Containers announce their counts, so equal bytes mean equal values and the other way round.
// Counts are not trusted: every member takes at least a byte of the input, which is bounded.
struct reader {
    const uint8_t *at, *end;
    int depth;
    bool has_nan;
};

static bool canon(struct reader *r, struct strbuf *out, bool hashable);

static bool read_bytes(struct reader *r, void *out, size_t n)
{
    if ((size_t)(r->end - r->at) < n)
        return false;
    memcpy(out, r->at, n);
    r->at += n;
    return true;
}

// The double as an integer in hexadecimal: it must be finite and integral. At most 257 characters.
static void canon_integral(struct strbuf *out, double v)
{
    char hex[272];
    size_t len = 0;
    if (v < 0)
        hex[len++] = '-';
    int exponent;
    const double fraction =
        frexp(fabs(v), &exponent); // |v| = fraction 2^exponent, fraction in [0.5, 1) or 0
    uint64_t mantissa = (uint64_t)ldexp(fraction, 53);
    exponent -= 53;
    if (exponent < 0) { // integral, so the bits shifted out are zero
        mantissa = exponent <= -64 ? 0 : mantissa >> -exponent;
        exponent = 0;
    }
    mantissa <<= exponent % 4; // 53 bits and 3 more
    len += (size_t)snprintf(hex + len, sizeof hex - len, "%lx", (unsigned long)mantissa);
    memset(hex + len, '0', (size_t)(exponent / 4));
    len += (size_t)(exponent / 4);
    put_text(out, WIRE_INT, hex, len);
}

static void canon_float(struct reader *r, struct strbuf *out, double v)
{
    if (isnan(v))
        r->has_nan = true;
    if (isfinite(v) && v == trunc(v))
        canon_integral(out, v);
    else
        value_put_float(out, v);
}

static bool canon_complex(struct reader *r, struct strbuf *out)
{
    double part[2];
    if (!read_bytes(r, part, sizeof part))
        return false;
    if (part[1] == 0) {
        canon_float(r, out, part[0]);
        return true;
    }
    if (isnan(part[0]) || isnan(part[1]))
        r->has_nan = true;
    for (int i = 0; i < 2; i++)
        part[i] = part[i] == 0 ? 0 : part[i]; // -0.0 is 0.0
    strbuf_putc(out, WIRE_COMPLEX);
    strbuf_append(out, part, sizeof part);
    return true;
}

static bool is_hex_integer(const char *s, size_t len)
{
    const bool negative = len > 0 && s[0] == '-';
    const char *digits = s + (negative ? 1 : 0);
    const size_t n = len - (negative ? 1 : 0);
    if (n == 0 || (digits[0] == '0' && (n > 1 || negative)))
        return false;
    for (size_t i = 0; i < n; i++) {
        const char c = digits[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
    }
    return true;
}

static bool canon_text(struct reader *r, struct strbuf *out, char tag)
{
    uint32_t len;
    if (!read_bytes(r, &len, sizeof len) || (size_t)(r->end - r->at) < len)
        return false;
    const char *s = (const char *)r->at;
    if (tag == WIRE_INT && !is_hex_integer(s, len))
        return false;
    r->at += len;
    put_text(out, tag, s, len);
    return true;
}

struct member {
    size_t at, key_end, end; // in the buffer of all members
};

static const char *sort_base(const struct strbuf *members)
{
    return members->len > 0 ? members->data : "";
}

static int member_compare(const void *a, const void *b, void *base)
{
    const struct member *x = a, *y = b;
    const char *bytes = base;
    const size_t nx = x->key_end - x->at, ny = y->key_end - y->at;
    const int c = memcmp(bytes + x->at, bytes + y->at, nx < ny ? nx : ny);
    return c != 0 ? c : (nx > ny) - (nx < ny);
}

// Sets and dicts: members gathered aside, sorted by key, then written.
static bool canon_unordered(struct reader *r, struct strbuf *out, char tag, uint32_t n)
{
    if (n > (size_t)(r->end - r->at))
        return false;
    struct strbuf members = {0};
    struct member *list = NULL;
    size_t cap = 0; // grows with what is there, not with what is announced
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) {
        if (i == cap) {
            cap = cap > 0 ? 2 * cap : 16;
            list = mem_realloc(list, cap * sizeof *list);
        }
        list[i].at = members.len;
        ok = canon(r, &members, true);
        list[i].key_end = members.len;
        ok = ok && (tag == WIRE_SET || canon(r, &members, false));
        list[i].end = members.len;
    }
    if (ok && n > 0) {
        char *base = (char *)(uintptr_t)sort_base(&members);
        qsort_r(list, n, sizeof *list, member_compare, base);
        for (uint32_t i = 1; i < n && ok && !r->has_nan; i++)
            ok = member_compare(&list[i - 1], &list[i], base) != 0;
    }
    if (ok) {
        value_put_container(out, tag, n);
        for (uint32_t i = 0; i < n; i++)
            strbuf_append(out, members.data + list[i].at, list[i].end - list[i].at);
    }
    free(list);
    strbuf_free(&members);
    return ok;
}

static bool canon_container(struct reader *r, struct strbuf *out, char tag, bool hashable)
{
    uint32_t n;
    if (r->depth >= WIRE_DEPTH_MAX || !read_bytes(r, &n, sizeof n))
        return false;
    r->depth++;
    bool ok = true;
    if (tag == WIRE_SET || tag == WIRE_DICT) {
        ok = canon_unordered(r, out, tag, n);
    } else {
        value_put_container(out, tag, n);
        for (uint32_t i = 0; i < n && ok; i++)
            ok = canon(r, out, hashable);
    }
    r->depth--;
    return ok;
}

// hashable: the value is a key, or inside a tuple that is one. (A frozenset is; a set is written
// the same, so it is let through.)
static bool canon(struct reader *r, struct strbuf *out, bool hashable)
{
    uint8_t tag;
    if (!read_bytes(r, &tag, 1))
        return false;
    double v;
    switch (tag) {
    case WIRE_NONE:
        value_put_none(out);
        return true;
    case WIRE_TRUE:
    case WIRE_FALSE:
        value_put_int(out, tag == WIRE_TRUE);
        return true;
    case WIRE_FLOAT:
        if (!read_bytes(r, &v, sizeof v))
            return false;
        canon_float(r, out, v);
        return true;
    case WIRE_COMPLEX:
        return canon_complex(r, out);
    case WIRE_INT:
    case WIRE_STR:
    case WIRE_BYTES:
        return canon_text(r, out, (char)tag);
    case WIRE_LIST:
    case WIRE_DICT:
        return !hashable && canon_container(r, out, (char)tag, false);
    case WIRE_TUPLE:
    case WIRE_SET:
        return canon_container(r, out, (char)tag, hashable);
    default:
        return false;
    }
}

bool value_canonical(struct strbuf *out, bool *has_nan, size_t *used, const uint8_t *in, size_t len)
{
    struct reader r = {.at = in, .end = in + (len < WIRE_VALUE_MAX ? len : WIRE_VALUE_MAX)};
    const size_t before = out->len;
    if (!canon(&r, out, false)) {
        out->len = before;
        return false;
    }
    *used = (size_t)(r.at - in);
    *has_nan = *has_nan || r.has_nan;
    return true;
}

// Messages.
static void show(struct reader *r, struct strbuf *out, size_t max);

static void show_text(struct reader *r, struct strbuf *out, char tag, size_t max)
{
    uint32_t len = 0;
    (void)read_bytes(r, &len, sizeof len);
    const char *s = (const char *)r->at;
    r->at += len;
    if (tag == WIRE_INT) {
        const int negative = s[0] == '-';
        char digits[17] = {0};
        if (len - (unsigned)negative < sizeof digits) { // below 2^64: in decimal
            memcpy(digits, s + negative, len - (unsigned)negative);
            strbuf_printf(out, "%s%llu", negative ? "-" : "", strtoull(digits, NULL, 16));
        } else {
            strbuf_printf(out, "%s0x%.16s...", negative ? "-" : "", s + negative);
        }
        return;
    }
    const size_t room = out->len < max ? max - out->len : 0;
    strbuf_puts(out, tag == WIRE_BYTES ? "b'" : "'");
    strbuf_put_visible(out, s, len < room ? len : utf8_complete_prefix(s, room));
    strbuf_puts(out, len < room ? "'" : "...");
}

static void show_container(struct reader *r, struct strbuf *out, char tag, size_t max)
{
    uint32_t n = 0;
    (void)read_bytes(r, &n, sizeof n);
    if (n == 0 && tag == WIRE_SET) {
        strbuf_puts(out, "set()");
        return;
    }
    strbuf_putc(out, tag == WIRE_LIST ? '[' : tag == WIRE_TUPLE ? '(' : '{');
    for (uint32_t i = 0; i < n; i++) {
        if (out->len >= max) {
            strbuf_puts(out, "...");
            return;
        }
        strbuf_puts(out, i > 0 ? ", " : "");
        show(r, out, max);
        if (tag == WIRE_DICT) {
            strbuf_puts(out, ": ");
            show(r, out, max);
        }
    }
    strbuf_puts(out, tag == WIRE_LIST ? "]" : tag != WIRE_TUPLE ? "}" : n == 1 ? ",)" : ")");
}

static void show_float(struct strbuf *out, double v)
{
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    strbuf_puts(out, text);
    if (isfinite(v) && strpbrk(text, ".e") == NULL)
        strbuf_puts(out, ".0");
}

static void show(struct reader *r, struct strbuf *out, size_t max)
{
    uint8_t tag;
    double v[2];
    if (out->len >= max || !read_bytes(r, &tag, 1))
        return;
    switch (tag) {
    case WIRE_NONE:
        strbuf_puts(out, "None");
        return;
    case WIRE_TRUE:
    case WIRE_FALSE:
        strbuf_puts(out, tag == WIRE_TRUE ? "True" : "False");
        return;
    case WIRE_FLOAT:
        (void)read_bytes(r, v, sizeof v[0]);
        show_float(out, v[0]);
        return;
    case WIRE_COMPLEX:
        (void)read_bytes(r, v, sizeof v);
        strbuf_printf(out, "(%g%+gj)", v[0], v[1]);
        return;
    case WIRE_INT:
    case WIRE_STR:
    case WIRE_BYTES:
        show_text(r, out, (char)tag, max);
        return;
    default:
        show_container(r, out, (char)tag, max);
    }
}

void value_show(struct strbuf *out, const uint8_t *in, size_t len, size_t max)
{
    struct reader r = {.at = in, .end = in + len};
    show(&r, out, out->len + max);
}
