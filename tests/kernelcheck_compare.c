// SPDX-License-Identifier: Apache-2.0
// What a call wrote against what another wrote: values within a tolerance, or bits, of whole arrays
// or row by row.
#include "kernels/cpu/element.h"
#include "tests/kernelcheck.h"
#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool array_is_output(const struct array *a) { return a->role == ROLE_OUT || a->role == ROLE_INOUT; }

bool fault_set(struct fault *f, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
    return false;
}

static double value_at(const struct array *a, const unsigned char *data, size_t i)
{
    const unsigned char *p = data + i * a->size;
    float x32;
    double x64;
    int32_t n;
    uint16_t x16;
    switch (a->element) {
    case ELEMENT_F32:
        memcpy(&x32, p, sizeof x32);
        return (double)x32;
    case ELEMENT_F64:
        memcpy(&x64, p, sizeof x64);
        return x64;
    case ELEMENT_I32:
        memcpy(&n, p, sizeof n);
        return n;
    case ELEMENT_BF16:
        memcpy(&x16, p, sizeof x16);
        return (double)bf16_widen(x16);
    case ELEMENT_BOOL:
    case ELEMENT_BYTES:
    case ELEMENT_ADDRESS:
    default:
        return *p;
    }
}

static bool is_float(const struct array *a)
{
    return a->element == ELEMENT_F32 || a->element == ELEMENT_F64 || a->element == ELEMENT_BF16;
}

static bool is_poison(const struct array *a, const unsigned char *data, size_t i)
{
    const uint32_t poison[] = {CALL_POISON, CALL_POISON};
    // The one byte of a bool is compared as the first of the pattern, which no bool has.
    return a->role == ROLE_OUT && !a->alias && memcmp(data + i * a->size, poison, a->size) == 0;
}

// What an error counts by: in units of the tolerance. Below the normal range of float32 results may
// be flushed to zero: no error there counts.
static double error_share(const struct array *a, double got, double expected, size_t i,
                          double tolerance)
{
    const double own = a->element == ELEMENT_F64    ? 0x1p-53
                       : a->element == ELEMENT_BF16 ? 0x1p-8
                                                    : 0x1p-24;
    const double unit = a->unit > 0.0 ? a->unit : own;
    const double scale = a->scale ? a->scale[i] : fabs(expected);
    return fabs(got - expected) / (tolerance * unit * scale + (double)FLT_MIN);
}

static bool compare_element(struct fault *f, const struct array *a, size_t i,
                            const unsigned char *got_data, const unsigned char *expected_data,
                            double tolerance, double *worst)
{
    const double got = value_at(a, got_data, i), expected = value_at(a, expected_data, i);
    const bool unwritten = is_poison(a, expected_data, i);
    if (is_poison(a, got_data, i) != unwritten)
        return fault_set(f, "%s[%zu] is %swritten, in the reference it is %.9g", a->name, i,
                         unwritten ? "" : "not ", expected);
    if (unwritten || (isnan(got) && isnan(expected)) || got == expected)
        return true;
    if (isnan(got) || isnan(expected) || isinf(got) || isinf(expected))
        return fault_set(f, "%s[%zu] is %.9g, expected %.9g", a->name, i, got, expected);
    if (a->exact || !is_float(a))
        return fault_set(f, "%s[%zu] is %.9g, expected exactly %.9g", a->name, i, got, expected);
    const double share = error_share(a, got, expected, i, tolerance);
    *worst = fmax(*worst, share);
    return share <= 1.0 || fault_set(f, "%s[%zu] is %.9g, expected %.9g: %.3g of the tolerance",
                                     a->name, i, got, expected, share);
}

bool outcome_compare(struct fault *f, const struct call *c, const struct outcome *got,
                     const struct outcome *expected, double tolerance, double *worst)
{
    for (int n = 0; n < c->num_arrays; n++) {
        const struct array *a = c->arrays[n];
        const struct span *s = &a->span;
        for (size_t r = 0; array_is_output(a) && a->count > 0 && r < s->rows; r++)
            for (size_t p = 0; p < s->parts; p++)
                for (size_t i = 0; i < s->cols; i++)
                    if (!compare_element(f, a, r * s->row_stride + p * s->part_stride + i,
                                         got->after + got->at[n], expected->after + expected->at[n],
                                         tolerance, worst))
                        return false;
    }
    return true;
}

// Of a NaN the payload is of no interest.
static bool same_row(struct fault *f, const struct array *a, const unsigned char *x, size_t row_x,
                     const unsigned char *y, size_t row_y)
{
    const struct span *s = &a->span;
    for (size_t p = 0; p < s->parts; p++)
        for (size_t i = 0; i < s->cols; i++) {
            const size_t at_x = row_x * s->row_stride + p * s->part_stride + i;
            const size_t at_y = row_y * s->row_stride + p * s->part_stride + i;
            if (memcmp(x + at_x * a->size, y + at_y * a->size, a->size) == 0)
                continue;
            const double got = value_at(a, x, at_x), expected = value_at(a, y, at_y);
            if (!(isnan(got) && isnan(expected)))
                return fault_set(f, "%s[%zu] is %.9g (%a), was %.9g (%a)", a->name, at_x, got, got,
                                 expected, expected);
        }
    return true;
}

bool outcome_same_bits(struct fault *f, const struct call *c, const struct outcome *got,
                       const struct outcome *expected)
{
    for (int n = 0; n < c->num_arrays; n++) {
        const struct array *a = c->arrays[n];
        for (size_t r = 0; array_is_output(a) && a->count > 0 && r < a->span.rows; r++)
            if (!same_row(f, a, got->after + got->at[n], r, expected->after + expected->at[n], r))
                return false;
    }
    return true;
}

static bool has_rows(const struct array *a) { return array_is_output(a) && a->row && a->count > 0; }

bool call_has_rows(const struct call *c)
{
    for (int n = 0; n < c->num_arrays; n++)
        if (has_rows(c->arrays[n]))
            return true;
    return false;
}

static int find_output(const struct call *c, const char *name)
{
    for (int n = 0; n < c->num_arrays; n++)
        if (array_is_output(c->arrays[n]) && strcmp(c->arrays[n]->name, name) == 0)
            return n;
    return -1;
}

static int find_row(const struct array *a, int id)
{
    for (size_t r = 0; r < a->span.rows; r++)
        if (a->row[r] == id)
            return (int)r;
    return -1;
}

bool outcome_same_rows(struct fault *f, const struct call *c, const struct outcome *got,
                       const struct call *base, const struct outcome *expected)
{
    for (int n = 0; n < c->num_arrays; n++) {
        const struct array *a = c->arrays[n];
        const int m = find_output(base, a->name);
        for (size_t r = 0; has_rows(a) && r < a->span.rows; r++) {
            if (a->row[r] < 0)
                continue;
            const int was = find_row(base->arrays[m], a->row[r]);
            assert(was >= 0);
            if (!same_row(f, a, got->after + got->at[n], r, expected->after + expected->at[m],
                          (size_t)was))
                return false;
        }
    }
    return true;
}
