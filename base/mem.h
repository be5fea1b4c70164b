// SPDX-License-Identifier: Apache-2.0
// Host memory: allocation that never returns NULL (the process ends with exit code 5 instead), and
// arenas: regions that are filled by pushing and emptied at once. An arena belongs to one thread.
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// size 0 gives a pointer that may be freed. Memory of mem_alloc0 and mem_array0 is zeroed. count *
// size may not overflow.
void *mem_alloc(size_t size);
void *mem_alloc0(size_t size);
void *mem_array0(size_t count, size_t size);
void *mem_realloc(void *p, size_t size);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t len); // always terminated

// 64-byte aligned memory for tensors, not initialised; freed by free().
void *mem_aligned(size_t size);
float *mem_floats(size_t count); // zeroed, 64-byte aligned

struct arena_block;
struct arena {
    struct arena_block *last;
    size_t block_size; // of the next block; 0: a default
};
struct arena_mark {
    struct arena_block *block;
    size_t used;
};

// Memory of the arena, aligned to 64 bytes, not initialised; arena_push0: zeroed. Valid until
// release past it or arena_free.
void *arena_push(struct arena *a, size_t size);
void *arena_push0(struct arena *a, size_t size);
char *arena_strndup(struct arena *a, const char *s, size_t len);
struct arena_mark arena_mark(const struct arena *a);
void arena_release(struct arena *a, struct arena_mark mark);
void arena_free(struct arena *a); // leaves a zeroed, usable arena

// n elements of type T, zeroed.
#define ARENA_ARRAY(a, T, n) ((T *)arena_push0((a), (size_t)(n) * sizeof(T)))

#ifdef __cplusplus
}
#endif

#endif
