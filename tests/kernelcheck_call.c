// SPDX-License-Identifier: Apache-2.0
// Calls in one block of a device's memory: guard, array, guard, array, ..., guard. The block is
// written and read as a whole, so that every byte around the outputs can be looked at. Guards,
// padding and outputs begin as NaNs of two patterns; under AddressSanitizer the guards of host
// memory cannot be read either.
#include "base/error.h"
#include "base/log.h"
#include "base/philox.h"
#include "kernels/cpu/element.h"
#include "tests/kernelcheck.h"
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { GUARD = 128, ALIGNMENT = 64, PACKED_ALIGNMENT = 256 };
static const uint32_t guard_word = 0x7fe1dea1;

// ---- building

void *call_args(struct call *c, size_t bytes) { return c->args = arena_push0(&c->memory, bytes); }

void call_text(struct call *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->text, sizeof c->text, fmt, args);
    va_end(args);
}

static uint64_t name_key(const struct call *c, const char *name)
{
    uint64_t key = c->seed;
    for (; *name; name++)
        key = philox_mix(key, (unsigned char)*name);
    return key;
}

uint32_t call_random(const struct call *c, const char *name, int id, uint32_t n)
{
    return philox4x32(name_key(c, name), (uint64_t)(int64_t)id, 1).v[0] % n;
}

static size_t span_count(const struct span *s)
{
    if (s->rows == 0 || s->parts == 0 || s->cols == 0)
        return 0;
    return (s->rows - 1) * s->row_stride + (s->parts - 1) * s->part_stride + s->cols;
}

static void fill_words(void *to, uint32_t word, size_t bytes)
{
    unsigned char *p = to;
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(word >> 8 * (i % 4));
}

static struct array *push_array(struct call *c, const void *field, const char *name,
                                enum element element, size_t size, enum role role, struct span span)
{
    if (c->num_arrays == c->cap_arrays) {
        c->cap_arrays = 2 * c->cap_arrays + 16;
        c->arrays = mem_realloc(c->arrays, (size_t)c->cap_arrays * sizeof(*c->arrays));
    }
    struct array *a = arena_push0(&c->memory, sizeof *a);
    snprintf(a->name, sizeof a->name, "%s", name);
    a->element = element;
    a->role = role;
    a->span = span;
    a->size = size;
    a->count = span_count(&span);
    memcpy(&a->field, &field, sizeof field); // the struct is the call's own and can be written
    c->arrays[c->num_arrays++] = a;
    return a;
}

static float special_value(uint32_t word)
{
    const float values[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f};
    return values[word % 5];
}

// Row r of the span from the numbers of its identity.
static void fill_row(const struct call *c, struct array *a, size_t r, uint64_t key, double spread)
{
    const uint64_t id = a->row ? (uint64_t)(int64_t)a->row[r] : r;
    struct philox_block block;
    uint64_t n = 0;
    float *row = array_floats(a) + r * a->span.row_stride;
    if (a->row && a->row[r] < 0)
        return; // stays NaN
    for (size_t p = 0; p < a->span.parts; p++)
        for (size_t i = 0; i < a->span.cols; i++, n++) {
            if (n % 4 == 0)
                block = philox4x32(key, n / 4, id);
            const uint32_t word = block.v[n % 4];
            const double unit = philox_unit(word) - 0.5;
            float x = (float)(unit * 3.4641016151377544 * spread);
            if (c->special > 0 && (word & 0xffff) % (uint32_t)c->special == 0)
                x = special_value(word >> 16);
            row[p * a->span.part_stride + i] = x;
        }
}

static void fill_array(struct call *c, struct array *a, double spread)
{
    const size_t size = sizeof(float);
    a->before = arena_push(&c->memory, a->count * size);
    fill_words(a->before, guard_word, a->count * size);
    for (size_t r = 0; a->count > 0 && r < a->span.rows; r++)
        fill_row(c, a, r, name_key(c, a->name), spread);
    if (a->element != ELEMENT_BF16)
        return;
    // Padding becomes NaN as well: the guards' words are.
    uint16_t *rounded = arena_push(&c->memory, a->count * sizeof *rounded);
    a->values = a->before;
    a->before = rounded;
    for (size_t i = 0; i < a->count; i++) {
        rounded[i] = bf16_round(a->values[i]);
        a->values[i] = bf16_widen(rounded[i]);
    }
}

struct array *call_in_as(struct call *c, const void *field, const char *name, enum element element,
                         struct span span, const int *row, double spread)
{
    assert(element == ELEMENT_F32 || element == ELEMENT_BF16);
    const size_t size = element == ELEMENT_BF16 ? sizeof(uint16_t) : sizeof(float);
    struct array *a = push_array(c, field, name, element, size, ROLE_IN, span);
    a->row = row;
    fill_array(c, a, spread);
    return a;
}

