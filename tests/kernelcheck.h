// SPDX-License-Identifier: Apache-2.0
// The harness of the kernel table, see kernelcheck.c. A slot's builder describes one call: its
// argument struct, and every array behind a pointer of it with contents, shape and role. The frame
// (kernelcheck_call.c) lays the arrays out in a device's memory, makes the call and looks at what
// came of it, in the same way for every slot and device.
#ifndef TESTS_KERNELCHECK_H
#define TESTS_KERNELCHECK_H

#include "base/mem.h"
#include "kernels/device.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- arrays

enum element {
    ELEMENT_F32,
    ELEMENT_F64,
    ELEMENT_I32,
    ELEMENT_BOOL,
    ELEMENT_BF16,
    ELEMENT_BYTES,
    ELEMENT_ADDRESS
};

// OPAQUE: written, but of a layout that belongs to the device. PACKED: an input that matmul_pack
// makes of `source` before the call.
enum role { ROLE_IN, ROLE_OUT, ROLE_INOUT, ROLE_OPAQUE, ROLE_PACKED };

// Element (r, p, c) lies at r row_stride + p part_stride + c; what lies between is padding.
struct span {
    size_t rows, row_stride, parts, part_stride, cols;
};

struct array {
    char name[24];
    enum element element;
    enum role role;
    struct span span;
    size_t size, count;  // bytes of an element; elements with padding
    void *before;        // [count] contents before the call; ADDRESS: struct array * to point to
    float *values;       // [count] of a BF16 input
    double *scale;       // [count] what the error of an element is measured by; NULL: |expected|
    const int *row;      // [span.rows] identity of each row, negative: none; or NULL
    double unit;         // what the tolerance counts, relative to the scale; 0: the element's own
    bool exact;          // equal to the reference, or both NaN
    struct array *alias; // output in the memory of that input
    struct array *twin;  // output that has the same bits
    struct array *source;
    int packed_k, packed_n, packed_count; // PACKED and OPAQUE: matrices
    void *field;                          // the pointer of the argument struct, or NULL
};

static inline struct span span_flat(size_t n) { return (struct span){1, n, 1, n, n}; }
static inline struct span span_rows(size_t rows, size_t ld, size_t cols)
{
    return (struct span){rows, ld, 1, cols, cols};
}

// ---- calls

struct call {
    uint64_t seed;            // of values
    uint64_t nonce;           // of what may differ between calls on the same rows; 0: the first
    bool scales;              // array.scale is wanted
    int special;              // one value in so many is NaN, an infinity or a zero; 0: none
    struct device *reference; // for builders that need to know its choice
    struct arena memory;      // of everything below
    struct array **arrays;
    int num_arrays, cap_arrays;
    void *args;
    char text[160];      // the shape, for messages
    double flops, bytes; // work of one call, for --bench: one of them
    bool bf16;           // flops are of products of bfloat16
};

// The rows of a batch by identity: the values of a row depend on its identity alone.
struct rows {
    const int *id;
    int n;
};

