// SPDX-License-Identifier: Apache-2.0
// The paged cache of rows: per token and layer arch_row_width elements, in pages of KV_PAGE tokens.
// It is storage only; who owns which page, sharing and eviction are rollout's.
#ifndef POLICY_KVCACHE_H
#define POLICY_KVCACHE_H

#include "kernels/device.h"
#include "policy/arch.h"

#define KV_PAGE ATTENTION_BLOCK

struct kv_cache {
    struct device *dev;      // borrowed
    int L, width, num_pages; // width = arch_row_width
    enum dtype dtype;        // of the rows: that of the policy which fills them
    void *data;              // [num_pages,L,KV_PAGE,width] in the memory of dev
};

// Bytes of a page of a model of that architecture and type.
size_t kv_page_bytes(const struct arch *arch, enum dtype dtype);

// ERR_ENV names the bytes when there is not the memory.
int kv_cache_open(struct kv_cache **out, struct device *dev, const struct arch *arch,
                  enum dtype dtype, int num_pages);
void kv_cache_free(struct kv_cache **c);
void *kv_cache_block(const struct kv_cache *c, int page, int layer); // [KV_PAGE,width]
// Row of block 0 of a layer at which the row `at` of the layer's block of that page stands.
size_t kv_cache_place(const struct kv_cache *c, int page, int at);
// Copies the first `rows` rows of every layer of one page into another (copy on write of a partly
// filled page).
int kv_cache_copy_page(struct kv_cache *c, int to, int from, int rows);

#endif
