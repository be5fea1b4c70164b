// SPDX-License-Identifier: Apache-2.0
// The forward pass of policy.h over the paged cache.
#include "policy/forward.h"

#include <assert.h>
#include <string.h>

// Bounds of a step are rounded up to so many pages of each sequence.
enum { STEP_PAGES = 8 };

static int round_up(int n, int to) { return to > 0 ? (n + to - 1) / to * to : n; }

int policy_decode_blocks(int num_pages, int num_chunks)
{
    return round_up(num_pages, STEP_PAGES * num_chunks);
}

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

// What the kernels of a step depend on besides the model: sizes, and where things are.
struct step_key {
    int T, num_rows, num_chunks, num_blocks, max_keys;
    const void *block, *inputs, *pages, *cos, *sin, *packed, *logits;
};

struct step {
    struct policy *p;
    const struct kv_cache *cache;
    int num_rows;
    float *logits;
};

static int launch_step(void *arg)
{
    const struct step *step = arg;
    struct policy *p = step->p;
    TRY(forward_layers(p, step->cache));
    return product(
        p, &p->packed->head, TO_OUT,
        (struct matmul_args){.a = p->acts->hidden, .c = step->logits, .m = step->num_rows});
}

static int run_step(struct step *step)
{
    const struct policy *p = step->p;
    struct policy_activations *s = p->acts;
    struct step_key key;
    memset(&key, 0, sizeof key); // padding is compared as well
    key.T = s->T;
    key.num_rows = step->num_rows;
    key.num_chunks = s->num_seqs;
    key.num_blocks = s->num_blocks;
    key.max_keys = s->max_keys;
    key.block = s->block.data;
    key.inputs = s->inputs.data;
    key.pages = step->cache->data;
    key.cos = s->rope.cos;
    key.sin = s->rope.sin;
    key.packed = p->packed->block;
    key.logits = step->logits;
    if (!s->steps) {
        s->steps = replay_open(p->dev);
    }
    return replay_run(s->steps, &key, sizeof key, launch_step, step);
}

int policy_decode(struct policy *p, struct kv_cache *cache, int T, const int *tokens,
                  int num_chunks, const struct policy_chunk *chunks, int num_rows, const int *rows,
                  float *logits)
{
    assert(cache->L == p->arch.L && cache->width == (int)arch_row_width(&p->arch));
    assert(cache->dtype == p->dtype);
    int num_blocks = 0, longest = 0, covered = 0;
    for (int i = 0; i < num_chunks; i++) {
        int end = chunks[i].pos + chunks[i].len;
        num_blocks += (end + KV_PAGE - 1) / KV_PAGE;
        longest = end > longest ? end : longest;
        covered += chunks[i].len;
    }
    assert(covered == T);
    num_blocks = policy_decode_blocks(num_blocks, num_chunks);
    const int max_keys = round_up(longest, STEP_PAGES * KV_PAGE);
    TRY(check_tokens(p, tokens, T));
    TRY(check_positions(p, longest));
    TRY(activations_begin(
        p, &(struct policy_pass){
               .T = T, .num_targets = num_rows, .num_seqs = num_chunks, .num_blocks = num_blocks}));
    struct policy_activations *s = p->acts;
    s->max_keys = max_keys;
    TRY(rope_table_grow(&s->rope, p->dev, &p->arch, longest));
    int block = 0;
    for (int i = 0; i < num_chunks; i++) {
        block = fill_chunk(s, cache, &chunks[i], i, block);
    }
    for (int l = 0; l < cache->L; l++) {
        for (int j = block; j < num_blocks; j++) {
            s->host.kv_blocks[(size_t)l * num_blocks + j] = NULL;
        }
    }
    if (T > 0) {
        memcpy(s->host.tokens, tokens, (size_t)T * sizeof *tokens);
    }
    if (num_rows > 0) {
        memcpy(s->host.target_row, rows, (size_t)num_rows * sizeof *rows);
    }
    TRY(activations_upload(p));
    return run_step(&(struct step){p, cache, num_rows, logits});
}
