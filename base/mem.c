// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"

#include "base/error.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT   64
#define ARENA_BLOCK ((size_t)64 << 10) // bytes of an arena's first block
#define ARENA_BLOCK_LARGEST                                                                        \
    ((size_t)1 << 30) // blocks double in size up to here; only what is used is resident

void *mem_alloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p)
        die_out_of_memory(size);
    return p;
}

void *mem_alloc0(size_t size) { return mem_array0(size, 1); }

void *mem_array0(size_t count, size_t size)
{
    const int empty = count == 0 || size == 0;
    void *p = empty ? calloc(1, 1) : calloc(count, size);
    size_t bytes;
    if (!p)
        die_out_of_memory(__builtin_mul_overflow(count, size, &bytes) ? ULONG_MAX : bytes);
    return p;
}

void *mem_realloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);
    if (!q)
        die_out_of_memory(size);
    return q;
}

char *mem_strdup(const char *s) { return mem_strndup(s, strlen(s)); }

char *mem_strndup(const char *s, size_t len)
{
    char *copy = mem_alloc(len + 1);
    if (len)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

void *mem_aligned(size_t size)
{
    if (size > SIZE_MAX - ALIGNMENT)
        die_out_of_memory(size);
    const size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *p = aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
    if (!p)
        die_out_of_memory(size);
    return p;
}

float *mem_floats(size_t count)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, sizeof(float), &bytes))
        die_out_of_memory(ULONG_MAX);
    float *p = mem_aligned(bytes);
    memset(p, 0, bytes);
    return p;
}

struct arena_block {
    struct arena_block *prev;
    size_t used, size; // bytes of data[]
    _Alignas(ALIGNMENT) unsigned char data[];
};

static struct arena_block *block_new(struct arena *a, size_t size)
{
    size_t room = a->block_size ? a->block_size : ARENA_BLOCK;
    a->block_size = room < ARENA_BLOCK_LARGEST ? 2 * room : room;
    if (room < size)
        room = size;
    if (room > SIZE_MAX - sizeof(struct arena_block))
        die_out_of_memory(size);
    struct arena_block *block = mem_aligned(sizeof *block + room);
    *block = (struct arena_block){.prev = a->last, .size = room};
    return block;
}

void *arena_push(struct arena *a, size_t size)
{
    if (size > SIZE_MAX - ALIGNMENT)
        die_out_of_memory(size);
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (!a->last || a->last->size - a->last->used < size)
        a->last = block_new(a, size);
    void *p = a->last->data + a->last->used;
    a->last->used += size;
    return p;
}

void *arena_push0(struct arena *a, size_t size)
{
    void *p = arena_push(a, size);
    memset(p, 0, size);
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t len)
{
    char *copy = arena_push(a, len + 1);
    if (len)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

struct arena_mark arena_mark(const struct arena *a)
{
    return (struct arena_mark){a->last, a->last ? a->last->used : 0};
}

// Of the blocks past the mark the largest stays, empty, so that a loop of mark, push and release
// stops allocating.
void arena_release(struct arena *a, struct arena_mark mark)
{
    struct arena_block *spare = NULL;
    while (a->last != mark.block) {
        struct arena_block *block = a->last;
        a->last = block->prev;
        if (spare && spare->size >= block->size) {
            free(block);
        } else {
            free(spare);
            spare = block;
        }
    }
    if (a->last)
        a->last->used = mark.used;
    if (spare) {
        spare->prev = a->last;
        spare->used = 0;
        a->last = spare;
    }
}

void arena_free(struct arena *a)
{
    while (a->last) {
        struct arena_block *block = a->last;
        a->last = block->prev;
        free(block);
    }
    *a = (struct arena){0};
}
