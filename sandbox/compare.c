// SPDX-License-Identifier: Apache-2.0
#include "sandbox/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool compare_mode_find(enum compare_mode *out, const char *name)
{
    static const char *const names[] = {[COMPARE_LINES] = "lines",
                                        [COMPARE_EXACT] = "exact",
                                        [COMPARE_WORDS] = "words",
                                        [COMPARE_NUMBERS] = "numbers"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum compare_mode)i;
            return true;
        }
    }
    return false;
}

static bool is_space(char c) { return c != 0 && strchr(" \t\r\v\f\n", c) != NULL; }

static size_t trim(const char *s, size_t len)
{
    while (len > 0 && is_space(s[len - 1]))
        len--;
    return len;
}

// Length of the first line, without its newline.
static size_t line_of(const char *s, size_t len)
{
    const char *end = len > 0 ? memchr(s, '\n', len) : NULL;
    return end != NULL ? (size_t)(end - s) : len;
}

static bool same_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static bool same_lines(const char *a, size_t a_len, const char *b, size_t b_len)
{
    a_len = trim(a, a_len);
    b_len = trim(b, b_len);
    for (;;) {
        const size_t a_line = line_of(a, a_len), b_line = line_of(b, b_len);
        if (!same_bytes(a, trim(a, a_line), b, trim(b, b_line)) ||
            (a_line == a_len) != (b_line == b_len))
            return false;
        if (a_line == a_len)
            return true;
        a += a_line + 1;
        a_len -= a_line + 1;
        b += b_line + 1;
        b_len -= b_line + 1;
    }
}

enum { NUMBER_MAX = 64 }; // characters of a number that is compared as one

// Digits with a sign, a point and an exponent, as all languages print them. "nan", "inf" and
// hexadecimal digits are words.
static bool is_number(const char *s, size_t len, double *out)
{
    char text[NUMBER_MAX + 1], *end;
    if (len == 0 || len > NUMBER_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == 0 || strchr("+-.0123456789eE", s[i]) == NULL)
            return false;
    }
    memcpy(text, s, len);
    text[len] = 0;
    *out = strtod(text, &end);
    return end == text + len && isfinite(*out);
}

static bool same_word(const char *a, size_t a_len, const char *b, size_t b_len, bool numbers,
                      double tolerance)
{
    double got, want;
    if (same_bytes(a, a_len, b, b_len))
        return true;
    return numbers && is_number(a, a_len, &got) && is_number(b, b_len, &want) &&
           fabs(got - want) <= tolerance * fmax(1, fabs(want));
}

// Moves *s to the next word and returns its length, 0 at the end.
static size_t next_word(const char **s, size_t *len)
{
    size_t n = 0;
    for (; *len > 0 && is_space(**s); ++*s)
        --*len;
    while (n < *len && !is_space((*s)[n]))
        n++;
    return n;
}

static bool same_words(const char *a, size_t a_len, const char *b, size_t b_len, bool numbers,
                       double tolerance)
{
    for (;;) {
        const size_t a_word = next_word(&a, &a_len), b_word = next_word(&b, &b_len);
        if (a_word == 0 || b_word == 0)
            return a_word == b_word;
        if (!same_word(a, a_word, b, b_word, numbers, tolerance))
            return false;
        a += a_word;
        a_len -= a_word;
        b += b_word;
        b_len -= b_word;
    }
}

bool compare_output(enum compare_mode mode, double tolerance, const char *got, size_t got_len,
                    const char *want, size_t want_len)
{
    switch (mode) {
    case COMPARE_EXACT:
        return same_bytes(got, got_len, want, want_len);
    case COMPARE_WORDS:
    case COMPARE_NUMBERS:
        return same_words(got, got_len, want, want_len, mode == COMPARE_NUMBERS, tolerance);
    case COMPARE_LINES:
        break;
    }
    return same_lines(got, got_len, want, want_len);
}
