// SPDX-License-Identifier: Apache-2.0
// Assert source (HumanEval, MBPP) as calls. A test that runs beside the program can be cheated by
// an object that equals everything; a call whose result is compared out here cannot. The rewriting
// is done by a program of ours, in a box, once for every text; what cannot be rewritten runs beside
// the program and is marked weak.
#ifndef SANDBOX_ASSERTS_H
#define SANDBOX_ASSERTS_H

#include "sandbox/slot.h"
#include "sandbox/tests.h"

// The rewriting program, to be run on the text `check`. *room holds its strings until the program
// has been handed over.
struct asserts_room {
    struct strbuf entry, args;
};
void asserts_program(struct slot_program *out, struct asserts_room *room, const char *check,
                     size_t len);
void asserts_room_free(struct asserts_room *room);

// The tests that it wrote into its record pipe, or NULL: these asserts cannot be rewritten.
struct sandbox_tests *asserts_read(const struct strbuf *records);

// What is known of texts. The tests of a text live as long as the cache.
struct asserts_cache {
    void *root; // of a binary tree
};
// False when the text was never put; else *out holds its tests, or NULL.
bool asserts_cache_get(const struct asserts_cache *c, const struct strbuf *check,
                       const struct sandbox_tests **out);
void asserts_cache_put(struct asserts_cache *c, const struct strbuf *check,
                       struct sandbox_tests *tests); // owned by the cache then
void asserts_cache_free(struct asserts_cache *c);

#endif
