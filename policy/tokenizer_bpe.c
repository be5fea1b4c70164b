// SPDX-License-Identifier: Apache-2.0
#include "policy/tokenizer_bpe.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

// Pieces of up to this many bytes are merged by scanning for the best pair, longer ones with a
// heap.
#define SHORT_MAX 48
#define NO_RANK   UINT32_MAX

void token_list_add(struct token_list *l, int id)
{
    if (l->count == l->cap) {
        assert(l->cap <= INT_MAX / 2);
        l->cap = l->cap ? 2 * l->cap : 64;
        l->ids = mem_realloc(l->ids, (size_t)l->cap * sizeof(*l->ids));
    }
    l->ids[l->count++] = id;
}

void token_list_free(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

// FNV-1a, then a multiplication that spreads it over the high bits.
static size_t hash_bytes(const char *bytes, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (size_t)((h * 0x9e3779b97f4a7c15u) >> 32);
}

static size_t hash_pair(int left, int right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9e3779b97f4a7c15u;
    return (size_t)((key ^ key >> 29) * 0xbf58476d1ce4e5b9u >> 32);
}

// A power of two with at least half of it free.
static size_t table_size(int count)
{
    size_t size = 16;
    while (size < 2 * (size_t)count)
        size *= 2;
    return size;
}

void bpe_init(struct bpe *b, int size, int merges)
{
    *b = (struct bpe){.size = size};
    b->tokens = mem_array0((size_t)size, sizeof(*b->tokens));
    size_t slots = table_size(size), pairs = table_size(merges);
    b->slots = mem_alloc(slots * sizeof(*b->slots));
    b->slots_mask = slots - 1;
    memset(b->slots, -1, slots * sizeof(*b->slots));
    b->merges = mem_alloc(pairs * sizeof(*b->merges));
    b->merges_mask = pairs - 1;
    for (size_t i = 0; i < pairs; i++)
        b->merges[i].left = -1;
    memset(b->byte_ids, -1, sizeof(b->byte_ids));
}

void bpe_free(struct bpe *b)
{
    free(b->tokens);
    free(b->slots);
    free(b->merges);
    arena_free(&b->arena);
    *b = (struct bpe){0};
}

// The slot that holds these bytes, or the empty one where they belong.
static size_t find_slot(const struct bpe *b, const char *bytes, size_t len)
{
    size_t i = hash_bytes(bytes, len) & b->slots_mask;
    while (b->slots[i] >= 0) {
        const struct bpe_token *t = &b->tokens[b->slots[i]];
        if ((size_t)t->len == len && memcmp(t->bytes, bytes, len) == 0)
            break;
        i = (i + 1) & b->slots_mask;
    }
    return i;
}

void bpe_add_token(struct bpe *b, int id, const char *bytes, int len, bool mergeable)
{
    assert(id >= 0 && id < b->size && !b->tokens[id].bytes && (len > 0 || !mergeable));
    struct bpe_token *t = &b->tokens[id];
    t->bytes = arena_strndup(&b->arena, bytes, (size_t)len);
    t->len = len;
    t->mergeable = mergeable;
    if (!mergeable)
        return;
    size_t slot = find_slot(b, bytes, (size_t)len);
    assert(b->slots[slot] < 0);
    b->slots[slot] = id;
    if (len == 1)
        b->byte_ids[(unsigned char)bytes[0]] = id;
    if (len > b->len_max)
        b->len_max = len;
}

int bpe_find(const struct bpe *b, const char *bytes, size_t len)
{
    return len > (size_t)b->len_max ? -1 : b->slots[find_slot(b, bytes, len)];
}

static size_t find_merge(const struct bpe *b, int left, int right)
{
    size_t i = hash_pair(left, right) & b->merges_mask;
    while (b->merges[i].left >= 0 && (b->merges[i].left != left || b->merges[i].right != right))
        i = (i + 1) & b->merges_mask;
    return i;
}

void bpe_add_merge(struct bpe *b, int left, int right, uint32_t rank, int id)
{
    b->merges[find_merge(b, left, right)] = (struct bpe_merge){left, right, rank, id};
}

static uint32_t pair_rank(const struct bpe *b, int left, int right)
{
    const struct bpe_merge *m = &b->merges[find_merge(b, left, right)];
    return m->left < 0 ? NO_RANK : m->rank;
}

static void put_bytes(int *ids, const struct bpe *b, const char *piece, int len)
{
    for (int i = 0; i < len; i++) {
        ids[i] = b->byte_ids[(unsigned char)piece[i]];
        assert(ids[i] >= 0);
    }
}

// Merges the best pair (lowest rank, then leftmost) until no pair has a merge; ids end up in front.
// Returns their number.
static int merge_short(int *ids, const struct bpe *b, const char *piece, int len)
{
    uint32_t ranks[SHORT_MAX]; // of the pair (i, i + 1)
    int n = len;
    put_bytes(ids, b, piece, n);
    for (int i = 0; i + 1 < n; i++)
        ranks[i] = pair_rank(b, ids[i], ids[i + 1]);
    for (;;) {
        int best = -1;
        uint32_t rank = NO_RANK;
        for (int i = 0; i + 1 < n; i++)
            if (ranks[i] < rank)
                rank = ranks[best = i];
        if (best < 0)
            return n;
        ids[best] = b->merges[find_merge(b, ids[best], ids[best + 1])].id;
        n--;
        for (int i = best + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            ranks[i] = ranks[i + 1];
        }
        if (best + 1 < n)
            ranks[best] = pair_rank(b, ids[best], ids[best + 1]);
        if (best > 0)
            ranks[best - 1] = pair_rank(b, ids[best - 1], ids[best]);
    }
}

// The heap holds rank << 32 | position of the left token, so that its least entry is the pair to
// merge. Entries are not taken out when their pair goes: they are seen to be stale when their turn
// comes.
static void heap_push(struct bpe_scratch *s, uint64_t entry)
{
    if (s->heap_len == s->heap_cap) {
        s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 256;
        s->heap = mem_realloc(s->heap, s->heap_cap * sizeof(*s->heap));
    }
    size_t i = s->heap_len++;
    for (; i > 0 && s->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = entry;
}

static uint64_t heap_pop(struct bpe_scratch *s)
{
    uint64_t top = s->heap[0], last = s->heap[--s->heap_len];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < s->heap_len) {
        if (child + 1 < s->heap_len && s->heap[child + 1] < s->heap[child])
            child++;
        if (s->heap[child] >= last)
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    if (s->heap_len > 0)
        s->heap[i] = last;
    return top;
}

static void push_pair(struct bpe_scratch *s, const struct bpe *b, int left)
{
    uint32_t rank = pair_rank(b, s->ids[left], s->ids[s->next[left]]);
    if (rank != NO_RANK)
        heap_push(s, (uint64_t)rank << 32 | (uint32_t)left);
}

static void scratch_reserve(struct bpe_scratch *s, int len)
{
    if (len <= s->cap)
        return;
    s->cap = len;
    s->ids = mem_realloc(s->ids, (size_t)len * sizeof(int));
    s->next = mem_realloc(s->next, (size_t)len * sizeof(int));
    s->prev = mem_realloc(s->prev, (size_t)len * sizeof(int));
}

// The same result as merge_short in O(len log len). Tokens are a linked list; one that was merged
// into its left has the id -1.
static void merge_long(struct token_list *out, const struct bpe *b, struct bpe_scratch *s,
                       const char *piece, int len)
{
    scratch_reserve(s, len);
    put_bytes(s->ids, b, piece, len);
    for (int i = 0; i < len; i++) {
        s->prev[i] = i - 1;
        s->next[i] = i + 1 < len ? i + 1 : -1;
    }
    s->heap_len = 0;
    for (int i = 0; i + 1 < len; i++)
        push_pair(s, b, i);
    while (s->heap_len > 0) {
        uint64_t top = heap_pop(s);
        int left = (int)(uint32_t)top, right = s->next[left];
        if (s->ids[left] < 0 || right < 0)
            continue;
        const struct bpe_merge *m = &b->merges[find_merge(b, s->ids[left], s->ids[right])];
        if (m->left < 0 || m->rank != top >> 32)
            continue;
        s->ids[left] = m->id;
        s->ids[right] = -1;
        s->next[left] = s->next[right];
        if (s->next[left] >= 0) {
            s->prev[s->next[left]] = left;
            push_pair(s, b, left);
        }
        if (s->prev[left] >= 0)
            push_pair(s, b, s->prev[left]);
    }
    for (int i = 0; i >= 0; i = s->next[i])
        token_list_add(out, s->ids[i]);
}

void bpe_encode(struct token_list *out, const struct bpe *b, struct bpe_scratch *s,
                const char *piece, size_t len)
{
    int id = bpe_find(b, piece, len);
    if (id >= 0 && b->tokens[id].whole) {
        token_list_add(out, id);
    } else if (len <= SHORT_MAX) {
        int ids[SHORT_MAX];
        int n = merge_short(ids, b, piece, (int)len);
        for (int i = 0; i < n; i++)
            token_list_add(out, ids[i]);
    } else {
        merge_long(out, b, s, piece, (int)len);
    }
}

static bool has_all_bytes(const struct bpe *b, const struct bpe_token *t)
{
    for (int i = 0; i < t->len; i++)
        if (b->byte_ids[(unsigned char)t->bytes[i]] < 0)
            return false;
    return true;
}

void bpe_finish(struct bpe *b, bool ignore_merges)
{
    struct bpe_scratch scratch = {0};
    struct token_list list = {0};
    for (int id = 0; id < b->size; id++) {
        struct bpe_token *t = &b->tokens[id];
        if (!t->mergeable)
            continue;
        if (ignore_merges) {
            t->whole = true;
        } else if (has_all_bytes(b, t)) {
            list.count = 0;
            bpe_encode(&list, b, &scratch, t->bytes, (size_t)t->len);
            t->whole = list.count == 1 && list.ids[0] == id;
        }
    }
    token_list_free(&list);
    bpe_scratch_free(&scratch);
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->ids);
    free(s->next);
    free(s->prev);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}
