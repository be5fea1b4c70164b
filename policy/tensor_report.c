// SPDX-License-Identifier: Apache-2.0
#include "policy/tensor_report.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tensor_fault {
    char *pattern; // the name with * for its numbers
    char *name;    // of the first
    char *text;
    int count;
};

static char *pattern_of(const char *name)
{
    struct strbuf b = {0};
    for (const char *c = name; *c; c++) {
        const bool number = c > name && c[-1] == '.' && *c >= '0' && *c <= '9';
        const size_t digits = number ? strspn(c, "0123456789") : 0;
        if (digits > 0 && c[digits] == '.') {
            strbuf_putc(&b, '*');
            c += digits - 1;
        } else {
            strbuf_putc(&b, *c);
        }
    }
    return b.data ? strbuf_take(&b) : mem_strdup("");
}

void tensor_report_add(struct tensor_report *r, const char *name, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *pattern = pattern_of(name);
    for (int i = 0; i < r->count; i++) {
        if (!strcmp(r->faults[i].pattern, pattern) && !strcmp(r->faults[i].text, text)) {
            r->faults[i].count++;
            free(pattern);
            return;
        }
    }
    r->faults = mem_realloc(r->faults, (size_t)(r->count + 1) * sizeof *r->faults);
    r->faults[r->count++] = (struct tensor_fault){pattern, mem_strdup(name), mem_strdup(text), 1};
}

enum { REPORT_BYTES = 3500 }; // an error's message has room for

int tensor_report_end(struct tensor_report *r, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    struct strbuf text = {0};
    int rc = 0, told = 0;
    for (; told < r->count && text.len < REPORT_BYTES; told++) {
        const struct tensor_fault *x = &r->faults[told];
        strbuf_printf(&text, "\n  %.200s: %s", x->count > 1 ? x->pattern : x->name, x->text);
        if (x->count > 1) {
            strbuf_printf(&text, " (%d of them)", x->count);
        }
    }
    if (told < r->count) {
        strbuf_printf(&text, "\n  and %d more kinds", r->count - told);
    }
    if (r->count > 0) {
        rc = err_set(ERR_MODEL, "%s%s", what, text.data);
    }
    for (int i = 0; i < r->count; i++) {
        free(r->faults[i].pattern);
        free(r->faults[i].name);
        free(r->faults[i].text);
    }
    free(r->faults);
    *r = (struct tensor_report){0};
    strbuf_free(&text);
    return rc;
}

const char *tensor_shape_text(char buf[64], int rank, const int64_t *shape)
{
    int at = snprintf(buf, 64, "[");
    for (int i = 0; i < rank && at < 40; i++) {
        at += snprintf(buf + at, (size_t)(64 - at), "%s%lld", i ? "," : "", (long long)shape[i]);
    }
    snprintf(buf + at, (size_t)(64 - at), "]");
    return buf;
}

bool tensor_has_shape(const struct tensor *t, int rank, const int64_t *shape)
{
    bool same = t->rank == rank;
    for (int i = 0; i < rank && same; i++) {
        same = t->shape[i] == shape[i];
    }
    return same;
}

bool tensor_is_float(const struct tensor *t)
{
    return t->dtype == TENSOR_F32 || t->dtype == TENSOR_BF16 || t->dtype == TENSOR_F16;
}

size_t tensor_nonfinite(const float *x, size_t n, size_t *first)
{
    size_t count = 0;
    for (size_t i = n; i-- > 0;) {
        if (!isfinite(x[i])) {
            count++;
            *first = i;
        }
    }
    return count;
}
