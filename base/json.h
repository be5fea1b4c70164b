// SPDX-License-Identifier: Apache-2.0
// Strict JSON over cJSON. json_parse first scans the text itself (RFC 8259: the whole input is one
// value; UTF-8 is valid; no duplicate keys, no NUL, no lone surrogates; depth <= 64; numbers
// finite) and records where each value stands and the text of each number; cJSON then builds the
// tree. Errors name the line. A document is immutable and may be read by several threads.
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/str.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_doc; // owns the tree
struct json;     // a value inside a document (borrowed); NULL is accepted by the lookups below and
                 // means "absent"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

enum json_flags {
    JSON_COMMENTS = 1 // `//` comments to the end of the line are allowed (config files)
};

// Parses text[0..len). `name` and `code` are what errors say and return ("NAME:LINE: ..."; line
// counts from first_line).
int json_parse(struct json_doc **out, const char *text, size_t len, int flags, const char *name,
               int first_line, int code);
// Reads a whole file and parses it. A missing file is an error with `code`.
int json_parse_file(struct json_doc **out, const char *path, int flags, int code);
void json_free(struct json_doc **doc);
const struct json *json_root(const struct json_doc *doc);

enum json_type json_type(const struct json *v); // NULL: JSON_NULL
const char *json_type_name(enum json_type t);   // "a string", "an object", ...
int json_line(const struct json_doc *doc, const struct json *v);

// Children, in order. json_get is case-sensitive; NULL when absent or when v is not an object.
// O(children) unless indexed.
const struct json *json_get(const struct json *v, const char *key);
int json_count(const struct json *v);
const struct json *json_first(const struct json *v);
const struct json *json_next(const struct json *v);
const char *json_key(const struct json *v); // of a member; NULL for an element

// Values; false (out untouched) when v is NULL or of another type, or for json_int when not an
// exact integer in range (an integer is what is written without '.', 'e': the full int64 range is
// exact).
bool json_bool(const struct json *v, bool *out);
bool json_double(const struct json *v, double *out);
bool json_int(const struct json_doc *doc, const struct json *v, int64_t lo, int64_t hi,
              int64_t *out);
const char *json_string(const struct json *v); // NULL when not a string; never holds NUL
bool json_is_true(const struct json *v);

// Writing. A json_writer appends compact JSON to a strbuf and checks nesting by assert. Doubles are
// written with the fewest digits that read back the same; NaN and Inf as null. Strings must be
// UTF-8 (bytes that are not are replaced by U+FFFD).
struct json_writer {
    struct strbuf *out;
    int depth;
    bool comma[64];
    bool after_key;
};
void json_begin_object(struct json_writer *w);
void json_end_object(struct json_writer *w);
void json_begin_array(struct json_writer *w);
void json_end_array(struct json_writer *w);
void json_put_key(struct json_writer *w, const char *key);
void json_put_string(struct json_writer *w, const char *s);
void json_put_text(struct json_writer *w, const char *s, size_t len);
void json_put_int(struct json_writer *w, int64_t v);
void json_put_double(struct json_writer *w, double v);
void json_put_float(struct json_writer *w, float v); // fewest digits that read back the same float
void json_put_bool(struct json_writer *w, bool v);
void json_put_null(struct json_writer *w);
void json_put_value(struct json_writer *w, const struct json_doc *doc,
                    const struct json *v); // a copy; numbers keep their text

#endif
