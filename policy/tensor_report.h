// SPDX-License-Identifier: Apache-2.0
// What is wrong with the tensors of a file, as one list: faults that differ in numbers of layers
// and experts alone are told once. Internal to policy/.
#ifndef POLICY_TENSOR_REPORT_H
#define POLICY_TENSOR_REPORT_H

#include "policy/safetensors.h"

struct tensor_fault;
struct tensor_report { // zeroed: nothing is wrong
    struct tensor_fault *faults;
    int count;
};

// name: of the tensor, or of whatever else is wrong.
void tensor_report_add(struct tensor_report *r, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Sets the message, the given words and the list, where there are faults (ERR_MODEL; else 0), and
// leaves the report empty.
int tensor_report_end(struct tensor_report *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

// "[2,3]"; returns buf.
const char *tensor_shape_text(char buf[64], int rank, const int64_t *shape);
bool tensor_has_shape(const struct tensor *t, int rank, const int64_t *shape);
bool tensor_is_float(const struct tensor *t); // F32, BF16 or F16
// How many of n values are NaN or Inf; *first is the index of the first of them.
size_t tensor_nonfinite(const float *x, size_t n, size_t *first);

#endif
