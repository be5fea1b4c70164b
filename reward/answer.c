// SPDX-License-Identifier: Apache-2.0
#include "reward/answer.h"

#include <ctype.h>
#include <gmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { DIGITS_MAX = 256 }; // characters of a number; a longer one is compared as text

static bool span_starts(struct answer_span s, const char *word)
{
    const size_t len = strlen(word);
    return s.len >= len && strncasecmp(s.text, word, len) == 0;
}

static bool span_ends(struct answer_span s, const char *word)
{
    const size_t len = strlen(word);
    return s.len >= len && memcmp(s.text + s.len - len, word, len) == 0;
}

static struct answer_span span_skip(struct answer_span s, size_t n)
{
    return (struct answer_span){s.text + n, s.len - n};
}

static struct answer_span span_trim(struct answer_span s)
{
    while (s.len > 0 && isspace((unsigned char)s.text[0]))
        s = span_skip(s, 1);
    while (s.len > 0 && isspace((unsigned char)s.text[s.len - 1]))
        s.len--;
    return s;
}

// ---- finding

// What follows the last occurrence of a mark, case aside; false when there is none.
static bool after_last(struct answer_span *out, struct answer_span s, const char *mark)
{
    const size_t len = strlen(mark);
    for (size_t at = s.len; at-- > 0;) {
        const struct answer_span rest = span_skip(s, at);
        if (span_starts(rest, mark)) {
            *out = span_skip(rest, len);
            return true;
        }
    }
    return false;
}

// The content of a brace group that s begins with; false when it does not close.
static bool brace_group(struct answer_span *out, struct answer_span s)
{
    int depth = 0;
    for (size_t i = 0; i < s.len; i++) {
        depth += (s.text[i] == '{') - (s.text[i] == '}');
        if (depth <= 0) {
            *out = (struct answer_span){s.text + 1, i > 0 ? i - 1 : 0};
            return i > 0;
        }
    }
    return false;
}

static struct answer_span first_line(struct answer_span s)
{
    s = span_trim(s);
    const char *end = memchr(s.text, '\n', s.len);
    if (end != NULL)
        s.len = (size_t)(end - s.text);
    return span_trim(s);
}

// The last number in plain digits, with its sign, commas and decimals, or "a/b".
static bool last_number(struct answer_span *out, struct answer_span s)
{
    size_t end = s.len;
    while (end > 0 && !isdigit((unsigned char)s.text[end - 1]))
        end--;
    size_t begin = end;
    while (begin > 0 && (isdigit((unsigned char)s.text[begin - 1]) ||
                         (strchr(",./", s.text[begin - 1]) != NULL && s.text[begin - 1] != '\0' &&
                          begin > 1 && isdigit((unsigned char)s.text[begin - 2]))))
        begin--;
    if (begin > 0 && s.text[begin - 1] == '-' &&
        (begin == 1 || !isalnum((unsigned char)s.text[begin - 2])))
        begin--;
    *out = (struct answer_span){s.text + begin, end - begin};
    return end > begin;
}

static bool marked_answer(struct answer_span *out, struct answer_span s)
{
    struct answer_span rest;
    if (after_last(&rest, s, "\\boxed{") &&
        brace_group(out, (struct answer_span){rest.text - 1, rest.len + 1})) {
        *out = span_trim(*out);
        return true;
    }
    if (!after_last(&rest, s, "####") && !after_last(&rest, s, "answer is") &&
        !after_last(&rest, s, "answer:"))
        return false;
    if (span_starts(rest, ":"))
        rest = span_skip(rest, 1);
    *out = first_line(rest);
    return out->len > 0;
}

bool answer_find(struct answer_span *out, const char *text, size_t len)
{
    const struct answer_span s = {text, len};
    return marked_answer(out, s) || last_number(out, s);
}

struct answer_span answer_of_reference(const char *text)
{
    struct answer_span out, s = {text, strlen(text)};
    return marked_answer(&out, s) ? out : span_trim(s);
}

// ---- comparing

