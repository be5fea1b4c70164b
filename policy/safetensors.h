// SPDX-License-Identifier: Apache-2.0
// Tensor files: 8 bytes of header length, a JSON header, then the tensors' bytes without hole,
// overlap or tail (the safetensors format). The reader maps a file and checks all of it before
// anything is used; tensors are borrowed from the mapping and may stand at any alignment. The
// writer orders tensors as the format's own library does, so a file that it wrote and that is
// written again keeps its bytes.
#ifndef POLICY_SAFETENSORS_H
#define POLICY_SAFETENSORS_H

#include "base/file.h"
#include "base/mem.h"
#include "kernels/device.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TENSOR_RANK_MAX 8

enum tensor_dtype {
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_F8_E5M2,
    TENSOR_F8_E4M3,
    TENSOR_I16,
    TENSOR_U16,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_I32,
    TENSOR_U32,
    TENSOR_F32,
    TENSOR_F64,
    TENSOR_I64,
    TENSOR_U64
};

struct tensor {
    const char *name;
    enum tensor_dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK_MAX];
    const void *data; // little-endian, row-major
    size_t size;      // bytes
};

struct safetensors {
    struct file_map map; // empty when parsed from memory
    struct arena arena;
    struct tensor *tensors; // [count], by name
    int count;
    const char **metadata; // [2 * num_metadata]: key, value
    int num_metadata;
};

int safetensors_open(struct safetensors **out, const char *path, int code);
// The same from memory, which must outlive *out; name is what errors call it.
int safetensors_parse(struct safetensors **out, const uint8_t *data, size_t size, const char *name,
                      int code);
void safetensors_free(struct safetensors **s);
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);
const char *safetensors_metadata(const struct safetensors *s, const char *key); // NULL: absent

const char *tensor_dtype_name(enum tensor_dtype t);
size_t tensor_dtype_size(enum tensor_dtype t);
int64_t tensor_count(const struct tensor *t); // elements
// Elements as float32; false when the type is not F32, BF16, F16 or F8_E4M3.
bool tensor_to_floats(float *out, const struct tensor *t);

// Writes a file of F32 tensors whose names differ, by way of a temporary file beside it. metadata
// as above. dev: where the tensors' data lies; NULL: in host memory.
int safetensors_write(const char *path, struct device *dev, const struct tensor *tensors, int count,
                      const char *const *metadata, int num_metadata);

#endif
