// SPDX-License-Identifier: Apache-2.0
// Input: a tensor file. Whatever it is, a file that is accepted has its tensors inside it, side by
// side, and widens to floats.
#include "base/error.h"
#include "policy/safetensors.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s = NULL;
    if (safetensors_parse(&s, data, size, "input", ERR_MODEL)) {
        check(s == NULL);
        return 0;
    }
    size_t sum = 0;
    for (int i = 0; i < s->count; i++) {
        const struct tensor *t = &s->tensors[i];
        const uint8_t *bytes = t->data;
        check(bytes >= data + 8 && bytes + t->size <= data + size);
        check(t->size == (size_t)tensor_count(t) * tensor_dtype_size(t->dtype));
        check(safetensors_find(s, t->name) == t);
        float *out = mem_floats((size_t)tensor_count(t));
        tensor_to_floats(out, t);
        free(out);
        sum += t->size;
    }
    check(sum <= size - 8);
    safetensors_free(&s);
    return 0;
}
