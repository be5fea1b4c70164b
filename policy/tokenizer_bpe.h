// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece of text (Sennrich et al., arXiv:1508.07909, over bytes as GPT-2
// does it): the vocabulary by its bytes, and the ranked merges. Filled once, then immutable; a
// scratch belongs to one thread.
#ifndef POLICY_TOKENIZER_BPE_H
#define POLICY_TOKENIZER_BPE_H

#include "base/mem.h"
#include "policy/tokenizer.h"
#include <stdint.h>

struct bpe_token {
    const char *bytes; // NULL: no token has this id
    int len;
    bool mergeable; // of the model's vocabulary and spelled in the byte-level alphabet: a piece can
                    // become it
    bool whole;     // a piece of exactly these bytes becomes this one token
    bool special;
};

struct bpe_merge {
    int left, right; // left -1: an empty slot
    uint32_t rank;
    int id;
};

struct bpe {
    struct arena arena;       // the tokens' bytes
    struct bpe_token *tokens; // (size)
    int size, len_max;
    int *slots; // ids of the mergeable tokens, hashed by their bytes; -1: empty
    size_t slots_mask;
    struct bpe_merge *merges; // hashed by the pair
    size_t merges_mask;
    int byte_ids[256]; // -1 for bytes that have no token; those never occur in UTF-8
};

// Tables for ids below size and up to so many merges.
void bpe_init(struct bpe *b, int size, int merges);
void bpe_free(struct bpe *b);

// The bytes are copied. A mergeable token has some, and they are not in the vocabulary yet.
void bpe_add_token(struct bpe *b, int id, const char *bytes, int len, bool mergeable);
int bpe_find(const struct bpe *b, const char *bytes, size_t len); // a mergeable token; -1: none
// A pair that is given twice keeps the later rank. Adds no more pairs than were announced.
void bpe_add_merge(struct bpe *b, int left, int right, uint32_t rank, int id);
// After the last merge. ignore_merges: a piece that is in the vocabulary is that token, whatever
// the merges say.
void bpe_finish(struct bpe *b, bool ignore_merges);

// A zeroed struct is ready for use.
struct bpe_scratch {
    int *ids, *next, *prev; // (cap)
    uint64_t *heap;
    size_t heap_len, heap_cap;
    int cap;
};
void bpe_scratch_free(struct bpe_scratch *s);

// Appends the tokens of one piece. len <= INT_MAX; every byte has a token.
void bpe_encode(struct token_list *out, const struct bpe *b, struct bpe_scratch *s,
                const char *piece, size_t len);

#endif
