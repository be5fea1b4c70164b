// SPDX-License-Identifier: Apache-2.0
// Growing strings, and the checks on text that every reader of outside data needs.
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

// data is always terminated once anything was appended; len does not count the terminator and the
// content may hold NUL. A zeroed struct is an empty buffer.
struct strbuf {
    char *data;
    size_t len, cap;
};

void strbuf_append(struct strbuf *b, const void *bytes, size_t len);
char *strbuf_reserve(struct strbuf *b,
                     size_t len); // room for len more bytes at the end; who fills it adds to b->len
void strbuf_puts(struct strbuf *b, const char *s);
void strbuf_putc(struct strbuf *b, char c);
void strbuf_printf(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_clear(struct strbuf *b); // keeps the memory
void strbuf_free(struct strbuf *b);  // leaves an empty buffer
char *strbuf_take(struct strbuf *b); // the string, owned by the caller; the buffer is empty after

// Offset of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, nothing overlong, <=
// U+10FFFF), or len.
size_t utf8_valid_prefix(const char *s, size_t len);

// Bytes of the longest prefix of s that does not end inside a character, for showing text that
// arrives in pieces.
size_t utf8_complete_prefix(const char *s, size_t len);

// Appends s with control characters, ESC included, escaped (\n, \x1b), so that it can be shown on a
// terminal.
void strbuf_put_visible(struct strbuf *b, const char *s, size_t len);

// Number of single-character edits (insert, delete, replace) between two words: for "did you mean".
int str_distance(const char *a, const char *b);

// Strict decimal parsing: the whole of s, in range; false otherwise and *out untouched. No white
// space, no hexadecimal, no NaN or Inf.
bool str_to_int(const char *s, long long lo, long long hi, long long *out);
bool str_to_double(const char *s, double *out);

#endif
