// SPDX-License-Identifier: Apache-2.0
#include "policy/kvcache.h"

#include "base/error.h"
#include "base/mem.h"
#include "kernels/block.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

size_t kv_page_bytes(const struct arch *arch, enum dtype dtype)
{
    return arch_cache_width(arch) * KV_PAGE * dtype_size(dtype);
}

int kv_cache_open(struct kv_cache **out, struct device *dev, const struct arch *arch,
                  enum dtype dtype, int num_pages)
{
    assert(num_pages >= 0);
    size_t page = kv_page_bytes(arch, dtype), bytes;
    void *data = NULL;
    if (__builtin_mul_overflow(page, (size_t)num_pages, &bytes)) {
        return err_set(ERR_ENV, "there is no memory for a cache of %d pages of %zu bytes",
                       num_pages, page);
    }
    // Not cleared: rows are written before they are read, and pages that no run uses need not
    // become resident.
    int rc = dev->memory->alloc(dev, &data, bytes);
    if (rc) {
        return err_set(rc, "a cache of %d pages of %zu bytes: %s", num_pages, page, err_message());
    }
    struct kv_cache *c = mem_alloc0(sizeof *c);
    c->dev = dev;
    c->L = arch->L;
    c->width = (int)arch_row_width(arch);
    c->dtype = dtype;
    c->num_pages = num_pages;
    c->data = data;
    *out = c;
    return 0;
}

void kv_cache_free(struct kv_cache **c)
{
    if (c && *c) {
        device_release((*c)->dev, (*c)->data);
        free(*c);
        *c = NULL;
    }
}

void *kv_cache_block(const struct kv_cache *c, int page, int layer)
{
    assert(page >= 0 && page < c->num_pages && layer >= 0 && layer < c->L);
    const size_t row = ((size_t)page * c->L + layer) * KV_PAGE;
    return (char *)c->data + row * c->width * dtype_size(c->dtype);
}

size_t kv_cache_place(const struct kv_cache *c, int page, int at)
{
    assert(page >= 0 && page < c->num_pages && at >= 0 && at < KV_PAGE);
    return (size_t)page * c->L * KV_PAGE + (size_t)at;
}

int kv_cache_copy_page(struct kv_cache *c, int to, int from, int rows)
{
    assert(to != from && rows >= 0 && rows <= KV_PAGE);
    int rc = 0;
    for (int l = 0; l < c->L && rc == 0; l++) {
        rc = c->dev->memory->copy(c->dev, kv_cache_block(c, to, l), kv_cache_block(c, from, l),
                                  (size_t)rows * c->width * dtype_size(c->dtype));
    }
    return rc;
}
