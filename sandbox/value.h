// SPDX-License-Identifier: Apache-2.0
// Plain Python values outside Python: None, bool, int of any size, float, complex, str, bytes,
// list, tuple, set, dict, in the tagged encoding of wire.h. Values of tests are built here; what a
// program returned is read here, as hostile bytes. Two values are compared by their canonical
// forms: byte strings that are the same exactly when Python's == holds between the values.
#ifndef SANDBOX_VALUE_H
#define SANDBOX_VALUE_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Building: each appends one value; after a container of n follow its n values (2 n for a dict).
void value_put_none(struct strbuf *b);
void value_put_bool(struct strbuf *b, bool v);
void value_put_int(struct strbuf *b, int64_t v);
void value_put_float(struct strbuf *b, double v);
void value_put_str(struct strbuf *b, const char *s, size_t len);
void value_put_container(struct strbuf *b, char tag, uint32_t n);
// An integer of any size from its decimal text ("-123"); false when it is not one, or has more than
// 4300 digits (Python's own limit).
bool value_put_decimal(struct strbuf *b, const char *text);

// Reads one value from in[0..len), appends its canonical form to out, and sets *used to the bytes
// read. false when the bytes are not a value: cut off, an unknown tag, nested deeper than
// WIRE_DEPTH_MAX, longer than WIRE_VALUE_MAX, equal keys in a dict or set, a key that cannot be
// hashed, a superfluous zero. *has_nan becomes true when a NaN is in it, which makes it unequal to
// everything.
bool value_canonical(struct strbuf *out, bool *has_nan, size_t *used, const uint8_t *in,
                     size_t len);

// Appends the value as Python would about write it, cut at max bytes, for messages. The bytes must
// have passed value_canonical.
void value_show(struct strbuf *out, const uint8_t *in, size_t len, size_t max);

#endif
