// SPDX-License-Identifier: Apache-2.0
#include "kernels/block.h"

#include "base/error.h"

int device_block_reserve(struct device_block *b, struct device *dev, size_t bytes)
{
    if (b->dev == dev && bytes <= b->bytes)
        return 0;
    const size_t grown = b->bytes + b->bytes / 4, size = bytes > grown ? bytes : grown;
    void *data = NULL;
    device_block_free(b);
    const int rc = dev->memory->alloc(dev, &data, size);
    if (rc == 0)
        *b = (struct device_block){dev, data, size};
    return rc;
}

void device_block_free(struct device_block *b)
{
    if (b->dev)
        device_release(b->dev, b->data);
    *b = (struct device_block){0};
}

int device_alloc_zero(struct device *dev, void **out, size_t bytes)
{
    void *p = NULL;
    int rc = dev->memory->alloc(dev, &p, bytes);
    if (rc != 0)
        return rc;
    rc = dev->memory->zero(dev, p, bytes);
    if (rc != 0) {
        dev->memory->release(dev, p);
        return rc;
    }
    *out = p;
    return 0;
}

int device_alloc_floats(struct device *dev, float **out, size_t count)
{
    size_t bytes;
    void *p = NULL;
    if (__builtin_mul_overflow(count, sizeof(float), &bytes))
        return err_set(ERR_ENV, "there is no memory for %zu floats", count);
    const int rc = device_alloc_zero(dev, &p, bytes);
    if (rc == 0)
        *out = p;
    return rc;
}

void device_release(struct device *dev, void *p)
{
    if (p)
        dev->memory->release(dev, p);
}