struct array *call_in(struct call *c, const void *field, const char *name, struct span span,
                      const int *row, double spread)
{
    return call_in_as(c, field, name, ELEMENT_F32, span, row, spread);
}

struct array *call_inout_as(struct call *c, const void *field, const char *name,
                            enum element element, struct span span, const int *row)
{
    struct array *a = call_in_as(c, field, name, element, span, row, 1.0);
    a->role = ROLE_INOUT;
    return a;
}

struct array *call_inout(struct call *c, const void *field, const char *name, struct span span,
                         const int *row)
{
    return call_inout_as(c, field, name, ELEMENT_F32, span, row);
}

struct array *call_out(struct call *c, const void *field, const char *name, enum element element,
                       struct span span, const int *row)
{
    static const size_t sizes[] = {sizeof(float), sizeof(double), sizeof(int), sizeof(bool),
                                   sizeof(uint16_t)};
    assert(element <= ELEMENT_BF16);
    struct array *a = push_array(c, field, name, element, sizes[element], ROLE_OUT, span);
    a->row = row;
    a->exact = element == ELEMENT_I32 || element == ELEMENT_BOOL;
    a->before = arena_push(&c->memory, a->count * a->size);
    fill_words(a->before, CALL_POISON, a->count * a->size);
    return a;
}

struct array *call_data(struct call *c, const void *field, const char *name, enum element element,
                        size_t size, size_t count)
{
    struct array *a = push_array(c, field, name, element, size, ROLE_IN, span_flat(count));
    a->before = arena_push0(&c->memory, count * size);
    return a;
}

struct array *call_opaque(struct call *c, const void *field, const char *name, int k, int n,
                          int count)
{
    struct array *a =
        push_array(c, field, name, ELEMENT_F32, sizeof(float), ROLE_OPAQUE, span_flat(0));
    a->packed_k = k;
    a->packed_n = n;
    a->packed_count = count;
    return a;
}

struct array *call_packed(struct call *c, const void *field, const char *name, int k, int n,
                          int count, double spread)
{
    return call_packed_as(c, field, name, ELEMENT_F32, k, n, count, spread);
}

struct array *call_packed_as(struct call *c, const void *field, const char *name,
                             enum element element, int k, int n, int count, double spread)
{
    const size_t rows = (size_t)count * (size_t)k;
    struct array *dense =
        call_in_as(c, NULL, name, element, span_rows(rows, (size_t)n, (size_t)n), NULL, spread);
    struct array *a = call_opaque(c, field, name, k, n, count);
    a->role = ROLE_PACKED;
    a->source = dense;
    return dense;
}

double *call_scale(struct call *c, struct array *a)
{
    return a->scale = arena_push0(&c->memory, a->count * sizeof *a->scale);
}

void call_free(struct call *c)
{
    free(c->arrays);
    arena_free(&c->memory);
    memset(c, 0, sizeof *c);
}

// ---- memory

static size_t array_bytes(const struct array *a, const struct device *dev)
{
    if (a->role != ROLE_PACKED && a->role != ROLE_OPAQUE)
        return a->count * a->size;
    return matmul_packed_size(dev, a->packed_k, a->packed_n) * (size_t)a->packed_count *
           sizeof(float);
}

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static int array_index(const struct call *c, const struct array *a)
{
    int i = 0;
    while (i < c->num_arrays && c->arrays[i] != a)
        i++;
    assert(i < c->num_arrays);
    return i;
}

static void lay_out(struct outcome *o, const struct call *c, const struct device *dev, int skew)
{
    size_t end = 0;
    o->at = mem_array0((size_t)c->num_arrays, sizeof *o->at);
    o->bytes = mem_array0((size_t)c->num_arrays, sizeof *o->bytes);
    for (int i = 0; i < c->num_arrays; i++) {
        const struct array *a = c->arrays[i];
        const bool packed = a->role == ROLE_PACKED || a->role == ROLE_OPAQUE;
        const bool words = a->element == ELEMENT_F32 || a->element == ELEMENT_I32;
        const bool halves = a->element == ELEMENT_BF16;
        o->bytes[i] = array_bytes(a, dev);
        if (a->alias)
            continue;
        o->at[i] = round_up(end + GUARD, packed ? PACKED_ALIGNMENT : ALIGNMENT) +
                   (words && !packed ? 4 * (size_t)skew : 0) + (halves ? 2 * (size_t)skew : 0);
        end = o->at[i] + o->bytes[i];
    }
    for (int i = 0; i < c->num_arrays; i++)
        if (c->arrays[i]->alias)
            o->at[i] = o->at[array_index(c, c->arrays[i]->alias)];
    o->size = round_up(end + GUARD, ALIGNMENT);
}

