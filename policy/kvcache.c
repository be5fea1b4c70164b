// SPDX-License-Identifier: Apache-2.0
#include "policy/kvcache.h"

#include "base/error.h"
#include "base/mem.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int kv_cache_open(struct kv_cache **out, const struct arch *arch, int num_pages)
{
    assert(num_pages >= 0);
    size_t page = arch_cache_floats(arch) * KV_PAGE * sizeof(float), bytes;
    float *data = NULL;
    // Asked for directly, not through base/mem.h: how many pages fit is a setting that the caller
    // can lower.
    if (__builtin_mul_overflow(page, (size_t)num_pages, &bytes) ||
        posix_memalign((void **)&data, 64, bytes ? bytes : 64)) {
        return err_set(ERR_ENV, "there is no memory for a cache of %d pages of %zu bytes",
                       num_pages, page);
    }
    struct kv_cache *c = mem_alloc0(sizeof *c);
    c->L = arch->L;
    c->width = arch->R + arch->Dr;
    c->num_pages = num_pages;
    c->data = data;
    *out = c;
    return 0;
}

void kv_cache_free(struct kv_cache **c)
{
    if (c && *c) {
        free((*c)->data);
        free(*c);
        *c = NULL;
    }
}

float *kv_cache_block(const struct kv_cache *c, int page, int layer)
{
    assert(page >= 0 && page < c->num_pages && layer >= 0 && layer < c->L);
    return c->data + ((size_t)page * c->L + layer) * KV_PAGE * c->width;
}

void kv_cache_copy_page(struct kv_cache *c, int to, int from, int rows)
{
    assert(to != from && rows >= 0 && rows <= KV_PAGE);
    for (int l = 0; l < c->L; l++) {
        memcpy(kv_cache_block(c, to, l), kv_cache_block(c, from, l),
               (size_t)rows * c->width * sizeof(float));
    }
}
