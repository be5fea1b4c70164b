// SPDX-License-Identifier: Apache-2.0
// Text as Python's str treats it, on UTF-8: lengths and places count code points, white space is
// what str.isspace says. Internal to the chat template.
#ifndef POLICY_JINJA_TEXT_H
#define POLICY_JINJA_TEXT_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A part of a text, borrowed.
struct span {
    const char *s;
    size_t len;
};

// str.isspace of one code point.
bool text_is_space(uint32_t c);
// Without the white space at its start, or at its end.
struct span text_strip_left(struct span t);
struct span text_strip_right(struct span t);
// The same with any code point that occurs in `chars` in place of white space.
struct span text_strip_left_of(struct span t, struct span chars);
struct span text_strip_right_of(struct span t, struct span chars);

size_t text_length(struct span t); // code points
size_t text_offset(struct span t,
                   size_t at); // of the code point `at`, or t.len when there are fewer
// Offset of the first occurrence of what (not empty) at or after `from`; SIZE_MAX: none.
size_t text_find(struct span t, size_t from, struct span what);
bool text_equal(struct span a, struct span b);
int text_shown(struct span t); // bytes of its first characters, which an error quotes

// Appends one code point as UTF-8.
void text_put_char(struct strbuf *out, uint32_t c);
// Appends a finite number as Python's repr(float) writes it.
void text_put_float(struct strbuf *out, double x);

#endif