static void fill_image(struct outcome *o, const struct call *c, const unsigned char *block)
{
    o->before = mem_aligned(o->size);
    o->after = mem_aligned(o->size);
    fill_words(o->before, guard_word, o->size);
    for (int i = 0; i < c->num_arrays; i++) {
        const struct array *a = c->arrays[i];
        if (a->alias)
            continue;
        if (!a->before)
            fill_words(o->before + o->at[i], CALL_POISON, o->bytes[i]);
        else if (a->element != ELEMENT_ADDRESS)
            memcpy(o->before + o->at[i], a->before, o->bytes[i]);
        for (size_t j = 0; a->element == ELEMENT_ADDRESS && j < a->count; j++) {
            struct array *const *to = a->before;
            const unsigned char *address = block + o->at[array_index(c, to[j])];
            memcpy(o->before + o->at[i] + j * sizeof address, &address, sizeof address);
        }
    }
}

static bool ensure_block(struct fault *f, struct runner *on, size_t size)
{
    if (size <= on->cap)
        return true;
    on->dev->memory->release(on->dev, on->block);
    on->block = NULL;
    on->cap = 0;
    void *block = NULL;
    if (on->dev->memory->alloc(on->dev, &block, size + size / 4) != 0)
        return fault_set(f, "no memory: %s", err_message());
    on->block = block;
    on->cap = size + size / 4;
    return true;
}

void runner_close(struct runner *r)
{
    if (r->dev)
        r->dev->memory->release(r->dev, r->block);
    device_free(&r->dev);
    r->block = NULL;
    r->cap = 0;
}

void outcome_free(struct outcome *o)
{
    free(o->before);
    free(o->after);
    free(o->at);
    free(o->bytes);
    memset(o, 0, sizeof *o);
}

// Makes the guards unreadable, where a sanitizer watches, or readable again.
static void close_guards(const struct runner *on, const struct call *c, const struct outcome *o,
                         bool closed)
{
#ifdef HAVE_ASAN
    if (!on->host)
        return;
    if (closed)
        ASAN_POISON_MEMORY_REGION(on->block, o->size);
    else
        ASAN_UNPOISON_MEMORY_REGION(on->block, o->size);
    for (int i = 0; closed && i < c->num_arrays; i++)
        ASAN_UNPOISON_MEMORY_REGION(on->block + o->at[i], o->bytes[i]);
#else
    (void)on, (void)c, (void)o, (void)closed;
#endif
}

// ---- running

// Packs the weights; o->before becomes what lies in memory then.
static bool pack_weights(struct fault *f, struct outcome *o, struct runner *on,
                         const struct call *c)
{
    bool any = false;
    for (int i = 0; i < c->num_arrays; i++) {
        const struct array *a = c->arrays[i];
        if (a->role != ROLE_PACKED)
            continue;
        any = true;
        const size_t n = (size_t)a->packed_n, k = (size_t)a->packed_k;
        const enum dtype type = a->source->element == ELEMENT_BF16 ? DTYPE_BF16 : DTYPE_F32;
        const struct pack_args args = {
            .b = on->block + o->at[array_index(c, a->source)],
            .ldb = n,
            .stride_b = n * k,
            .k = a->packed_k,
            .n = a->packed_n,
            .count = a->packed_count,
            .out = on->block + o->at[i],
            .b_type = type,
            .out_type = type,
        };
        if (on->dev->k->matmul_pack(on->dev, &args) != 0)
            return fault_set(f, "matmul_pack fails: %s", err_message());
    }
    if (any && (on->dev->memory->sync(on->dev) != 0 ||
                on->dev->memory->download(on->dev, o->before, on->block, o->size) != 0))
        return fault_set(f, "matmul_pack fails: %s", err_message());
    return true;
}

static void set_fields(const struct runner *on, const struct call *c, const struct outcome *o)
{
    for (int i = 0; i < c->num_arrays; i++) {
        const unsigned char *address = on->block + o->at[i];
        if (c->arrays[i]->field)
            memcpy(c->arrays[i]->field, &address, sizeof address);
    }
}

static bool place(struct fault *f, struct outcome *o, struct runner *on, struct call *c, int skew)
{
    memset(o, 0, sizeof *o);
    lay_out(o, c, on->dev, skew);
    if (!ensure_block(f, on, o->size))
        return false;
    fill_image(o, c, on->block);
    if (on->dev->memory->upload(on->dev, on->block, o->before, o->size) != 0)
        return fault_set(f, "upload fails: %s", err_message());
    if (!pack_weights(f, o, on, c))
        return false;
    set_fields(on, c, o);
    return true;
}

