// SPDX-License-Identifier: Apache-2.0
#include "policy/arch_reader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void reader_fault(struct reader *r, const struct json *at, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    strbuf_printf(&r->faults, "%s%s:%d: %s", r->num_faults++ ? "\n" : "", r->name,
                  json_line(r->doc, at ? at : r->v), text);
}

const struct json *reader_member(const struct json *object, const char *key)
{
    const struct json *v = json_get(object, key);
    return json_type(v) == JSON_NULL ? NULL : v;
}

void reader_fault_value(struct reader *r, const struct json *v, const char *key, const char *what)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_put_value(&w, r->doc, v);
    reader_fault(r, v, "\"%s\" is %.120s, expected %s", key, text.data, what);
    strbuf_free(&text);
}

int reader_int(struct reader *r, const struct json *object, const char *key, int lo, int hi,
               int value_if_absent)
{
    const struct json *v = reader_member(object, key);
    int64_t value;
    if (!v && value_if_absent == READER_REQUIRED) {
        reader_fault(r, object, "\"%s\" is missing", key);
    }
    if (!v) {
        return value_if_absent == READER_REQUIRED ? lo : value_if_absent;
    }
    if (!json_int(r->doc, v, lo, hi, &value)) {
        char what[64];
        snprintf(what, sizeof what, "an integer in %d..%d", lo, hi);
        reader_fault_value(r, v, key, what);
        return lo;
    }
    return (int)value;
}

double reader_real(struct reader *r, const struct json *object, const char *key, double lo,
                   double hi, double value_if_absent)
{
    const struct json *v = reader_member(object, key);
    double value = isnan(value_if_absent) ? lo : value_if_absent;
    if (!v && isnan(value_if_absent)) {
        reader_fault(r, object, "\"%s\" is missing", key);
    }
    if (v && (!json_double(v, &value) || !(value >= lo && value <= hi))) {
        char what[64];
        snprintf(what, sizeof what, "a number in %g..%g", lo, hi);
        reader_fault_value(r, v, key, what);
        return lo;
    }
    return value;
}

bool reader_bool(struct reader *r, const struct json *object, const char *key, bool value_if_absent)
{
    const struct json *v = reader_member(object, key);
    bool value = value_if_absent;
    if (v && !json_bool(v, &value)) {
        reader_fault_value(r, v, key, "true or false");
    }
    return value;
}

void reader_expect_string(struct reader *r, const char *key, const char *text)
{
    const struct json *v = reader_member(r->v, key);
    const char *s = json_string(v);
    if (v && (!s || strcmp(s, text))) {
        char what[96];
        snprintf(what, sizeof what, "\"%s\" (no other is supported)", text);
        reader_fault_value(r, v, key, what);
    }
}

void reader_expect_false(struct reader *r, const char *key)
{
    const struct json *v = reader_member(r->v, key);
    bool value = false;
    if (v && (!json_bool(v, &value) || value)) {
        reader_fault_value(r, v, key, "false (no other is supported)");
    }
}
