// SPDX-License-Identifier: Apache-2.0
// Reads the members of a config.json object. Faults are collected, one line each, and the reader
// goes on with a value in range, so that all faults of an object come out in one message. Internal
// to policy/.
#ifndef POLICY_ARCH_READER_H
#define POLICY_ARCH_READER_H

#include "policy/arch.h"

struct reader {
    const struct json_doc *doc;
    const struct json *v; // the object
    const char *name;
    struct strbuf faults;
    int num_faults;
};

// at NULL: the object itself.
void reader_fault(struct reader *r, const struct json *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// "key" is VALUE, expected WHAT
void reader_fault_value(struct reader *r, const struct json *v, const char *key, const char *what);

// The member, or NULL when it is absent or null.
const struct json *reader_member(const struct json *object, const char *key);

#define READER_REQUIRED INT32_MIN
enum { READER_WIDE = 1 << 20 }; // no width is larger

// value_if_absent READER_REQUIRED: absence is a fault.
int reader_int(struct reader *r, const struct json *object, const char *key, int lo, int hi,
               int value_if_absent);
// A real in [lo, hi]; value_if_absent NAN: absence is a fault.
double reader_real(struct reader *r, const struct json *object, const char *key, double lo,
                   double hi, double value_if_absent);
bool reader_bool(struct reader *r, const struct json *object, const char *key,
                 bool value_if_absent);

// The key, when given, must hold this: what the code computes.
void reader_expect_string(struct reader *r, const char *key, const char *text);
void reader_expect_false(struct reader *r, const char *key);

// ---- the parts of an architecture that have files of their own

// Positions: arch_rope.c.
void reader_rope(struct reader *r, struct arch *a);
// FFNs and mixtures of experts: arch_mixture.c.
void reader_mixture(struct reader *r, struct arch *a);

#endif