// Copies the elements of an output, padding excluded.
static void copy_elements(const struct array *a, unsigned char *to, const unsigned char *from)
{
    const struct span *s = &a->span;
    for (size_t r = 0; a->count > 0 && r < s->rows; r++)
        for (size_t p = 0; p < s->parts; p++) {
            const size_t at = (r * s->row_stride + p * s->part_stride) * a->size;
            memcpy(to + at, from + at, s->cols * a->size);
        }
}

// Bytes from an array to the byte at `at`: negative before it, 0 in it.
static ptrdiff_t distance(const struct outcome *o, int i, size_t at)
{
    if (at < o->at[i])
        return (ptrdiff_t)at - (ptrdiff_t)o->at[i];
    return at < o->at[i] + o->bytes[i] ? 0 : (ptrdiff_t)(at - o->at[i] - o->bytes[i]) + 1;
}

static bool name_change(struct fault *f, const struct call *c, const struct outcome *o, size_t at)
{
    int nearest = 0;
    for (int i = 1; i < c->num_arrays; i++)
        if (labs(distance(o, i, at)) < labs(distance(o, nearest, at)))
            nearest = i;
    const struct array *a = c->arrays[nearest];
    const ptrdiff_t d = distance(o, nearest, at);
    if (d == 0)
        return fault_set(f, "the %s %s changed at byte %zu",
                         array_is_output(a) ? "padding of" : "input", a->name, at - o->at[nearest]);
    return fault_set(f, "byte %td %s %s was written", d < 0 ? -d : d,
                     d < 0 ? "before" : "past the end of", a->name);
}

// Everything but the outputs' elements is as it was.
static bool check_untouched(struct fault *f, const struct call *c, const struct outcome *o)
{
    unsigned char *seen = mem_alloc(o->size);
    memcpy(seen, o->after, o->size);
    for (int i = 0; i < c->num_arrays; i++) {
        const struct array *a = c->arrays[i];
        if (a->role == ROLE_OPAQUE)
            memcpy(seen + o->at[i], o->before + o->at[i], o->bytes[i]);
        else if (array_is_output(a))
            copy_elements(a, seen + o->at[i], o->before + o->at[i]);
    }
    bool same = memcmp(seen, o->before, o->size) == 0;
    for (size_t i = 0; !same && i < o->size; i++)
        if (seen[i] != o->before[i]) {
            name_change(f, c, o, i);
            break;
        }
    free(seen);
    return same;
}

static bool check_twins(struct fault *f, const struct call *c, const struct outcome *o)
{
    for (int i = 0; i < c->num_arrays; i++) {
        const struct array *a = c->arrays[i];
        if (a->twin && memcmp(o->after + o->at[i], o->after + o->at[array_index(c, a->twin)],
                              o->bytes[i]) != 0)
            return fault_set(f, "%s does not have the bits of %s", a->name, a->twin->name);
    }
    return true;
}

bool call_run(struct fault *f, struct outcome *out, struct runner *on, struct call *c, call_fn *run,
              int skew)
{
    if (!place(f, out, on, c, skew))
        return false;
    close_guards(on, c, out, true);
    int rc = run(on->dev, c->args);
    rc = rc == 0 ? on->dev->memory->sync(on->dev) : rc;
    close_guards(on, c, out, false);
    if (rc != 0)
        return fault_set(f, "the call fails with %d: %s", rc, err_message());
    if (on->dev->memory->download(on->dev, out->after, on->block, out->size) != 0)
        return fault_set(f, "download fails: %s", err_message());
    return check_untouched(f, c, out) && check_twins(f, c, out);
}

// Seconds of a call among `calls` that follow each other.
static bool time_calls(struct fault *f, double *seconds, struct runner *on, struct call *c,
                       call_fn *run, int calls)
{
    const double start = log_clock();
    int rc = 0;
    for (int i = 0; i < calls && rc == 0; i++)
        rc = run(on->dev, c->args);
    rc = rc == 0 ? on->dev->memory->sync(on->dev) : rc;
    *seconds = (log_clock() - start) / calls;
    return rc == 0 || fault_set(f, "the call fails with %d: %s", rc, err_message());
}

bool call_time(struct fault *f, double *seconds, struct runner *on, struct call *c, call_fn *run)
{
    enum { ROUNDS = 7 };
    const double round_seconds = 0.03;
    struct outcome o;
    double once = 0.0;
    bool ok = place(f, &o, on, c, 0) && time_calls(f, &once, on, c, run, 2);
    const int calls = once < round_seconds / 1000 ? 1000 : (int)(round_seconds / once) + 1;
    *seconds = once;
    for (int i = 0; i < ROUNDS && ok; i++) {
        ok = time_calls(f, &once, on, c, run, calls);
        *seconds = once < *seconds ? once : *seconds;
    }
    outcome_free(&o);
    return ok;
}
