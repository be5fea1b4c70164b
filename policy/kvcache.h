// SPDX-License-Identifier: Apache-2.0
// The paged cache of latent rows: per token and layer R + Dr floats, in pages of KV_PAGE tokens. It
// is storage only; who owns which page, sharing and eviction are rollout's.
#ifndef POLICY_KVCACHE_H
#define POLICY_KVCACHE_H

#include "kernels/kernels.h"
#include "policy/arch.h"

#define KV_PAGE ATTENTION_BLOCK

struct kv_cache {
    int L, width, num_pages; // width = R + Dr
    float *data;             // [num_pages,L,KV_PAGE,width]
};

int kv_cache_open(struct kv_cache **out, const struct arch *arch,
                  int num_pages); // ERR_ENV names the bytes when there is not the memory
void kv_cache_free(struct kv_cache **c);
float *kv_cache_block(const struct kv_cache *c, int page, int layer); // [KV_PAGE,width]
// Copies the first `rows` rows of every layer of one page into another (copy on write of a partly
// filled page).
void kv_cache_copy_page(struct kv_cache *c, int to, int from, int rows);

#endif