// Takes off what may stand around an answer without being part of it.
static struct answer_span unwrap(struct answer_span s)
{
    static const struct {
        const char *open, *close;
    } wraps[] = {{"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"}, {"\\text{", "}"}, {"**", "**"}};
    for (bool again = true; again;) {
        again = false;
        s = span_trim(s);
        if (s.len > 1 && span_ends(s, ".")) {
            s.len--;
            again = true;
        }
        for (size_t i = 0; i < sizeof(wraps) / sizeof(wraps[0]); i++) {
            const size_t open = strlen(wraps[i].open), close = strlen(wraps[i].close);
            if (s.len > open + close && span_starts(s, wraps[i].open) &&
                span_ends(s, wraps[i].close)) {
                s = span_skip(s, open);
                s.len -= close;
                again = true;
            }
        }
    }
    return s;
}

// Appends digits to b, leaving out commas that stand between groups of three; false when s does not
// start so.
static bool take_integer(struct strbuf *b, struct answer_span *s)
{
    size_t n = 0, group = 0; // digits so far; of them, since the last comma
    bool commas = false;
    while (s->len > 0) {
        if (isdigit((unsigned char)s->text[0])) {
            strbuf_putc(b, s->text[0]);
            n++;
            group++;
        } else if (s->text[0] == ',' && (commas ? group == 3 : n >= 1 && n <= 3) && s->len > 3) {
            commas = true;
            group = 0;
        } else {
            break;
        }
        *s = span_skip(*s, 1);
    }
    return n > 0 && n <= DIGITS_MAX && (!commas || group == 3);
}

// A decimal number without sign at s, as "digits/10...0" in b.
static bool take_decimal(struct strbuf *b, struct answer_span *s)
{
    size_t decimals = 0;
    if (s->len > 1 && s->text[0] == '.' && isdigit((unsigned char)s->text[1]))
        strbuf_putc(b, '0');
    else if (!take_integer(b, s))
        return false;
    if (s->len > 1 && s->text[0] == '.' && isdigit((unsigned char)s->text[1])) {
        for (*s = span_skip(*s, 1); s->len > 0 && isdigit((unsigned char)s->text[0]); decimals++) {
            strbuf_putc(b, s->text[0]);
            *s = span_skip(*s, 1);
        }
    }
    strbuf_puts(b, "/1");
    for (size_t i = 0; i < decimals; i++)
        strbuf_putc(b, '0');
    return b->len <= 2 * DIGITS_MAX;
}

static bool take_unsigned(mpq_t out, struct answer_span *s)
{
    struct strbuf b = {0};
    const bool ok = take_decimal(&b, s) && mpq_set_str(out, b.data, 10) == 0;
    if (ok)
        mpq_canonicalize(out);
    strbuf_free(&b);
    return ok;
}

// Divides out by the number at s; false on none, or zero.
static bool take_divisor(mpq_t out, struct answer_span *s)
{
    mpq_t d;
    mpq_init(d);
    const bool ok = take_unsigned(d, s) && mpq_sgn(d) != 0;
    if (ok)
        mpq_div(out, out, d);
    mpq_clear(d);
    return ok;
}

// "\frac{a}{b}", when s starts with it.
static bool take_frac(mpq_t out, struct answer_span *s)
{
    struct answer_span a, b, rest = *s;
    static const char *const names[] = {"\\frac", "\\dfrac", "\\tfrac"};
    for (size_t i = 0; i < 3; i++)
        if (span_starts(rest, names[i]))
            rest = span_skip(rest, strlen(names[i]));
    if (rest.len == s->len || !brace_group(&a, rest))
        return false;
    rest = span_skip(rest, a.len + 2);
    if (!brace_group(&b, rest))
        return false;
    rest = span_skip(rest, b.len + 2);
    if (!take_unsigned(out, &a) || a.len > 0 || !take_divisor(out, &b) || b.len > 0)
        return false;
    *s = rest;
    return true;
}

