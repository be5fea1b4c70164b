// SPDX-License-Identifier: Apache-2.0
// The scanner of base/json: it decides what is JSON, before cJSON sees the text, and lists the
// values in the order in which they begin. Internal to base/json.
#ifndef BASE_JSON_SCAN_H
#define BASE_JSON_SCAN_H

#include "base/json.h"

struct cJSON;

// A value. The children of a container follow it in the list, each with its own.
struct json {
    const struct cJSON *item; // set by base/json: holds the decoded key and string
    union {
        double number;         // of a number
        const uint32_t *index; // of an object with many members: see json.c; NULL: none
    };
    uint32_t at, len; // bytes of the text
    uint32_t next;    // places from here to the next sibling; 0: it is the last
    int count;        // children
    int line;         // of the key of a member, of the value otherwise
    enum json_type type;
};

struct json_scan {
    char *text; // (len) and a terminator: comments are overwritten with spaces
    size_t len;
    int flags;
    const char *name; // of the text, in messages
    int line;         // in: the first line's number
    int code;         // of errors
    struct json *values;
    size_t count, cap; // of values
    size_t at;         // the scanner's place
};

// The text of a number, not terminated.
const char *json_number_text(const struct json_doc *doc, const struct json *v, size_t *len);

// Fills values (free() them, also after an error).
int json_scan(struct json_scan *s);

#endif