void *call_args(struct call *c, size_t bytes); // zeroed
void call_text(struct call *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// `field`: address of the pointer in the argument struct that the array is for; row: identities of
// its rows, or NULL. Inputs are filled with numbers in +-1.75, of variance 1, times spread.
struct array *call_in(struct call *c, const void *field, const char *name, struct span span,
                      const int *row, double spread);
// The same numbers in that type: F32, or rounded to BF16.
struct array *call_in_as(struct call *c, const void *field, const char *name, enum element element,
                         struct span span, const int *row, double spread);
struct array *call_inout(struct call *c, const void *field, const char *name, struct span span,
                         const int *row);
struct array *call_inout_as(struct call *c, const void *field, const char *name,
                            enum element element, struct span span, const int *row);
struct array *call_out(struct call *c, const void *field, const char *name, enum element element,
                       struct span span, const int *row);
struct array *call_data(struct call *c, const void *field, const char *name, enum element element,
                        size_t size, size_t count); // ROLE_IN, zeroed; the caller fills it
// Weights [k,n] of `count` matrices in packed form; returns the dense ones they are made of.
struct array *call_packed(struct call *c, const void *field, const char *name, int k, int n,
                          int count, double spread);
struct array *call_packed_as(struct call *c, const void *field, const char *name,
                             enum element element, int k, int n, int count, double spread);
struct array *call_opaque(struct call *c, const void *field, const char *name, int k, int n,
                          int count);
double *call_scale(struct call *c, struct array *a); // zeroed, [count]

// A number of [0, n) that belongs to `name` and `id`.
uint32_t call_random(const struct call *c, const char *name, int id, uint32_t n);

// Of a BF16 input: its numbers, which are not what the call reads.
static inline float *array_floats(const struct array *a)
{
    return a->values ? a->values : a->before;
}
static inline int *array_ints(const struct array *a) { return a->before; }
bool array_is_output(const struct array *a);
#define CALL_POISON 0xffc0deadu // what outputs hold before a call, again and again

void call_free(struct call *c);

// ---- running a call on a device

// A device with memory for the arrays of a call.
struct runner {
    struct device *dev;
    bool host; // its memory is the host's
    unsigned char *block;
    size_t cap;
};

// What lies in memory after a call, guards included.
struct outcome {
    unsigned char *before, *after; // [size]
    size_t *at;                    // [num_arrays] offsets
    size_t *bytes;                 // [num_arrays]
    size_t size;
};

struct fault {
    char text[512]; // empty: none
};

// Sets the text; returns false.
bool fault_set(struct fault *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

typedef int call_fn(struct device *dev, const void *args);

// Runs the call on arrays that begin `skew` floats past a multiple of 64 bytes. Faults: a call that
// fails, guards or inputs or padding that changed, twins that differ.
bool call_run(struct fault *f, struct outcome *out, struct runner *on, struct call *c, call_fn *run,
              int skew);
void outcome_free(struct outcome *o);
void runner_close(struct runner *r);

// Calls repeatedly; seconds of one call when nothing disturbs it.
bool call_time(struct fault *f, double *seconds, struct runner *on, struct call *c, call_fn *run);

// Outputs against those of the reference: tolerance in units of 2^-24 (float64: 2^-53, bfloat16:
// 2^-8, or the array's own unit) of an element's scale. *worst grows to the largest share of the
// tolerance that was needed.
bool outcome_compare(struct fault *f, const struct call *c, const struct outcome *got,
                     const struct outcome *expected, double tolerance, double *worst);
bool outcome_same_bits(struct fault *f, const struct call *c, const struct outcome *got,
                       const struct outcome *expected);
// Rows of got have the bits that the rows of the same identity have in expected, of the call base.
bool outcome_same_rows(struct fault *f, const struct call *c, const struct outcome *got,
                       const struct call *base, const struct outcome *expected);
bool call_has_rows(const struct call *c); // outputs whose rows have identities

// ---- slots

struct slot {
    const char *name;
    void (*build)(struct call *c, const void *shape, const struct rows *rows);
    call_fn *run;
    call_fn *time;                  // what --bench times instead of run, or NULL
    int (*rows)(const void *shape); // rows of a batch; NULL: the operation has no rows
    const void *shapes;
    size_t shape_size;
    int num_shapes;
    struct {
        const void *shapes;
        int count;
    } bench[2]; // shapes to time: of a CPU, of a GPU
    double tolerance;
    const char *reason; // of the tolerance
};

struct slots {
    const struct slot *list;
    int count;
};

extern const struct slots slots_matmul, slots_token, slots_attention, slots_heads, slots_moe,
    slots_logprob, slots_optimiser;

// What is checked: one device, opened once for each number of threads it is tried with.
enum { MAX_THREADS = 4 };
struct subject {
    struct runner runners[MAX_THREADS];
    int num_runners;    // 0: none, not checked
    struct fault fault; // the first one of the last slot
    double worst;       // the largest share of the tolerance that was needed
};

// All shapes of a slot on each of the subjects.
void slot_check(const struct slot *slot, struct subject *subjects, int count,
                struct runner *reference, uint64_t seed);
// The call of one shape, whole, for --bench.
void slot_build_whole(struct call *c, const struct slot *slot, const void *shape,
                      struct runner *reference, uint64_t seed);

#define SLOT_SHAPES(table, cpu, gpu)                                                               \
    .shapes = (table), .shape_size = sizeof *(table),                                              \
    .num_shapes = sizeof(table) / sizeof *(table),                                                 \
    .bench = {{(cpu), sizeof(cpu) / sizeof *(cpu)}, {(gpu), sizeof(gpu) / sizeof *(gpu)}}

// The call of a slot, given its own argument struct.
#define SLOT_CALL(slot, type)                                                                      \
    static int run_##slot(struct device *dev, const void *args)                                    \
    {                                                                                              \
        return dev->k->slot(dev, (const struct type *)args);                                       \
    }

#endif