// Whether what follows a number is a unit: up to three words of two letters or more, none of which
// is a factor.
static bool is_unit(struct answer_span s)
{
    static const char *const factors[] = {"pi",      "hundred",  "thousand", "million",
                                          "billion", "trillion", "dozen",    "mod",
                                          "or",      "and",      "to"};
    int words = 0;
    for (s = span_trim(s); s.len > 0; s = span_trim(s)) {
        size_t n = 0;
        while (n < s.len && isalpha((unsigned char)s.text[n]))
            n++;
        if (n < 2 || (n < s.len && s.text[n] != ' ') || ++words > 3)
            return false;
        for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++)
            if (strlen(factors[i]) == n && strncasecmp(s.text, factors[i], n) == 0)
                return false;
        s = span_skip(s, n);
    }
    return true;
}

// Reads the whole of s as a number.
static bool read_number(mpq_t out, bool *percent, struct answer_span s)
{
    static const char *const signs[] = {"-", "\xE2\x88\x92", "+"}; // the second is U+2212
    static const char *const currencies[] = {"$", "\\$", "\xE2\x82\xAC", "\xC2\xA3"};
    bool negative = false;
    for (size_t i = 0; i < 3; i++) {
        if (span_starts(s, signs[i])) {
            negative = i < 2;
            s = span_trim(span_skip(s, strlen(signs[i])));
            break;
        }
    }
    for (size_t i = 0; i < 4; i++)
        if (span_starts(s, currencies[i]))
            s = span_trim(span_skip(s, strlen(currencies[i])));
    if (!take_frac(out, &s)) {
        if (!take_unsigned(out, &s))
            return false;
        if (span_starts(s, "/")) {
            s = span_skip(s, 1);
            if (!take_divisor(out, &s))
                return false;
        }
    }
    s = span_trim(s);
    *percent = span_starts(s, "%") || span_starts(s, "\\%");
    if (*percent)
        s = span_skip(s, s.text[0] == '%' ? 1 : 2);
    if (negative)
        mpq_neg(out, out);
    return is_unit(unwrap(s));
}

static bool text_equal(struct answer_span a, struct answer_span b)
{
    size_t i = 0, j = 0;
    for (;; i++, j++) { // white space is not looked at
        while (i < a.len && isspace((unsigned char)a.text[i]))
            i++;
        while (j < b.len && isspace((unsigned char)b.text[j]))
            j++;
        if (i == a.len || j == b.len)
            return i == a.len && j == b.len && a.len > 0;
        if (a.text[i] != b.text[j])
            return false;
    }
}

bool answer_equal(struct answer_span a, struct answer_span b)
{
    mpq_t x, y, hundred;
    mpq_inits(x, y, hundred, NULL);
    mpq_set_si(hundred, 100, 1);
    bool x_percent, y_percent, equal;
    a = unwrap(a);
    b = unwrap(b);
    if (read_number(x, &x_percent, a) && read_number(y, &y_percent, b)) {
        equal = mpq_equal(x, y) != 0;
        if (!equal && x_percent != y_percent) {
            mpq_div(x_percent ? x : y, x_percent ? x : y, hundred);
            equal = mpq_equal(x, y) != 0;
        }
    } else {
        equal = text_equal(a, b);
    }
    mpq_clears(x, y, hundred, NULL);
    return equal;
}

static int score(void *state, struct arena *a, struct reward_result *out,
                 const struct reward_item *items, int n)
{
    (void)state;
    (void)a;
    for (int i = 0; i < n; i++) {
        const struct reward_item *item = &items[i];
        struct answer_span found;
        if (item->ref == NULL || item->ref->answer == NULL) {
            reward_set_unscorable(&out[i], "no reference answer");
        } else if (!answer_find(&found, item->completion, item->len)) {
            reward_set_value(&out[i], 0);
            snprintf(out[i].reason, sizeof(out[i].reason), "no answer in the completion");
        } else {
            const struct answer_span gold = answer_of_reference(item->ref->answer);
            reward_set_value(&out[i], answer_equal(found, gold));
            struct strbuf b = {0};
            strbuf_put_visible(&b, found.text,
                               utf8_complete_prefix(found.text, found.len < 60 ? found.len : 60));
            if (out[i].value == 0)
                snprintf(out[i].reason, sizeof(out[i].reason), "the answer is '%.100s'",
                         b.len > 0 ? b.data : "");
            strbuf_free(&b);
        }
    }
    return 0;
}

struct reward_scorer answer_scorer(void)
{
    return (struct reward_scorer){.name = "answer", .score = score};
}
