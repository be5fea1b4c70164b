// SPDX-License-Identifier: Apache-2.0
// The forward pass of policy.h over the paged cache.
#include "policy/forward.h"

#include <assert.h>
#include <string.h>

// Chunk i, whose blocks start at `block`: blocks are pages, and new rows go to their ends. Returns
// the first block of the next chunk.
static int fill_chunk(struct policy_activations *s, const struct kv_cache *cache,
                      const struct policy_chunk *c, int i, int block)
{
    s->host.seqs[i] = (struct attention_seq){c->start, c->len, c->pos, block};
    for (int t = 0; t < c->len; t++) {
        int pos = c->pos + t;
        s->host.position[c->start + t] = pos;
        s->host.place[c->start + t] = kv_cache_place(cache, c->pages[pos / KV_PAGE], pos % KV_PAGE);
    }
    int pages = (c->pos + c->len + KV_PAGE - 1) / KV_PAGE;
    for (int l = 0; l < cache->L; l++) {
        const size_t first = (size_t)l * s->num_blocks + block;
        for (int j = 0; j < pages; j++) {
            s->host.kv_blocks[first + j] = kv_cache_block(cache, c->pages[j], l);
        }
    }
    return block + pages;
}

int policy_decode(struct policy *p, struct kv_cache *cache, int T, const int *tokens,
                  int num_chunks, const struct policy_chunk *chunks, int num_rows, const int *rows,
                  float *logits)
{
    assert(cache->L == p->arch.L && cache->width == p->arch.R + p->arch.Dr);
    assert(cache->dtype == p->dtype);
    int num_blocks = 0, longest = 0, covered = 0;
    for (int i = 0; i < num_chunks; i++) {
        int end = chunks[i].pos + chunks[i].len;
        num_blocks += (end + KV_PAGE - 1) / KV_PAGE;
        longest = end > longest ? end : longest;
        covered += chunks[i].len;
    }
    assert(covered == T);
    TRY(check_tokens(p, tokens, T));
    TRY(check_positions(p, longest));
    TRY(activations_begin(
        p, &(struct pass_shape){
               .T = T, .num_targets = num_rows, .num_seqs = num_chunks, .num_blocks = num_blocks}));
    struct policy_activations *s = p->acts;
    s->max_keys = longest;
    TRY(rope_table_grow(&s->rope, p->dev, &p->arch, longest));
    for (int i = 0, block = 0; i < num_chunks; i++) {
        block = fill_chunk(s, cache, &chunks[i], i, block);
    }
    if (T > 0) {
        memcpy(s->host.tokens, tokens, (size_t)T * sizeof *tokens);
    }
    if (num_rows > 0) {
        memcpy(s->host.target_row, rows, (size_t)num_rows * sizeof *rows);
    }
    TRY(activations_upload(p));
    TRY(forward_layers(p, cache));
    return product(p, &p->packed->head, TO_OUT,
                   (struct matmul_args){.a = s->hidden, .c = logits, .m = num_rows});
}
